"""Each rule accepts good answers and refuses bad ones; this calls the macros of extensions/rules.jinja directly."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.template import ROOT

Macro = Callable[..., str]

WORDS = "lower-case words joined by hyphens"
LENGTH = "2 to 40 characters"
TAKEN = "taken by Python, a library or tool"
BRANCH = "a branch: letters, digits, and . / - _ between them"
REGISTRY = "a host name, with a path if the registry has one, as in docker.io/library"
IMAGE = "an image with registry and version, as in docker.io/library/python:3.14-slim"
DIGEST = "sha256:" + "0a" * 32
INDEX = "an https address without a user or a password, as in https://packages.example.com/simple"
PACKAGE = "lower-case words joined by single underscores, at most 40 characters, as in my_service"
PATH = "a path of letters, digits, - and _, at most 100 characters, as in /health"
DOCUMENTATION = "a path other than /docs and /redoc: the API documentation is there"
PACKAGES = "names of Debian packages, one space between them, as in ffmpeg libpq5"
REGION = "a region with ECS, as in us-east-1"
ONE_LINE = 'one line without " and without \\'

NOT_WORDS = ["My-Service", "my_service", "my service", "-my", "my-", "my--service", "1st", "my.service", "", "my\n"]
NOT_WORDS += ["../etc", "/etc", '"my"', "my'", "{{ name }}", "{% raw %}", "$(id)", "`id`", "my;id", "@pack", "pack: x"]
NOT_WORDS += ["my-service\n", "mÿ", "ѕервис", "me\u202e"]

# What a rule says to each of these values; "" means that it accepts them.
SAYS: list[tuple[str, str, list[Any]]] = [
    ("name", "", ["ab", "a1", "my-service-2", "a" * 40]),
    ("name", WORDS, NOT_WORDS),
    ("name", LENGTH, ["a", "a" * 41]),
    ("service_name", "", ["my-service", "orders", "logging-2"]),
    ("service_name", WORDS, NOT_WORDS),
    ("service_name", TAKEN, ["class", "logging", "fastapi", "async", "pydantic-core", "tests", "con", "lpt1"]),
    ("service_name", TAKEN, ["compose", "yes", "null", "pluggy"]),
    ("package_name", "", ["a", "my_service_2", "a" * 40]),
    (
        "package_name",
        PACKAGE,
        ["My", "my-service", "my__service", "_my", "my_", "my.service", "1st", "", "a\n", "a" * 41],
    ),
    ("package_name", TAKEN, ["import", "json", "uvicorn", "tests"]),
    ("team", "", ["my-pack", "logging"]),
    ("team", WORDS, NOT_WORDS),
    ("team", LENGTH, ["p", "a" * 41]),
    ("team", "not a YAML word such as yes or null", ["no", "true", "null"]),
    ("sentence", "", ["a", "Takes orders.", "{% raw %} 'it' $(id) #", "\N{SNOWMAN}" * 100]),
    ("sentence", "1 to 100 characters", ["", "a" * 101]),
    ("sentence", "no spaces at the start or the end", [" ", " a", "a ", "a\n"]),
    ("sentence", ONE_LINE, ["two\nlines", 'a "b"', "a\\b", "a\0", "‮a"]),
    ("path", "", ["/health", "/a-_Z/9", "/documents", "/" + "a" * 99]),
    ("path", PATH, ["", "health", "/", "//", "/a b", "/a?b", '/a"', "/a/", "/../a", "/a\n", "/" + "a" * 100]),
    ("path", DOCUMENTATION, ["/docs", "/redoc", "/docs/oauth2-redirect"]),
    ("debian_packages", "", ["", "jq", "ffmpeg libpq5", "libstdc++6 g++-14 python3.13"]),
    (
        "debian_packages",
        PACKAGES,
        ["JQ", "a", " jq", "jq ", "jq  file", "jq,file", "jq\n", "jq; id", "-y", "--force-yes jq"],
    ),
    ("branch", "", ["main", "m", "trunk_2", "release/2.x", "a-b"]),
    ("branch", BRANCH, ["", "a b", "-a", "a/", "a//b", "main\n", "a..b", "*", '"', "a" * 101]),
    ("account_id", "", ["123456789012", "000000000000"]),
    ("account_id", "12 digits, as in 123456789012", ["", "12345678901", "1234567890123", "12345678901a"]),
    ("account_id", "12 digits, as in 123456789012", ["1234-5678-9012", "123456789012\n"]),
    ("account_id", "12 digits, as in 123456789012", ["１２３４５６７８９０１２", "١٢٣٤٥٦٧٨٩٠١٢"]),
    ("region", "", ["us-east-1", "cn-north-1", "us-gov-west-1"]),
    ("region", REGION, ["", "us-east-9", "US-EAST-1", "us-east-1\n", "mars-north-1", "us-east-1a"]),
    ("registry", "", ["docker.io/library", "a.b", "registry.example.com:5000/a/b-c_d.e"]),
    ("registry", REGISTRY, ["", "docker.io/library/", "https://docker.io", "a b", "x@y", "localhost:5000"]),
    ("registry", REGISTRY, ["docker.io/Library", "x\nRUN id", "ghcr.io/astral-sh\n"]),
    ("image", "", ["", "docker.io/library/python:3.14-slim", f"a.b:5000/c/d__e@{DIGEST}", f"a.b/c:V1.0@{DIGEST}"]),
    ("image", IMAGE, ["python:3.14", "docker.io/library/python", "localhost:5000/a:1", "a.b/c:d e", "a.b/C:1"]),
    ("image", IMAGE, ["a.b/c:1\nRUN id", "a.b/c@sha256:0", "https://a.b/c:1", "a.b/c:"]),
    ("index_url", "", ["", "https://a", "https://packages.example.com:8443/api/Python~3/simple/"]),
    ("index_url", INDEX, ["http://packages.example.com/simple", "packages.example.com/simple", "https://"]),
    ("index_url", INDEX, ["https://aws:secret@packages.example.com/simple", "https://packages.example.com/simple?a=b"]),
    ("index_url", INDEX, ['https://packages.example.com/"', "https://packages.example.com/simple\n"]),
]

# What a rule of several values says to them together.
SAYS_TO_ALL: list[tuple[str, str, tuple[Any, ...]]] = [
    *[("final_image", "", answers) for answers in (("", "minimal"), ("a.b/c:1", "slim"))],
    ("final_image", "none with runtime=minimal, which begins with an empty one", ("a.b/c:1", "minimal")),
    *[("deploy", "", answers) for answers in (("fsd", "us-iso-east-1"), ("cloudformation", "us-gov-west-1"))],
    ("deploy", "", ("ecs", "us-iso-east-1")),
    ("deploy", "fsd, ecs or none: no tmpfs in this region", ("cloudformation", "us-iso-east-1")),
    *[("region", "", answers) for answers in (("us-iso-east-1", "ecs"), ("us-gov-west-1", "cloudformation"))],
    ("region", "no aws-iso region by CloudFormation", ("us-iso-east-1", "cloudformation")),
    ("region", REGION, ("us-east-9", "cloudformation")),
    *[("ci", "", answers) for answers in (("github", "none", "us-iso-east-1"), ("github", "fsd", "cn-north-1"))],
    ("ci", "none: GitHub cannot log in to AWS in this region", ("github", "fsd", "us-isob-east-1")),
    *[("whole_number", "", (number, 1, 64)) for number in (1, 2, 64)],
    *[("whole_number", "a whole number from 1 to 64", (number, 1, 64)) for number in (-1, 0, 65)],
    ("whole_number", "a whole number from 1 to 64; the reason", (0, 1, 64, "; the reason")),
    ("max_tasks", "", (3, 3)),
    ("max_tasks", "a whole number from 3 to 5000; min_tasks is 3", (2, 3)),
    *[("workers", "", arguments) for arguments in ((1, 512), (16, 2048), (64, 8192))],
    ("workers", "a whole number from 1 to 64", (65, 122880)),
    ("workers", "at most 16: 128 MiB each, task has 2048", (17, 2048)),
    *[("stop_timeout", "", arguments) for arguments in ((30, "fsd"), (2, "none"), (120, "cloudformation"))],
    *[("stop_timeout", "a whole number from 2 to 120", (seconds, "none")) for seconds in (1, 121)],
    ("stop_timeout", "30 seconds: FSD has no setting for it", (31, "fsd")),
    *[("worker", "", arguments) for arguments in ((False, "fsd"), (True, "none"), (True, "cloudformation"))],
    ("worker", "false: FSD runs one process of an image", (True, "fsd")),
    *[("port", "", arguments) for arguments in ((1024, True), (65535, True), (9092, False))],
    ("port", "a whole number from 1024 to 65535; only root may open a lower port", (1023, False)),
    ("port", "a port other than 9092: Kafka uses it", (9092, True)),
    *[("kafka", "", arguments) for arguments in ((False, "3.15"), (True, "3.14"))],
    ("kafka", "no Kafka with Python 3.15 yet: aiokafka has no wheel for it", (True, "3.15")),
]


@pytest.mark.parametrize(
    ("rule", "answer", "said"),
    [(rule, value, said) for rule, said, values in SAYS for value in values],
)
def test_a_rule_accepts_a_good_answer_and_names_itself_to_a_bad_one(
    macro: Macro, rule: str, answer: Any, said: str
) -> None:
    assert macro("rules", rule, answer) == said


@pytest.mark.parametrize(("rule", "arguments", "said"), [(rule, values, said) for rule, said, values in SAYS_TO_ALL])
def test_a_rule_on_several_answers_names_what_it_compares(
    macro: Macro, rule: str, arguments: tuple[Any, ...], said: str
) -> None:
    assert macro("rules", rule, *arguments) == said


def test_every_rule_that_copier_yml_uses_is_tested() -> None:
    used = set(re.findall(r"rules\.(\w+)\(", (ROOT / "copier.yml").read_text()))
    assert used
    assert used <= {rule for rule, *_ in SAYS + SAYS_TO_ALL}
