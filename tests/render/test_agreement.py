"""Every number is said once: the files of a rendered repository agree with each other."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from tests.support.template import ANSWERS, DEFAULTS, QUESTIONS, ROOT


@pytest.fixture(params=ANSWERS)
def answer_set(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def answers(answer_set: str) -> dict[str, Any]:
    """One of the answer sets, completed by the plain defaults."""
    return DEFAULTS | ANSWERS[answer_set]


@pytest.fixture
def repository(answer_set: str, repositories: Callable[[str], Path]) -> Path:
    return repositories(answer_set)


@pytest.fixture
def package(repository: Path) -> Path:
    (main,) = (repository / "src").glob("*/main.py")
    return main.parent


def facts(pattern: str, *files: Path) -> set[str]:
    """Return what the pattern's group matches in these files; each file must hold it."""
    found = [set(re.findall(pattern, file.read_text(), re.MULTILINE)) for file in files]
    assert all(found), f"{pattern} is missing in one of {files}"
    return set().union(*found)


def test_every_file_names_the_same_port(repository: Path, package: Path, answers: dict[str, Any]) -> None:
    port = str(answers["port"])
    assert facts(r"^EXPOSE (\d+)$", repository / "Dockerfile", repository / "Dockerfile.dev") == {port}
    assert facts(r'^bind = "0\.0\.0\.0:(\d+)"$', repository / "gunicorn.conf.py") == {port}
    assert facts(r'HTTPConnection\("127\.0\.0\.1", (\d+)', package / "ops/healthcheck.py") == {port}
    assert facts(r'"--port", "(\d+)"', repository / "Dockerfile.dev") == {port}
    assert facts(r"^HOST_PORT = .*,(\d+)\)$", repository / "Makefile") == {port}
    assert facts(r"port api (\d+)", repository / "ops/development/up") == {port}
    compose = yaml.safe_load((repository / "compose.yaml").read_text())
    assert compose["services"]["api"]["ports"] == [f"127.0.0.1:${{PORT:-{port}}}:{port}"]


def test_every_server_serves_the_same_way(repository: Path, package: Path) -> None:
    for flag, name in {"http": "HTTP", "ws": "WebSocket"}.items():
        assert facts(rf"\b{flag}=protocols\.(\w+)", package / "ops/worker.py") == {name}
    (make,) = re.findall(r"uvicorn (.*) \$\(ENV_FILE\)$", (repository / "Makefile").read_text(), re.MULTILINE)
    (image,) = re.findall(r"^CMD (.*)$", (repository / "Dockerfile.dev").read_text(), re.MULTILINE)
    in_image = shlex.join(json.loads(image)).replace(" --host 0.0.0.0", "")
    assert re.sub(r"--port \d+", "--port $(HOST_PORT)", in_image) == f"uvicorn {make}"
    assert f"--http {package.name}.ops.protocols:HTTP --ws {package.name}.ops.protocols:WebSocket" in make
    worker = (package / "ops/worker.py").read_text()
    for development, production in {
        "--no-access-log": "access_log=False",
        "--no-proxy-headers": "proxy_headers=False",
        "--reset-contextvars": "reset_contextvars=True",
    }.items():
        assert development in make
        assert production in worker


def test_every_file_names_the_same_health_path(repository: Path, package: Path, answers: dict[str, Any]) -> None:
    assert facts(r'^HEALTH_PATH = "(.*)"$', package / "ops/health.py") == {answers["health_path"]}
    assert facts(r'"GET", "(.*)"', package / "ops/healthcheck.py") == {answers["health_path"]}


def test_compose_and_the_image_run_the_same_health_check(repository: Path, package: Path) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .* \\\n +CMD (.*)$", (repository / "Dockerfile").read_text(), re.M)
    compose = yaml.safe_load((repository / "compose.yaml").read_text())["services"]["api"]["healthcheck"]
    script = Path("/app/src") / package.name / "ops/healthcheck.py"
    assert yaml.safe_load(command) == ["python", "-I", "-S", str(script)]
    assert compose["test"] == ["CMD", *yaml.safe_load(command)]


def test_every_file_names_the_same_python_version(repository: Path, answers: dict[str, Any]) -> None:
    version = {answers["python_version"]}
    assert (
        facts(r"^FROM \S+/python:(\S+)-slim-trixie", repository / "Dockerfile", repository / "Dockerfile.dev")
        == version
    )
    assert facts(r'^requires-python = "==(.*)\.\*"$', repository / "pyproject.toml") == version
    assert facts(r"uv python find (\S+)", repository / "Makefile") == version


