"""`make deploy` of a service with a database: first the migrations, then the tasks that need them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import FSD
from tests.support.commands import commit
from tests.support.template import Render

IMAGE = f"example.com/my-service@sha256:{'0' * 64}"
# test_task.py tests the real one against AWS's API.
TASK = """#!/usr/bin/env bash
[ "$2" = "python -m my_service.ops.migrate" ] && [ "$IMAGE_TAG" = "$(git rev-parse HEAD)" ] || exit 9
echo "task $1" >>../order
exit "$(sed -n "$(grep -c task ../order)p" ../exits)"
"""


@pytest.fixture
def repository(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed service, with stand-ins for `fsd` and for the scripts that `deploy/release` calls."""
    path = tmp_path / "my-service"
    shutil.copytree(render(database="postgres"), path)
    (tmp_path / "bin").mkdir()
    fsd = FSD.replace("print(", 'open("../order", "a").write("fsd\\n"); print(')
    scripts = {
        path / "deploy/image": f"#!/bin/sh\necho {IMAGE}\n",
        path / "deploy/task": TASK,
        tmp_path / "bin/fsd": fsd,
    }
    for script, text in scripts.items():
        script.write_text(text)
        script.chmod(0o755)
    commit(path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}", prepend=":")
    return path


@pytest.mark.parametrize(
    ("exits", "order", "said"),
    [
        ([0], ["task stage", "fsd"], ""),
        ([1], ["task stage"], "The migration has failed, so nothing is deployed."),
        ([3, 0], ["task stage", "fsd", "task stage"], ""),  # 3: there is no service yet
        ([3, 1], ["task stage", "fsd", "task stage"], "The migration has failed: deploy again once it can run."),
    ],
)
def test_a_deployment_migrates_first_and_ends_when_that_fails(
    repository: Path, exits: list[int], order: list[str], said: str
) -> None:
    repository.with_name("exits").write_text("".join(f"{code}\n" for code in exits))
    done = subprocess.run(["deploy/release", "stage"], cwd=repository, env=os.environ, text=True, capture_output=True)
    assert repository.with_name("order").read_text().splitlines() == order, done.stderr
    assert (done.returncode != 0) == bool(said), done.stderr
    assert said in done.stderr
