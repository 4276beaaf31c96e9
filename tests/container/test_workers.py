"""The steps of docs/workers.md, as its reader takes them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.cloudformation import Loader
from tests.support.commands import run, wait_until
from tests.support.documents import blocks
from tests.support.template import PYTHON, ROOT, Render

PAGE = (ROOT / "docs/workers.md").read_text()
WORKER, TEST = blocks(PAGE, "python")
COMPOSE, CONTAINER = blocks(PAGE, "yaml")
PORT = 8141


CHECK = yaml.load(COMPOSE, Loader)["services"]["worker"]["healthcheck"]["test"]


@pytest.fixture(scope="module")
def repository(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service with the page's files."""
    path = tmp_path_factory.mktemp("workers") / "workers"
    shutil.copytree(render(port=PORT, python_version=PYTHON), path)
    (path / "src/my_service/worker.py").write_text(WORKER)
    (path / "tests/test_worker.py").write_text(TEST)
    (path / "compose.override.yaml").write_text(COMPOSE)
    run("make", "engine", cwd=path)  # names Compose's project
    yield path
    run("docker", "compose", "down", "--rmi", "local", "--volumes", cwd=path)


def events(log: str) -> list[str]:
    return [json.loads(line)["event"] for line in log.splitlines()]


def test_the_worker_passes_the_checks_of_a_service(repository: Path) -> None:
    run("make", "lock", "lint", cwd=repository)
    run("uv", "run", "--quiet", "pytest", cwd=repository)


def test_compose_runs_the_worker_and_drains_it(repository: Path) -> None:
    run("docker", "compose", "up", "--build", "--wait", "worker", cwd=repository)
    run("docker", "compose", "stop", "worker", cwd=repository)
    log = run("docker", "compose", "logs", "--no-log-prefix", "worker", cwd=repository).stdout
    assert set(events(log)) == {"job done", "stopped"}
    assert events(log)[-1] == "stopped"
    state = json.loads(run("docker", "compose", "ps", "--all", "--format=json", "worker", cwd=repository).stdout)
    assert state["ExitCode"] == 0


def test_the_image_runs_the_worker_as_ecs_does(repository: Path, image: str) -> None:
    run("make", "build", f"IMAGE={image}", cwd=repository)
    (worker,) = yaml.load(CONTAINER, Loader)
    assert worker["HealthCheck"]["Command"] == CHECK
    size = worker["LinuxParameters"]["Tmpfs"][0]["Size"]
    name = f"{image}-worker"
    run(
        *("docker", "run", "--detach", f"--name={name}", "--read-only", "--cap-drop=ALL", "--init"),
        *(f"--user={worker['User']}", f"--tmpfs=/tmp:size={size}m,nosuid,nodev,noexec", "--env=ENVIRONMENT=prod"),
        *(image, *worker["Command"]),
    )
    try:
        wait_until(lambda: run("docker", "exec", name, *CHECK[1:], check=False).returncode == 0)
        run("docker", "stop", "--timeout", str(worker["StopTimeout"]), name)
        assert run("docker", "inspect", "--format={{.State.ExitCode}}", name).stdout.strip() == "0"
        assert events(run("docker", "logs", name).stdout)[-1] == "stopped"
    finally:
        run("docker", "rm", "--force", name)
    stale = f"import os; open('/tmp/worker-alive', 'w'); os.utime('/tmp/worker-alive', (0, 0)); {CHECK[-1]}"
    checked = run("docker", "run", "--rm", "--tmpfs=/tmp", image, *CHECK[1:-1], stale, check=False)
    assert "AssertionError" in checked.stdout
