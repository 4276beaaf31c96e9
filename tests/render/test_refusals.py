"""Copier refuses a bad answer with the rule, and writes nothing. `test_rules.py` tests the rules themselves."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.template import QUESTIONS, copy

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"service_name": "My Service"}, "lower-case words joined by hyphens"),
    ({"service_name": "logging"}, "taken by Python, a library or tool"),
    ({"description": "a\n"}, "no spaces at the start or the end"),
    ({"pack": "off"}, "not a YAML word"),
    ({"workers": 17}, "at most 16: 128 MiB each, task has 2048"),
    ({"workers": 5, "cpu": 256}, "at most 4: 128 MiB each, task has 512"),
    ({"workers": "two"}, "invalid literal"),
    ({"aws_account_id": "1234"}, "12 digits, as in 123456789012"),
    ({"aws_region": "us-east-9"}, "a region with ECS"),
    ({"package_name": "my-service"}, "lower-case words joined by single underscores"),
    ({"port": 80}, "a whole number from 1024 to 65535; only root may open a lower port"),
    ({"port": 9092, "kafka": True}, "a port other than 9092: Kafka uses it"),
    ({"port": 5432, "database": "postgres"}, "a port other than 5432: PostgreSQL uses it"),
    ({"database": "mysql"}, "Invalid choice"),
    ({"worker": True}, "false: FSD runs one process of an image"),
    ({"health_path": "/docs"}, "the API documentation is there"),
    ({"min_tasks": 0}, "a whole number from 1 to 5000"),
    ({"max_tasks": 1}, "a whole number from 2 to 5000; min_tasks is 2"),
    ({"system_packages": "jq; id"}, "names of Debian packages"),
    ({"build_packages": "GCC"}, "names of Debian packages"),
    ({"stop_timeout": 60}, "30 seconds: FSD has no setting for it"),
    ({"base_image": "python:3.14"}, "an image with registry and version"),
    ({"base_image": "ghcr.io/python"}, "an image with registry and version"),
    ({"final_image": "ghcr.io/a:1", "runtime": "minimal"}, "none with runtime=minimal"),
    ({"base_image_registry": "x\nRUN id"}, "a host name, with a path"),
    ({"uv_image_registry": "https://ghcr.io"}, "a host name, with a path"),
    ({"package_index_url": "https://aws:secret@packages.example.com/simple"}, "without a user or a password"),
    ({"python_version": "3.10"}, "Invalid choice"),
    ({"python_version": "3.15", "kafka": True}, "aiokafka has no wheel"),
    ({"kafka": True, "python_version": "3.15"}, "aiokafka has no wheel"),
    ({"cpu": 1000}, "Invalid choice"),
    ({"memory": 512}, "Invalid choice"),
    ({"deploy": "heroku"}, "Invalid choice"),
    ({"deploy": "cloudformation", "aws_region": "us-iso-east-1"}, "no tmpfs in this region"),
    ({"aws_region": "us-isob-east-1", "ci": "github"}, "GitHub cannot log in to AWS in this region"),
    ({"strategy": "linear"}, "Invalid choice"),
    ({"architecture": "riscv64"}, "Invalid choice"),
    ({"runtime": "alpine"}, "Invalid choice"),
    ({"log_retention_days": 2}, "Invalid choice"),
    ({"default_branch": "a b"}, "a branch: letters, digits"),
    ({"ci": "jenkins"}, "Invalid choice"),
]


@pytest.mark.parametrize(("answers", "rule"), REFUSED)
def test_a_bad_answer_is_refused_with_the_rule(plain: Path, tmp_path: Path, answers: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the rule is looked for in the unwrapped text
        copy(plain, tmp_path / "new", answers)
    assert rule in " ".join(str(refusal.value).split())
    assert not (tmp_path / "new").exists()


def test_every_question_with_a_rule_has_an_answer_that_is_refused() -> None:
    ruled = {name for name, spec in QUESTIONS.items() if spec.keys() & {"validator", "choices"}}
    assert ruled <= {next(iter(answers)) for answers, _ in REFUSED}
