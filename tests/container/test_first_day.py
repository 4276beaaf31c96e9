"""The first day of a new owner: the rendered README with Docker alone, and a service that needs another one."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import commit, edit, run
from tests.support.documents import blocks
from tests.support.template import PYTHON, Render, copy

SETTING = """\
    greeting: str = "Hello"
    store_url: str
"""
LIFESPAN = """\
    urlopen(get_settings().store_url, timeout=5).close()
    yield
"""
OVERRIDE = """\
services:
  api:
    environment:
      STORE_URL: http://store:8080
    depends_on:
      store:
        condition: service_healthy
  store:
    image: python:3.14-slim-trixie
    command: python -m http.server 8080
    init: true
    healthcheck:
      test: ["CMD", "python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080')"]
      interval: 1s
"""
IMAGE = "IMAGE=needy:latest"
FOREIGN_PYTEST_SETTINGS = """\
[pytest]
asyncio_mode = auto
required_plugins = pytest-missing
filterwarnings = error::missing.Warning
"""


def test_the_first_day_of_the_readme_needs_docker_alone(template: Path, tmp_path: Path, path_without_uv: str) -> None:
    """In a folder without Git, then in a repository without a commit, then with one."""
    repository = copy(template, tmp_path / "first-day", {"port": 8125})
    assert not (repository / ".git").exists()
    for script in (path for path in (repository / "ops").rglob("*") if path.is_file()):
        script.chmod(0o644)  # as after a commit from a file system without executable bits
    assert not (repository / "uv.lock").exists()
    (day,) = re.findall(
        "^## The first day\n(.*?)^## ", (repository / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    start, check = blocks(day)
    assert check == "make test lint build contract\n"

    def shell(commands: str) -> str:
        commands = commands.replace("curl ", "curl --fail ")
        return run("bash", "-euc", commands, cwd=repository, PATH=path_without_uv).stdout

    def revision() -> str:
        label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
        return run("docker", "inspect", "--format", label, "my-service:latest").stdout.strip()

    try:
        shell(start)
        print(shell(check))
        assert revision() == "unknown"

        run("git", "init", "--quiet", cwd=repository)
        shell("make build size")
        assert revision() == "unknown"

        saved = commit(repository)
        shell("make build")
        assert revision() == saved
    finally:
        run("docker", "compose", "down", "--rmi", "local", cwd=repository)
        run("docker", "image", "rm", "--force", "my-service:latest")


@pytest.fixture
def needy(render: Render, tmp_path: Path) -> Iterator[Path]:
    """A service that starts with a variable and another service only, which compose.override.yaml describes."""
    repository = shutil.copytree(render(python_version=PYTHON), tmp_path / "needy")
    package = repository / "src/my_service"
    edit(package / "settings.py", '    greeting: str = "Hello"\n', SETTING)
    edit(package / "main.py", "    yield\n", LIFESPAN)
    edit(package / "main.py", "from fastapi import", "from urllib.request import urlopen\n\nfrom fastapi import")
    (repository / "compose.override.yaml").write_text(OVERRIDE)
    yield repository
    run("docker", "compose", "down", "--rmi", "local", "--remove-orphans", cwd=repository)
    run("docker", "image", "rm", "--force", "needy:latest")


def test_the_tests_and_the_contract_have_what_compose_gives_the_service(needy: Path) -> None:
    run("make", "test", "build", IMAGE, cwd=needy)

    # Nor do the service's own tests and settings of pytest have a say.
    (needy / "pytest.ini").write_text(FOREIGN_PYTEST_SETTINGS)
    (needy / "tests/conftest.py").write_text("raise RuntimeError\n")
    few = "ARGS=-k 'own or tmp'"
    assert "2 passed" in run("make", "contract", few, IMAGE, cwd=needy).stdout

    (needy / "compose.override.yaml").unlink()
    failed = run("make", "contract", few, IMAGE, cwd=needy, check=False)
    assert failed.returncode != 0
    reason, _, place = failed.stdout.partition("The service does not start: ")[2].partition("Give it what it needs as")
    assert "store_url: Field required" in reason
    assert "compose.override.yaml" in place
    assert "FAILED" not in failed.stdout, "the other tests are not tried"
