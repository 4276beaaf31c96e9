"""Built images and running containers; what is built is shared by the session, what runs is removed."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run
from tests.support.containers import Build, Start, docker, running
from tests.support.template import Render

collect_ignore = ["ops"]  # runs inside the contract tests of a service, see test_contract.py


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
    docker("image", "rm", "--force", name)


@pytest.fixture
def default_repository(default: Path, tmp_path: Path) -> Path:
    """A copy of the default repository, the test's own to write to."""
    copy = tmp_path / default.name
    shutil.copytree(default, copy)
    return copy


@pytest.fixture
def path_without_uv(tmp_path: Path) -> str:
    """A PATH with all that is on this machine's, but not uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*"):
            if program.name not in ("uv", "uvx") and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)
