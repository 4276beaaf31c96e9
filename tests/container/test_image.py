"""The production image, built by the commands of the rendered repository."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Render
from tests.container.conftest import Build, Start
from tests.project import ANSWERS, run

PYTHONS = ["3.11", "3.13", "3.14", "3.15"]


@pytest.mark.parametrize("python_version", PYTHONS)
def test_the_image_is_healthy_on_every_python(build: Build, start: Start, python_version: str) -> None:
    container = start(build(python_version=python_version))
    container.wait_until_healthy()
    assert container.get("/health") == {"status": "healthy"}
    assert container.execute("python", "--version").startswith(f"Python {python_version}.")


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_image_runs_as_many_workers_as_were_answered(build: Build, start: Start, workers: int) -> None:
    container = start(build(workers=workers))
    container.wait_until_healthy()
    assert container.log().count('"event": "started"') == workers


def test_port_and_health_path_are_those_of_the_answers(build: Build, start: Start) -> None:
    answers: dict[str, Any] = ANSWERS["short"]
    container = start(build(**answers), port=answers["port"])
    container.wait_until_healthy()
    assert container.get(answers["health_path"]) == {"status": "healthy"}
    assert container.get(answers["health_path"] + "/version")["service"] == answers["service_name"]


def test_the_image_is_not_healthy_when_the_service_is_not(build: Build, start: Start) -> None:
    container = start(build(), "--env", "LOG_LEVEL=loud")
    with pytest.raises(AssertionError, match="wrong settings"):
        container.wait_until_healthy()


def test_only_what_is_needed_is_in_the_image(default_repository: Path, image: str, start: Start) -> None:
    planted = {
        ".env": "SECRET=1",
        ".git/config": "x",
        "secret.pem": "x",
        "src/.env": "x",
        "src/my_service/tls.key": "x",
    }
    for name, text in planted.items():
        (default_repository / name).parent.mkdir(exist_ok=True)
        (default_repository / name).write_text(text)
    (default_repository / "video.bin").write_bytes(b"\0" * 20_000_000)
    (default_repository / "src/my_service/__pycache__").mkdir()
    (default_repository / "src/my_service/__pycache__/main.pyc").write_text("stale")

    built = run("docker", "build", "--progress=plain", "--no-cache-filter=builder,source", "-t", image, ".",
                cwd=default_repository).stdout  # fmt: skip
    (size, unit) = re.findall(r"transferring context: ([\d.]+)(k?B) ", built)[-1]
    assert float(size) * {"B": 1, "kB": 1000}[unit] < 100_000
    assert "WARNING: there is no uv.lock" in built

    container = start(image)
    listing = ["/" + path.rstrip("/") for path in container.files()]
    ours = [path for path in listing if path.startswith("/app/") and not path.startswith("/app/.venv/")]
    assert {Path(path).parts[2] for path in ours} == {".venv", "gunicorn.conf.py", "src"}
    tools = {
        f"{folder}/{tool}" for folder in ("/bin", "/usr/bin", "/usr/local/bin") for tool in ("uv", "uvx", "gcc", "cc")
    }
    assert not tools & set(listing)
    unwanted = {"secret.pem", "tls.key", "Dockerfile", ".env", "video.bin", "main.pyc"}
    assert [path for path in listing if Path(path).name in unwanted] == []
    assert not [path for path in listing if re.search(r"/\.git(/|$)|/\.cache/(uv|pip)|^/app/(tests|pyproject)", path)]
    assert container.execute("sh", "-c", "find /app -writable") == ""
    assert container.inspect("{{.Config.User}}") == "1000:1000"
    assert container.execute("id", "-u", "-n").strip() == "appuser"


def layers(image: str) -> list[str]:
    """Return the digest of each layer, the base image's first."""
    digests: list[str] = json.loads(run("docker", "image", "inspect", "--format={{json .RootFS.Layers}}", image).stdout)
    return digests


def test_two_builds_of_one_commit_have_the_same_layers(default_repository: Path, image: str) -> None:
    """Bytecode of the standard library, the dependencies, ops/ and the rest of the source; all but the user's entry."""
    run("make", "uv.lock", cwd=default_repository)
    built = []
    for _ in range(2):
        run("docker", "build", "--no-cache", "-t", image, ".", cwd=default_repository)
        built.append(layers(image))
        for path in (default_repository / "src").rglob("*"):
            os.utime(path, (1, 1))  # as another checkout has another date
    base = len(layers("python:3.14-slim-trixie"))
    names = ["app", "bytecode", "user", "dependencies", "ops", "source"]
    first, second = (dict(zip(names, digests[base:], strict=True)) for digests in built)
    assert {name for name in names if first[name] != second[name]} <= {"user"}


def test_a_stale_lock_fails_the_build(default_repository: Path) -> None:
    run("make", "uv.lock", cwd=default_repository)
    pyproject = default_repository / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("dependencies = []", 'dependencies = ["aiofiles"]'))
    failed = run("docker", "build", ".", cwd=default_repository, check=False)
    assert failed.returncode != 0
    assert "needs to be updated" in failed.stdout


def test_the_version_is_said_by_label_log_and_endpoint(default_repository: Path, image: str, start: Start) -> None:
    run("docker", "build", "--build-arg", "SERVICE_VERSION=abc123", "-t", image, ".", cwd=default_repository)
    container = start(image)
    container.wait_until_healthy()
    assert container.get("/health/version")["version"] == "abc123"
    assert '"version": "abc123"' in container.log()
    assert container.inspect('{{index .Config.Labels "org.opencontainers.image.revision"}}') == "abc123"


@pytest.mark.parametrize("name", ANSWERS)
def test_dockerfiles_pass_the_engines_own_check(render: Render, name: str) -> None:
    # With images that are here: the check resolves them.
    here = {
        "python_version": "3.14",
        "base_image_registry": "docker.io/library",
        "uv_image_registry": "ghcr.io/astral-sh",
    }
    repository = render(**ANSWERS[name] | here)
    for file in ("Dockerfile", "Dockerfile.dev"):
        assert "no warnings found" in run("docker", "build", "--check", "--file", file, ".", cwd=repository).stdout
