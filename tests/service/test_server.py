"""What the service's server does differently from Uvicorn's, under Gunicorn."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, Render

IMPORTS = """\
import asyncio
import os

import structlog
from fastapi import FastAPI
"""

LIFESPAN = """\
    if os.environ.get("FAIL"):
        raise ConnectionError("no database")
    yield
    structlog.get_logger().info("closed")
"""

ROUTES = """

@app.get("/mark")
async def mark() -> None:
    structlog.contextvars.bind_contextvars(mark="of one request")


@app.get("/work")
async def work() -> None:
    structlog.get_logger().info("begun")
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(1)
        structlog.get_logger().info("rolled back")
"""

SLOW = """
import os
import time


def pre_fork(server: Arbiter, worker: object) -> None:
    time.sleep(float(os.environ.get("SLOW_MASTER", "0")))


def post_fork(server: Arbiter, worker: object) -> None:
    time.sleep(float(os.environ.get("SLOW_WORKER", "0")))
"""


class Service(Gunicorn):
    """A running service."""

    def __init__(self, repository: Path, log_file: Path) -> None:
        self.repository = repository
        self.log_file = log_file
        self.port = free_port()

    def begin(self, **settings: str) -> None:
        self.launch("my_service.main:app", self.port, self.repository, self.log_file, {"PYTHONPATH": "src", **settings})

    def start(self, **settings: str) -> None:
        self.begin(**settings)
        wait_until(lambda: b"200" in self.send("/health"))

    def send(self, *paths: str) -> bytes:
        """Send requests in one packet and return all that is answered."""
        requests = [f"GET {path} HTTP/1.1\r\nHost: service\r\n" for path in paths]
        requests[-1] += "Connection: close\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall("".join(f"{request}\r\n" for request in requests).encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def repository(render: Render) -> Path:
    path = render(python_version=PYTHON)
    main = path / "src/my_service/main.py"
    edit(main, "from fastapi import FastAPI\n", IMPORTS)
    edit(main, "    yield\n", LIFESPAN)
    main.write_text(main.read_text() + ROUTES)
    (path / "gunicorn.conf.py").write_text((path / "gunicorn.conf.py").read_text() + SLOW)
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


@pytest.fixture
def service(repository: Path, tmp_path: Path) -> Iterator[Service]:
    service = Service(repository, tmp_path / "log")
    try:
        yield service
    finally:
        service.kill()


def test_a_pipelined_request_does_not_inherit_the_context_of_the_one_before(service: Service) -> None:
    service.start()
    assert service.send("/mark", "/hello/Ada").count(b"200 OK") == 2
    marked, greeted = [event for event in service.events() if event["event"] == "request"]
    assert marked["mark"] == "of one request"
    assert "mark" not in greeted
    assert greeted["request_id"] != marked["request_id"]


def test_a_worker_with_too_many_connections_answers_503(service: Service) -> None:
    service.start(LIMIT_CONCURRENCY="2")
    with socket.create_connection(("127.0.0.1", service.port)):
        wait_until(lambda: b"503 Service Unavailable" in service.send("/hello/Ada"))
    wait_until(lambda: b"200 OK" in service.send("/hello/Ada"))


def test_the_lifespan_closes_what_it_holds_after_cancelled_requests_have_rolled_back(service: Service) -> None:
    service.start(DRAIN_SECONDS="1", GRACEFUL_TIMEOUT="8")  # leaves requests 1 s
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.send, "/work")
        wait_until(lambda: "begun" in service.log_file.read_text())
        service.stop()
        assert b"503 Service Unavailable" in answer.result()
    events = [event["event"] for event in service.events()]
    assert events.index("rolled back") < events.index("closed")


def test_a_stop_does_not_wait_for_a_worker_that_has_just_been_forked(service: Service) -> None:
    service.begin(SLOW_WORKER="2")
    wait_until(lambda: "Booting worker" in service.log_file.read_text())
    assert service.stop() < 10  # not the whole of the graceful timeout


def test_the_reason_is_last_also_when_several_workers_cannot_start(service: Service) -> None:
    service.begin(WEB_CONCURRENCY="3", SLOW_MASTER="1", FAIL="yes")  # two have failed when Gunicorn looks
    assert service.process.wait(60) == 3
    assert service.events()[-1]["event"] == "the service cannot start: ConnectionError: no database"
