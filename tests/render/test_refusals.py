"""A bad answer is refused with the rule, and nothing is written."""

from pathlib import Path
from typing import Any

import pytest

from tests.project import copy

NAME = "lower-case words"
RESERVED = "taken by Python or other software"
REFUSED: list[tuple[str, Any, str]] = [
    *[
        ("service_name", name, NAME)
        for name in (
            "",
            "My-Service",
            "my_service",
            "my service",
            "-my",
            "my-",
            "my--service",
            "1st",
            "../etc",
            "/etc",
            "my.service",
            '"my"',
            "my'",
            "{{ name }}",
            "{% raw %}",
            "$(id)",
            "`id`",
            "my;id",
            "my\n",
            "my-service\n",
            "mÿ",
            "ѕервис",
            "me‮",
        )
    ],
    ("service_name", "a", "2 to 40 characters"),
    ("service_name", "a" * 41, "2 to 40 characters"),
    *[
        ("service_name", name, RESERVED)
        for name in (
            "class",
            "logging",
            "fastapi",
            "async",
            "pydantic-core",
            "tests",
            "compose",
            "con",
            "lpt1",
            "yes",
            "null",
            "pluggy",
        )
    ],
    *[("package_name", name, NAME) for name in ("My", "my-service", "my__service", "_my", "my.service", "1st", "")],
    *[("package_name", name, RESERVED) for name in ("import", "json", "uvicorn")],
    *[("description", text, "1 to 100 characters") for text in ("", "a" * 101)],
    *[("description", text, "no space at either end") for text in (" ", " a", "a\n")],
    *[
        ("description", text, 'one line without " and without \\')
        for text in ("two\nlines", 'a "b"', "a\\b", "a\0", "‮a")
    ],
    *[("pack", name, NAME) for name in ("", "My-Pack", "@pack", "pack: x")],
    *[("pack", name, "2 to 40 characters") for name in ("p", "a" * 41)],
    *[("pack", name, "no word of YAML, such as yes or null") for name in ("no", "true")],
    *[
        ("aws_account_id", text, "12 digits")
        for text in (
            "",
            "12345678901",
            "1234567890123",
            "12345678901a",
            "１２３４５６７８９０１２",
            "١٢٣٤٥٦٧٨٩٠١٢",
            "123456789012\n",
            "1234-5678-9012",
        )
    ],
    *[
        ("aws_region", text, "a region with ECS")
        for text in ("", "us-east-9", "US-EAST-1", "us-east-1\n", "mars-north-1", "us-east-1a")
    ],
    *[("workers", number, "a whole number from 1 to 64") for number in (0, -1, 65)],
    ("workers", 17, "at most 16, as each needs 128 MiB"),
    ("workers", "two", "invalid literal"),
    ("cpu", 1000, "Invalid choice"),
    ("memory", 512, "Invalid choice"),
    ("python_version", "3.10", "Invalid choice"),
    ("deploy", "heroku", "Invalid choice"),
    ("architecture", "riscv64", "Invalid choice"),
    ("log_retention_days", 2, "Invalid choice"),
    *[("port", number, "a whole number from 1024 to 65535") for number in (0, 80, 1023, 65536)],
    *[
        ("health_path", text, "a path of letters")
        for text in ("health", "/", "/a b", "/a?b", '/a"', "/a/", "/../a", "/a\n", "/" + "a" * 100)
    ],
    *[("health_path", path, "the documentation is there") for path in ("/docs", "/redoc", "/docs/oauth2-redirect")],
    *[("min_tasks", number, "a whole number from 1 to 5000") for number in (0, 5001)],
    ("max_tasks", 1, "a whole number from 2 (min_tasks) to 5000"),
    *[
        ("trusted_proxies", text, "one IPv4 network")
        for text in ("*", "0.0.0.0/0", "10.0.0.0", "10.0.0.0/33", "256.0.0.0/8", "10.0.0.1/8", "::/0", "10.0.0.0/8,*")
    ],
    *[
        ("base_image_registry", text, "a registry's host name")
        for text in (
            "",
            "docker.io/library/",
            "https://docker.io",
            "a b",
            "x@y",
            "localhost:5000",
            "docker.io/Library",
            "x\nRUN id",
        )
    ],
    *[
        ("package_index_url", text, "an https address without a user or a password")
        for text in (
            "http://packages.example.com/simple",
            "packages.example.com/simple",
            "https://aws:secret@packages.example.com/simple",
            "https://packages.example.com/simple?a=b",
            'https://packages.example.com/"',
            "https://packages.example.com/simple\n",
        )
    ],
    ("uv_image_registry", "ghcr.io/astral-sh\n", "a registry's host name"),
]


@pytest.mark.parametrize(("question", "answer", "rule"), REFUSED)
def test_a_bad_answer_is_refused_with_the_rule(
    template: Path, tmp_path: Path, question: str, answer: object, rule: str
) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the rule is looked for in the unwrapped text
        copy(template, tmp_path / "new", {question: answer})
    assert rule in " ".join(str(refusal.value).split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        ({"kafka": True, "port": 9092}, "not 9092, which is Kafka's"),
        ({"kafka": True, "python_version": "3.15"}, "aiokafka has no wheel"),
    ],
)
def test_kafka_is_refused_where_it_cannot_be(
    template: Path, tmp_path: Path, answers: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        copy(template, tmp_path / "new", answers)
    assert not (tmp_path / "new").exists()
