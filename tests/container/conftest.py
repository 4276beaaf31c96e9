"""Built images and running containers; what is built is shared by the session, what runs is removed."""

import json
import shutil
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
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
        self.port = port

    def inspect(self, template: str) -> str:
        return run("docker", "inspect", "--format", template, self.name).stdout.strip()

    def wait_until_healthy(self, seconds: float = 60) -> None:
        """Wait for Docker's own health status; fails with the log."""
        deadline = time.monotonic() + seconds
        while (status := self.inspect("{{.State.Health.Status}}")) != "healthy":
            if time.monotonic() > deadline or self.inspect("{{.State.Running}}") != "true":
                raise AssertionError(f"the container is {status}:\n{self.log()}")
            time.sleep(0.2)

    @cached_property
    def url(self) -> str:
        """Where it is published; a container that has ended is nowhere."""
        return "http://" + run("docker", "port", self.name, f"{self.port}/tcp").stdout.splitlines()[0]

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


@contextmanager
def running(image: str, *arguments: str, port: int = 8000) -> Iterator[Container]:
    """Run an image with extra arguments for `docker run`; the container is removed at the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    run("docker", "run", "--detach", "--name", name, "--publish", f"127.0.0.1::{port}", *arguments, image)
    try:
        yield Container(name, port)
    finally:
        run("docker", "rm", "--force", name)


@pytest.fixture
def start() -> Iterator[Start]:
    """Return `running` as a function; its containers are removed after the test."""
    with ExitStack() as containers:
        yield lambda *arguments, **options: containers.enter_context(running(*arguments, **options))


@pytest.fixture
def image() -> Iterator[str]:
    """A name for an image that the test builds; the image is removed after the test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    run("docker", "image", "rm", "--force", name)


@pytest.fixture
def default_repository(default: Path, tmp_path: Path) -> Path:
    """A copy of the default repository, the test's own to write to."""
    copy = tmp_path / "my-service"
    shutil.copytree(default, copy)
    return copy
