"""Built images and running containers; what is built is shared by the session, what runs is removed."""

import json
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Render
from tests.project import run

Build = Callable[..., str]
Start = Callable[..., "Container"]


@pytest.fixture(scope="session", autouse=True)
def _engine(engine: None) -> None:
    """Every test here needs an engine."""


@pytest.fixture(scope="session")
def build(render: Render) -> Iterator[Build]:
    """Return a function that builds the image of rendered answers and gives its name; it is removed at the end."""
    built: dict[str, str] = {}

    def build(**answers: Any) -> str:
        key = json.dumps(answers, sort_keys=True)
        if key not in built:
            image = f"test-{uuid.uuid4().hex[:8]}"
            run("make", "build", f"IMAGE={image}", cwd=render(**answers))
            built[key] = image
        return built[key]

    yield build
    subprocess.run(["docker", "image", "rm", "--force", *built.values()], capture_output=True)


class Container:
    """A running container."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        published = run("docker", "port", name, f"{port}/tcp").stdout.splitlines()[0]
        self.url = f"http://{published}"

    def inspect(self, template: str) -> str:
        return run("docker", "inspect", "--format", template, self.name).stdout.strip()

    def wait_until_healthy(self, seconds: float = 60) -> None:
        """Wait for Docker's own health status; fails with the log."""
        deadline = time.monotonic() + seconds
        while (status := self.inspect("{{.State.Health.Status}}")) != "healthy":
            if time.monotonic() > deadline or self.inspect("{{.State.Running}}") != "true":
                raise AssertionError(f"the container is {status}:\n{self.log()}")
            time.sleep(0.2)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return json.load(response)

    def log(self) -> str:
        return run("docker", "logs", self.name).stdout

    def files(self) -> list[str]:
        """Return the path of every file and directory of its root, without a leading slash."""
        return run("sh", "-c", f"docker export {self.name} | tar --list").stdout.splitlines()

    def execute(self, *command: str) -> str:
        return run("docker", "exec", self.name, *command).stdout


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that runs an image with extra arguments for `docker run`; its containers are removed."""
    names: list[str] = []

    def start(image: str, *arguments: str, port: int = 8000) -> Container:
        names.append(f"test-{uuid.uuid4().hex[:8]}")
        run("docker", "run", "--detach", "--name", names[-1], "--publish", f"127.0.0.1::{port}", *arguments, image)
        return Container(names[-1], port)

    yield start
    for name in names:
        run("docker", "rm", "--force", name)


@pytest.fixture(scope="session")
def default_repository(default: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the default repository that tests may write to."""
    copy = tmp_path_factory.mktemp("default") / "my-service"
    run("cp", "--recursive", default, copy)
    return copy