def test_every_dockerfile_names_the_same_registries(repository: Path, answers: dict[str, Any]) -> None:
    for name, image in (("base_image_registry", "python"), ("uv_image_registry", "uv")):
        found = facts(rf"^FROM (\S+)/{image}:", repository / "Dockerfile", repository / "Dockerfile.dev")
        assert found == {answers[name]}


def test_packages_come_from_the_package_index_that_was_answered(repository: Path, answers: dict[str, Any]) -> None:
    indexes = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["uv"].get("index", [])
    answered = answers["package_index_url"]
    assert [index["url"] for index in indexes] == ([answered] if answered else [])


def test_whatever_installs_packages_logs_in_to_the_index_and_to_the_images(
    repository: Path, answers: dict[str, Any]
) -> None:
    index = answers["package_index_url"]
    public = ("docker.io/", "ghcr.io/", "public.ecr.aws/")
    private = not all(answers[name].startswith(public) for name in ("base_image_registry", "uv_image_registry"))
    workflows = [yaml.safe_load(file.read_text()) for file in (repository / ".github/workflows").glob("*.yml")]
    for job in (job for workflow in workflows for job in workflow["jobs"].values()):
        names = [step.get("name") for step in job.get("steps", [])]
        commands = " ".join(step.get("run", "") for step in job.get("steps", []))
        if locks := re.search(r"\b(lint|test|build)\b|pull_request.py", commands):
            assert ("Log in to the package index" in names) == bool(index)
        if locks and "pull_request.py" not in commands:  # which builds nothing
            assert ("Log in to the base images" in names) == private
    if workflows:
        assert len(workflows) > 1
        dependabot = yaml.safe_load((repository / ".github/dependabot.yml").read_text())
        known = dependabot.get("registries", {})
        assert ([index] if index else []) == [known[name]["url"] for name in known if name == "packages"]
        assert any(name.startswith("images") for name in known) == private
        ecosystems = {update["package-ecosystem"]: update.get("registries") for update in dependabot["updates"]}
        services = answers["kafka"] or answers["database"] != "none"
        assert ecosystems == {
            "uv": ["packages"] if index else None,
            "docker": "*" if private else None,
            "github-actions": None,
        } | ({"docker-compose": "*" if private else None} if services else {})


def test_only_the_minimal_runtime_is_from_scratch(repository: Path, answers: dict[str, Any]) -> None:
    (runtime,) = facts(r"^FROM (\S+) AS runtime$", repository / "Dockerfile")
    assert runtime == {"slim": "python", "minimal": "scratch"}[answers["runtime"]]


def test_the_manifest_has_the_values_of_the_service(repository: Path, package: Path, answers: dict[str, Any]) -> None:
    file = repository / f"{answers['service_name']}.yml"
    assert file.exists() == (answers["deploy"] == "fsd")
    if answers["deploy"] != "fsd":
        return
    fsd = yaml.safe_load(file.read_text())
    service = fsd["service"]
    assert fsd["metadata"]["name"] == service["environment"]["SERVICE_NAME"] == answers["service_name"]
    assert facts(r'service_name: str = "(.*)"', package / "ops/settings.py") == {answers["service_name"]}
    assert service["port"] == answers["port"]
    assert service["healthCheck"]["path"] == answers["health_path"]
    workers = facts(r"web_concurrency: .* = (\d+)$", package / "ops/settings.py")
    assert {service["environment"]["WEB_CONCURRENCY"]} == workers
    assert service["environment"]["TRUSTED_HOPS"] == "1"
    assert service["resources"]["cpu"] == answers["cpu"]
    assert service["resources"]["minCapacity"] == service["resources"]["desiredCount"] == answers["min_tasks"]
    assert service["observability"]["logs"]["retention"] == answers["log_retention_days"]


def test_every_file_has_the_same_stop_timeout(repository: Path, package: Path, answers: dict[str, Any]) -> None:
    (stop,) = facts(r"^STOP_TIMEOUT = (\d+) ", package / "ops/settings.py", repository / "ops/contract/task.py")
    compose = yaml.safe_load((repository / "compose.yaml").read_text())
    assert compose["services"]["api"]["stop_grace_period"] == f"{stop}s"
    assert int(stop) == answers["stop_timeout"]
    if answers["deploy"] == "cloudformation":
        (file,) = (repository / "deploy").glob("[cs]*.yml")
        assert facts(r"StopTimeout: (\d+)", file) == {stop}


