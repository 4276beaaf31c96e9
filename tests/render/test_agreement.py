"""Every number is said once: the files of a rendered repository agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Render
from tests.project import ANSWERS, QUESTIONS, ROOT


@pytest.fixture(scope="module", params=ANSWERS)
def answers(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One of the answer sets, completed by the plain defaults."""
    return {name: spec["default"] for name, spec in QUESTIONS.items()} | ANSWERS[request.param]


@pytest.fixture(scope="module")
def repository(answers: dict[str, Any], render: Render) -> Path:
    return render(**{name: value for name, value in answers.items() if value != QUESTIONS[name]["default"]})


@pytest.fixture(scope="module")
def package(repository: Path) -> Path:
    (main,) = (repository / "src").glob("*/main.py")
    return main.parent


def facts(pattern: str, *files: Path) -> set[str]:
    """Return what the pattern's group matches in these files; each file must hold it."""
    found = [set(re.findall(pattern, file.read_text(), re.MULTILINE)) for file in files]
    assert all(found), f"{pattern} is missing in one of {files}"
    return set().union(*found)


def test_the_port_is_one(repository: Path, package: Path, answers: dict[str, Any]) -> None:
    port = str(answers["port"])
    assert facts(r"^EXPOSE (\d+)$", repository / "Dockerfile", repository / "Dockerfile.dev") == {port}
    assert facts(r'^bind = "0\.0\.0\.0:(\d+)"$', repository / "gunicorn.conf.py") == {port}
    assert facts(r'HTTPConnection\("127\.0\.0\.1", (\d+)', package / "ops/healthcheck.py") == {port}
    assert facts(r'"--port", "(\d+)"', repository / "Dockerfile.dev") == {port}
    assert facts(r"--port (\d+)", repository / "Makefile") == {port}
    compose = yaml.safe_load((repository / "compose.yaml").read_text())
    assert compose["services"]["api"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_the_health_path_is_one(repository: Path, package: Path, answers: dict[str, Any]) -> None:
    assert facts(r'^HEALTH_PATH = "(.*)"$', package / "ops/health.py") == {answers["health_path"]}
    assert facts(r'"GET", "(.*)"', package / "ops/healthcheck.py") == {answers["health_path"]}


def test_the_health_check_is_one(repository: Path, package: Path) -> None:
    flags, command = re.findall(r"^HEALTHCHECK (.*) \\\n +CMD (.*)$", (repository / "Dockerfile").read_text(), re.M)[0]
    image = dict(re.findall(r"--([a-z-]+)=(\w+)", flags))
    compose = yaml.safe_load((repository / "compose.yaml").read_text())["services"]["api"]["healthcheck"]
    assert compose.pop("test") == ["CMD", *yaml.safe_load(command)]
    assert {name.replace("_", "-"): str(value) for name, value in compose.items()} == image
    script = Path("/app/src") / package.name / "ops/healthcheck.py"
    assert yaml.safe_load(command) == ["python", "-I", "-S", str(script)]


def test_the_python_version_is_one(repository: Path, answers: dict[str, Any]) -> None:
    version = {answers["python_version"]}
    assert (
        facts(r"^FROM \S+/python:(\S+)-slim-trixie", repository / "Dockerfile", repository / "Dockerfile.dev")
        == version
    )
    assert facts(r'^requires-python = "==(.*)\.\*"$', repository / "pyproject.toml") == version
    assert facts(r"uv python find (\S+)", repository / "Makefile") == version


def test_the_image_names_are_one(repository: Path, answers: dict[str, Any]) -> None:
    for name, image in (("base_image_registry", "python"), ("uv_image_registry", "uv")):
        found = facts(rf"^FROM (\S+)/{image}:", repository / "Dockerfile", repository / "Dockerfile.dev")
        assert found == {answers[name]}


def test_packages_come_from_the_index_of_the_answers(repository: Path, answers: dict[str, Any]) -> None:
    indexes = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["uv"].get("index", [])
    answered = answers["package_index_url"]
    assert [index["url"] for index in indexes] == ([answered] if answered else [])
    compose = yaml.safe_load((repository / "compose.yaml").read_text())
    assert ("secrets" in compose) == bool(indexes)


def test_only_the_minimal_runtime_is_from_scratch(repository: Path, answers: dict[str, Any]) -> None:
    (runtime,) = facts(r"^FROM (\S+) AS runtime$", repository / "Dockerfile")
    assert runtime == {"slim": "base", "minimal": "scratch"}[answers["runtime"]]


def test_the_manifest_says_what_the_service_does(repository: Path, package: Path, answers: dict[str, Any]) -> None:
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
    assert service["environment"]["FORWARDED_ALLOW_IPS"] == answers["trusted_proxies"]
    assert service["resources"]["cpu"] == answers["cpu"]
    assert service["resources"]["minCapacity"] == service["resources"]["desiredCount"] == answers["min_tasks"]
    assert service["observability"]["logs"]["retention"] == answers["log_retention_days"]


def test_the_manifest_has_the_health_check_numbers_of_the_load_balancer(default: Path) -> None:
    check = yaml.safe_load((default / "my-service.yml").read_text())["service"]["healthCheck"]
    numbers = {"interval": 30, "timeout": 5, "healthyThreshold": 2, "unhealthyThreshold": 3}
    assert check == {"path": "/health", **numbers}


@pytest.mark.parametrize(("cpu", "workers"), [(256, 1), (512, 1), (1024, 1), (2048, 2), (4096, 4), (16384, 16)])
def test_the_suggested_workers_are_one_per_vcpu(render: Render, cpu: int, workers: int) -> None:
    package = render(cpu=cpu) / "src/my_service"
    assert facts(r"web_concurrency: .* = (\d+)$", package / "ops/settings.py") == {str(workers)}


def test_services_are_updated_by_the_copier_that_is_tested(default: Path) -> None:
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    workflow = default / ".github/workflows/template-update.yml"
    (version,) = facts(r"\buvx copier@(\S+?)[ ,]", default / "Makefile", workflow)
    assert f"copier=={version}" in tested


def test_kafka_is_where_the_service_looks_for_it(repository: Path, answers: dict[str, Any]) -> None:
    services = yaml.safe_load((repository / "compose.yaml").read_text())["services"]
    assert ("kafka" in services) == answers["kafka"]
    if not answers["kafka"]:
        return
    assert services["api"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["api"]["environment"]["KAFKA_BROKERS"] == "kafka:9092"
    broker = services["kafka"]["environment"]
    assert "NETWORK://:9092,HOST://:19092" in broker["KAFKA_LISTENERS"]
    assert broker["KAFKA_ADVERTISED_LISTENERS"] == "NETWORK://kafka:9092,HOST://localhost:9092"
    assert services["kafka"]["ports"] == ["127.0.0.1:9092:19092"]
    assert services["kafka"]["volumes"] == [f"kafka:{broker['KAFKA_LOG_DIRS']}"]
