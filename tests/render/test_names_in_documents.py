"""What a page names exists, what exists is on a page, and each command of a page is one that its reader can type."""

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore import xform_name

from tests.render.test_settings import TABLE
from tests.support.commands import run
from tests.support.documents import FENCE
from tests.support.template import ANSWERS, QUESTIONS, ROOT, Render

PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("aws", "copier", "curl", "docker", "git", "gh", "make", "pipx", "python", "uv", "uvx")
AWS = botocore.session.get_session()
EVERYTHING = {"deploy": "cloudformation", "kafka": True, "database": "postgres", "worker": True, "telemetry": True}

# How a kind of name looks in code between backquotes, and names that are another program's, or the reader's to choose.
KINDS = {
    "variable": (
        r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b",
        "AWS_DEFAULT_REGION BUILDAH_FORMAT COMPOSE_FILE COPIER_SETTINGS_PATH HTTPS_PROXY MALLOC_ARENA_MAX "
        "PROMETHEUS_MULTIPROC_DIR PYTHON_LAZY_IMPORTS QUEUE_URL SENTRY_DSN WATCHFILES_FORCE_POLLING XDG_RUNTIME_DIR",
    ),
    "parameter": (
        r"^[A-Z][a-z]+(?:[A-Z][A-Za-z]*)+(?==|$)",
        "CannotPullContainerError EntityAlreadyExists EventSource FastAPIInstrumentor KeyError MissingGreenlet "
        "ReadOnlyAccess ResourceInitializationError RuntimeError",
    ),
    "answer": (r"^[a-z_]+(?==[a-z\d]\S*$)|(?<=--data )[a-z_]+|(?<=ANSWERS=[\"'])[a-z_]+", "max_fails retry"),
    "file": (
        r"^\.?[\w-]+(?:[./][\w.-]+)*\.(?:ini|json|lock|py|svg|tf|toml|txt|yaml|yml|md|mk|parameters|pem)$"
        r"|^(?:src|docs|ops|tests|deploy|template)/[\w./-]*$",
        """
        .github/workflows/nightly.yml .github/workflows/orders.yml .gitlab-ci.yml .ruff.toml .vscode/launch.json
        alembic.ini compose.override.yaml compose.podman.yaml
        core/config.py deploy/ENV.parameters deploy/container.json deploy/prod.parameters deploy/stage.parameters
        docker-compose.yml infrastructure/environment/main.tf infrastructure/registry/main.tf
        infrastructure/registry/terraform.tfvars local.mk logging.ini mypy.ini old.txt orders.yml outbox.py poetry.lock
        profile.svg pytest.ini requirements.txt ruff.toml setup.cfg src/PACKAGE/rds.pem src/orders/routers/metrics.py
        src/PACKAGE/routers/reminders.py src/orders/static/ tox.ini uv.lock
        """,
    ),
}


@pytest.fixture(scope="session")
def services(repositories: Callable[[str], Path], render: Render) -> list[Path]:
    """Services that between them have each file, parameter and target."""
    return [*(repositories(name) for name in ANSWERS), render(**EVERYTHING)]


@pytest.fixture(scope="session")
def there(services: list[Path]) -> dict[str, set[str]]:
    """The names of each kind that exist."""
    files = {file.relative_to(root).as_posix() for root in services for file in root.rglob("*") if file.is_file()}
    sources = [
        root / file for root in services for file in files if not file.endswith(".md") and (root / file).is_file()
    ]
    words = {word for file in sources for word in re.findall(r"\w+", file.read_text())}
    (settings,) = TABLE.findall((ROOT / "docs/settings.md").read_text())
    ours = run("git", "ls-files").stdout.split()
    return {
        "variable": words | set(re.findall(r"`([A-Z_]+)`", settings)),
        "parameter": words,
        "answer": QUESTIONS.keys() | {"deploy"},
        "file": {path for file in [*files, *ours] for path in endings(file)},
    }


def endings(file: str) -> Iterator[str]:
    """Yield each name by which a text may call a file or a folder above it."""
    for name in {file, file.replace("my_service", "PACKAGE")}:
        parts = name.split("/")
        for begin, end in combinations(range(len(parts) + 1), 2):
            yield "/".join(parts[begin:end])


