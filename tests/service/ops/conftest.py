"""Applications and log output for the tests of ops, which run inside a rendered service."""

import json
import logging
from importlib.util import find_spec
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from my_service.ops.app import create_app
from my_service.ops.settings import OpsSettings

from .log_lines import LogLines

NEEDS = {
    "test_database.py": "sqlalchemy",
    "test_kafka.py": "aiokafka",
    "test_telemetry.py": "opentelemetry.exporter",
}  # what some services have
collect_ignore = (
    [] if find_spec("aiokafka") and find_spec("sqlalchemy") else ["outbox.py", "prices.py", "test_events_page.py"]
)
collect_ignore += [name for name, module in NEEDS.items() if not find_spec(module)]


@pytest.fixture(autouse=True)
def quiet_client() -> None:
    """Keep the test client's own lines out of the log."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> LogLines:
    """Return what has been logged since the last call; fails on a line that is not one JSON object."""

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        return lines

    return read


@pytest.fixture
def service() -> FastAPI:
    """An application without the service's own routes."""
    return create_app(OpsSettings(environment="test", service_version="abc123", service_name="example"))


@pytest.fixture
def service_client(service: FastAPI) -> TestClient:
    """A client that sees error responses, as one over the network does."""
    return TestClient(service, raise_server_exceptions=False)
