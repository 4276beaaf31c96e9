"""A Kafka cluster, a service that consumes from it, and how both are disturbed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.cluster import Broker, Service
from tests.support.commands import run
from tests.support.template import PYTHON, Render

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def repository(render: Render) -> Path:
    """A rendered repository for the Python of these tests, with its dependencies and our event flow."""
    path = render(kafka=True, python_version=PYTHON)
    (path / "src/my_service/events.py").write_text((HERE / "events.py").read_text())
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker.running() as broker:
        yield broker


@pytest.fixture
def service(repository: Path, broker: Broker, tmp_path: Path) -> Iterator[Service]:
    """A service that has not been started."""
    with Service.with_brokers(broker.address, repository, tmp_path) as service:
        yield service
