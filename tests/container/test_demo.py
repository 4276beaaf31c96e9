"""The README's commands; the first with a container engine and without one."""

import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.commands import run, wait_until
from tests.support.documents import blocks
from tests.support.template import NEWEST, ROOT

pytestmark = pytest.mark.usefixtures("port_8000")

DOWN = ("docker", "compose", "down", "--rmi", "local")
HEALTH = "http://127.0.0.1:8000/health"


def is_healthy() -> bool:
    try:
        with urllib.request.urlopen(HEALTH, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_service_of_ones_own_starts_by_the_commands_of_the_readme(template: Path, tmp_path: Path) -> None:
    """`make demo` is tested below."""
    demo, own = blocks((ROOT / "README.md").read_text())
    assert demo == "make demo\n"
    clone = tmp_path / "copier-fastapi-ecs"
    run("git", "clone", "--quiet", template, clone)
    try:
        run("bash", "-euc", own.replace("copier copy", f"copier copy --defaults --vcs-ref {NEWEST}"), cwd=clone)
        assert is_healthy()
    finally:
        run(*DOWN, cwd=tmp_path / "my-service")


def test_the_demo_ends_with_a_healthy_service(template: Path) -> None:
    assert not is_healthy(), "another program answers on port 8000"
    try:
        printed = run("make", "demo", cwd=template).stdout
        assert f"The service is healthy: {HEALTH}" in printed
        assert is_healthy()
    finally:
        run(*DOWN, cwd=template / "demo/my-service")


def test_the_demo_runs_without_an_engine_until_it_is_interrupted(template: Path) -> None:
    demo = subprocess.Popen(
        ["make", "demo"],
        cwd=template,
        env=os.environ | {"DOCKER_HOST": "tcp://127.0.0.1:1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: is_healthy() or demo.poll() is not None, seconds=120)
    healthy = is_healthy()
    time.sleep(2)  # the demo looks five times a second
    os.killpg(demo.pid, signal.SIGINT)
    printed, _ = demo.communicate(timeout=60)
    assert healthy, printed
    assert f"The service is healthy: {HEALTH}" in printed
    assert not is_healthy()
