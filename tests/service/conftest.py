"""A rendered service with its dependencies, in which the unit tests of ops run."""

import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.documents import blocks
from tests.support.template import PYTHON, ROOT, Render

OPS = Path(__file__).parent / "ops"
collect_ignore = [OPS.name]  # needs a service's dependencies

LIFESPAN = '''\
"""What docs/events.md writes into the lifespan."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from PACKAGE.settings import get_settings

from tests.ops.outbox import send


async def sending(app: FastAPI) -> AsyncIterator[None]:
    """Send events meanwhile."""
'''
SERVICES = {
    "default": {},
    "everything": {"kafka": True, "telemetry": True, "database": "postgres", "deploy": "cloudformation"},
}


@pytest.fixture(scope="session", params=SERVICES)
def service(request: pytest.FixtureRequest, render: Render) -> Path:
    """A service for the Python of these tests, with its dependencies and the tests of ops."""
    path = render(python_version=PYTHON, **SERVICES[request.param])
    shutil.copytree(OPS, path / "tests/ops", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/kafka/broker.py", path / "tests/ops")
    prices, outbox, lifespan = blocks((ROOT / "docs/events.md").read_text(), "python")
    sending = LIFESPAN + textwrap.indent(lifespan, "    ")
    for name, example in (("prices", prices), ("outbox", outbox), ("sending", sending)):
        (path / f"tests/ops/{name}.py").write_text(example.replace("PACKAGE", "my_service"))
    shutil.copytree(ROOT / "tests/container/ops", path / "ops/contract/ops")  # for mypy
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path