def test_the_manifest_has_the_health_check_numbers_of_an_aws_load_balancer(default: Path) -> None:
    check = yaml.safe_load((default / "my-service.yml").read_text())["service"]["healthCheck"]
    numbers = {"interval": 30, "timeout": 5, "healthyThreshold": 2, "unhealthyThreshold": 3}
    assert check == {"path": "/health", **numbers}


@pytest.mark.parametrize(("cpu", "workers"), [(256, 1), (512, 1), (1024, 1), (2048, 2), (4096, 4), (16384, 16)])
def test_the_default_number_of_workers_is_one_per_vcpu(cpu: int, workers: int) -> None:
    assert jinja2.Template(QUESTIONS["workers"]["default"]).render(cpu=cpu) == str(workers)


def test_services_update_with_the_copier_version_that_is_tested(default: Path) -> None:
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (version,) = facts(r"\buvx copier@(\S+?)[ ,]", default / "Makefile")
    assert f"copier=={version}" in tested


def test_the_development_container_works_as_the_user_of_its_image(repository: Path) -> None:
    (user,) = facts(r'"remoteUser": "(\w+)"', repository / ".devcontainer/devcontainer.json")
    assert facts(r"useradd .* (\w+)$", repository / "Dockerfile.dev") == {user}


def test_every_workflow_has_the_same_pin_of_an_action() -> None:
    pins: dict[str, set[str]] = {}
    for folder in ("template", "extensions", "docs", ".github"):
        for file in (path for path in (ROOT / folder).rglob("*") if path.suffix in (".jinja", ".md", ".yml")):
            for action, pin in re.findall(r"uses: ([\w./-]+)@(.*)", file.read_text()):
                pins.setdefault(action, set()).add(pin)
    assert "actions/checkout" in pins
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def test_scripts_are_run_by_their_interpreter_as_a_commit_may_lack_their_modes(repository: Path) -> None:
    files = [repository / "Makefile", *(repository / ".github").rglob("*.yml"), repository / "ops/contract/run"]
    files += (repository / "ops/development").iterdir()
    for file in files:
        text = re.sub("^ *#.*", "", file.read_text(), flags=re.MULTILINE)
        assert (
            re.findall(r"^.*(?<!bash )(?<!python3 )(?<!python )(?<!\$\(PYTHON3\) )ops/\w+/[\w.]+ .*$", text, re.M) == []
        )


def test_compose_runs_kafka_where_the_service_looks_for_it(repository: Path, answers: dict[str, Any]) -> None:
    services = yaml.safe_load((repository / "compose.yaml").read_text())["services"]
    assert ("kafka" in services) == answers["kafka"]
    if not answers["kafka"]:
        return
    assert "kafka" not in services["api"].get("depends_on", {}), "the service starts without Kafka"
    assert services["api"]["environment"]["KAFKA_BROKERS"] == "kafka:9092"
    broker = services["kafka"]["environment"]
    assert "NETWORK://:9092,HOST://:19092" in broker["KAFKA_LISTENERS"]
    assert broker["KAFKA_ADVERTISED_LISTENERS"] == "NETWORK://kafka:9092,HOST://localhost:9092"
    assert services["kafka"]["ports"] == ["127.0.0.1:9092:19092"]
    assert services["kafka"]["volumes"] == [f"kafka:{broker['KAFKA_LOG_DIRS']}"]


def test_the_database_is_where_the_service_looks_for_it(
    repository: Path, package: Path, answers: dict[str, Any]
) -> None:
    services = yaml.safe_load((repository / "compose.yaml").read_text())["services"]
    postgres = answers["database"] == "postgres"
    assert {"database", "migrate"} <= services.keys() if postgres else not {"database", "migrate"} & services.keys()
    if not postgres:
        return
    assert services["api"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    server = services["database"]["environment"]
    for service in ("api", "migrate"):
        assert services[service]["environment"]["DATABASE_HOST"] == "database"
        assert services[service]["environment"]["DATABASE_PASSWORD"] == server["POSTGRES_PASSWORD"]
    settings = (package / "ops/settings.py").read_text()
    for name, value in (("name", server["POSTGRES_DB"]), ("user", server["POSTGRES_USER"])):
        assert f'database_{name}: str = "{value}"' in settings
    assert services["database"]["image"].endswith("/postgres:18-trixie")