def code(text: str) -> list[str]:
    """Return what stands between backquotes, without the blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def commands(text: str) -> list[str]:
    """Return the commands of a reader: the blocks, those of a pipeline, and code that begins with a program."""
    blocks = [textwrap.dedent(body) for language, body in FENCE.findall(text) if language == "shell"]
    yaml_blocks = "".join(body for language, body in FENCE.findall(text) if language == "yaml")
    spans = [span for span in code(text) if span.split()[0] in PROGRAMS and " " in span]
    messages = [span for span in spans if span.split()[1] in {"is", "has"}]
    return [*blocks, *re.findall(r"^ *(?:- |run: )(make .*)", yaml_blocks, re.M), *(set(spans) - set(messages))]


def unknown(text: str, there: dict[str, set[str]]) -> set[str]:
    """Return the names in a text that do not exist."""
    found = set()
    for kind, (pattern, others) in KINDS.items():
        named = {name for span in code(text) for name in re.findall(pattern, span)}
        found |= {name for name in named - set(others.split()) if name.rstrip("/") not in there[kind]}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path, there: dict[str, set[str]]) -> None:
    assert unknown(page.read_text(), there) == set()


def test_what_a_rendered_readme_names_exists(services: list[Path], there: dict[str, set[str]]) -> None:
    for service in services:
        assert unknown((service / "README.md").read_text(), there) == set()


def make_reads(*repositories: Path) -> str:
    """Return the text of the Makefiles, and of the programs that read the variables of the shell."""
    files = [file for root in repositories for file in (root / "Makefile", *root.glob("ops/deployment/*.py"))]
    return "\n".join(file.read_text() for file in files)


def wrong_make(command: str, read: str) -> str:
    """Return the first word after `make` that is neither a target nor a variable."""
    for word in shlex.split(re.sub(r"-C \S+", "", command.replace("…", "x")))[1:]:
        name, is_variable, _ = word.partition("=")
        known = rf"\b{name}\b" if is_variable else rf"^{re.escape(word)}:"
        if not re.search(known, read, re.MULTILINE):
            return word
    return ""


def wrong_aws(command: str) -> str:
    """Return what AWS's API does not know of an `aws` command; `deploy` and `login` are the CLI's own."""
    service, operation, *rest = re.findall(r"[^\s'\")]+", command)[1:]
    if (service, operation) in {("cloudformation", "deploy"), ("sso", "login")}:
        return ""
    if operation == "wait":
        waiters = AWS.get_waiter_model(service).waiter_names
        return "" if rest[0] in {xform_name(each, "-") for each in waiters} else str(rest[0])
    model = AWS.get_service_model(service)
    operations = {xform_name(each, "-"): each for each in model.operation_names}
    if operation not in operations:
        return str(operation)
    shape = model.operation_model(operations[operation]).input_shape
    options = {f"--{xform_name(each, '-')}" for each in (shape.members if shape else ())}
    given = {word for word in rest if word.startswith("--")}
    return " ".join(given - options - {"--output", "--query", "--region"})


@cache
def help_of_copier() -> str:
    """Return what Copier says of its options."""
    return run("copier", "copy", "--help").stdout


def wrong_copier(command: str) -> str:
    """Return the options that `copier copy` does not have."""
    return " ".join(option for option in re.findall(r"(?<!\S)--[\w-]+", command) if option not in help_of_copier())


def wrong(text: str, read: str) -> list[str]:
    """Return the commands of a page that its reader cannot run; a block that is no shell's raises."""
    found = []
    checks = {"make": lambda line: wrong_make(line, read), "aws": wrong_aws, "copier": wrong_copier}
    run("bash", "-n", "-c", "\n".join(commands(text)))
    for command in commands(text):
        for line in re.split(r"\n|&&|\|\|?|;|\$\(", command.replace("\\\n", " ")):
            line = re.sub(r"^\W*(?:uvx |pipx run |uv run )?", "", line)
            check = checks.get(line.partition(" ")[0])
            if check and " " in line and (what := check(line)):
                found.append(f"{line}: {what}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_can_be_typed(page: Path, services: list[Path]) -> None:
    assert wrong(page.read_text(), make_reads(ROOT, *services)) == []


def test_each_command_of_a_rendered_readme_can_be_typed(services: list[Path]) -> None:
    for service in services:
        assert wrong((service / "README.md").read_text(), make_reads(service)) == []


def existing(services: list[Path]) -> dict[str, set[str]]:
    """Return the names that a reader must find, by kind: what a person types, sets or answers."""
    found: dict[str, set[str]] = {"parameter": set(), "secret or variable of GitHub": set()}
    reads = make_reads(*services)
    found["target of make"] = set(re.findall(r"^([a-z-]+):.* ## ", reads, re.MULTILINE))
    found["variable of make"] = set(re.findall(r"\b([A-Z_]+)=", "\n".join(re.findall("## (.*)", reads))))
    found["variable of the shell"] = set(re.findall(r"environ\.get\(\"(\w+)\"\)", reads)) - {
        "SKIP_OLDER"
    }  # of a workflow
    found["answer"] = {name for name, spec in QUESTIONS.items() if spec.get("when") is not False}
    for service in services:
        for file in service.glob("deploy/*.yml"):
            in_its_command = re.findall(r"\b(\w+)=", "\n".join(re.findall("^#.*", file.read_text(), re.MULTILINE)))
            found["parameter"] |= yaml.load(file.read_text(), yaml.BaseLoader)["Parameters"].keys() - set(
                in_its_command
            )
        for file in service.glob(".github/workflows/*.yml"):
            found["secret or variable of GitHub"] |= set(re.findall(r"(?:vars|secrets)\.(\w+)", file.read_text()))
    found["parameter"] -= {"Environment", "ImageUri"}  # make deploy gives these
    found["secret or variable of GitHub"] -= {"GITHUB_TOKEN"}
    return found


def test_what_exists_is_on_a_page(services: list[Path]) -> None:
    texts = [page.read_text() for page in [*PAGES, *(service / "README.md" for service in services)]]
    written = {word for text in texts for word in re.findall(r"[\w-]+", text)}
    assert {kind: names - written for kind, names in existing(services).items() if names - written} == {}
