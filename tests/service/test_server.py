"""What the service's server does differently from Uvicorn's, under Gunicorn."""

import signal
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
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
"""

LIFESPAN = """\
    if os.environ.get("FAIL") == "exit":
        sys.exit("no database")
    if os.environ.get("FAIL"):
        raise ConnectionError("no database")
    time.sleep(float(os.environ.get("SLOW_START", "0")))
    async with asyncio.TaskGroup() as group:
        app.state.end = asyncio.Event()
        group.create_task(consume(app.state.end))
        yield
        app.state.end.set()
    if os.environ.get("HANG"):
        await asyncio.sleep(60)
    structlog.get_logger().info("closed")
"""

ROUTES = """

async def consume(end: asyncio.Event) -> None:
    await end.wait()
    if not app.state.draining:
        raise RuntimeError("the background task died")


@app.get("/die")
async def die() -> int:
    app.state.end.set()
    return os.getpid()


@app.get("/exit/{code}")
def exit(code: int) -> None:
    sys.exit(code)


async def passes(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


if os.environ.get("MIDDLEWARE"):
    app.middleware("http")(passes)


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


@app.get("/thread")
def thread() -> None:
    structlog.get_logger().info("begun")
    time.sleep(20)


@app.get("/events")
async def events() -> StreamingResponse:
    async def forever() -> AsyncIterator[str]:
        structlog.get_logger().info("begun")
        yield "data: first\\n\\n"
        await asyncio.sleep(60)

    return StreamingResponse(forever())


@app.get("/polite-events")
async def polite_events(request: Request) -> StreamingResponse:
    async def until_stop() -> AsyncIterator[str]:
        structlog.get_logger().info("begun")
        yield "data: first\\n\\n"
        await request.app.state.stopping.wait()
        yield "data: last\\n\\n"

    return StreamingResponse(until_stop())


@app.get("/compute")
async def compute() -> None:
    ended = time.monotonic() + 0.1
    while time.monotonic() < ended:
        pass


if os.environ.get("MIDDLEWARE"):

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Response:
        return await call_next(request)
"""

SLOW = """
import os
import time


def pre_fork(server: Arbiter, worker: object) -> None:
    time.sleep(float(os.environ.get("SLOW_MASTER", "0")))


def post_fork(server: Arbiter, worker: object) -> None:
    time.sleep(float(os.environ.get("SLOW_WORKER", "0")))
    hung = os.environ.get("HANGS_ONCE")
    if hung and not os.path.exists(hung):
        open(hung, "w").close()
        time.sleep(1000)
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


def test_a_worker_with_too_many_requests_answers_503_but_health_checks(service: Service) -> None:
    service.start(LIMIT_CONCURRENCY="2", DRAIN_SECONDS="0", GRACEFUL_TIMEOUT="7")
    with ThreadPoolExecutor() as pool, socket.create_connection(("127.0.0.1", service.port)):  # an idle one
        assert b"200 OK" in service.send("/hello/Ada")
        answers = [pool.submit(service.send, path) for path in ("/work", "/thread")]
        wait_until(lambda: service.log_file.read_text().count("begun") == len(answers))
        refused = service.send("/hello/Ada")
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in refused
        assert b'{"detail":"The service is busy.","request_id":"' in refused
        assert b"200 OK" in service.send("/health")
        service.stop()
    assert [event["status"] for event in service.events() if event["event"] == "request"] == [200, 503, 503, 503]


def test_a_stream_whose_answer_has_begun_takes_no_room(service: Service) -> None:
    service.start(LIMIT_CONCURRENCY="1", DRAIN_SECONDS="0")
    with ThreadPoolExecutor() as pool:
        pool.submit(service.send, "/polite-events")
        wait_until(lambda: "begun" in service.log_file.read_text())
        assert b"200 OK" in service.send("/hello/Ada")
        service.stop()


def test_a_worker_that_only_computes_is_not_killed_and_answers_health_checks(service: Service) -> None:
    service.start(TIMEOUT="2", WEB_CONCURRENCY="1")
    with ThreadPoolExecutor(60) as pool:
        answers = [pool.submit(service.send, "/compute") for _ in range(60)]  # 6 s, in one turn of an event loop
        health = 0
        while not all(answer.done() for answer in answers):
            assert b"200 OK" in service.send("/health")
            health += 1
        assert {answer.result().split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert health > 1
    assert not any("hangs" in event["event"] for event in service.events())


def test_the_lifespan_closes_what_it_holds_after_cancelled_requests_have_rolled_back(service: Service) -> None:
    service.start(DRAIN_SECONDS="1", GRACEFUL_TIMEOUT="8")  # leaves requests 1 s
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.send, "/work")
        wait_until(lambda: "begun" in service.log_file.read_text())
        service.stop()
        assert b"503 Service Unavailable" in answer.result()
    events = [event["event"] for event in service.events()]
    assert events.index("rolled back") < events.index("closed")
    assert not [event for event in events if "ASGI" in event]  # the line of the request says all


@pytest.mark.parametrize("middleware", ["", "yes"])
def test_each_request_that_outlives_the_stop_has_an_answer_and_a_line(service: Service, middleware: str) -> None:
    service.start(DRAIN_SECONDS="1", GRACEFUL_TIMEOUT="8", MIDDLEWARE=middleware)
    with ThreadPoolExecutor() as pool:
        thread, events = (pool.submit(service.send, path) for path in ("/thread", "/events"))
        wait_until(lambda: service.log_file.read_text().count("begun") == 2)
        service.stop()
        assert b"503 Service Unavailable" in thread.result()
        assert b"data: first" in events.result()
    requests = {event["path"]: event for event in service.events() if event["event"] == "request"}
    assert (requests["/thread"]["status"], requests["/thread"]["level"]) == (503, "error")
    stream = requests["/events"]
    assert (stream["status"], stream["level"], stream["aborted"]) == (200, "info", True)
    assert "exception" not in stream
    assert len(requests) == 2
    log = service.log_file.read_text()
    assert "completing response" not in log
    assert "Bad file descriptor" not in log


def test_a_stream_can_end_itself_when_the_service_stops(service: Service) -> None:
    service.start(DRAIN_SECONDS="1")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.send, "/polite-events")
        wait_until(lambda: "begun" in service.log_file.read_text())
        service.stop()
        assert b"data: last" in answer.result()
        assert answer.result().endswith(b"0\r\n\r\n")
    (line,) = [event for event in service.events() if event["event"] == "request"]
    assert "aborted" not in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_other_signals_stop_as_sigterm_does(service: Service, number: signal.Signals) -> None:
    service.start(DRAIN_SECONDS="1")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.send, "/compute")
        service.process.send_signal(number)
        assert service.process.wait(10) == 0  # not the whole of the graceful timeout
        assert b"200 OK" in answer.result()
    assert "SIGKILL" not in service.log_file.read_text()


def test_a_stop_that_hangs_says_so_before_it_is_killed(service: Service) -> None:
    service.start(DRAIN_SECONDS="0", GRACEFUL_TIMEOUT="7", HANG="yes")
    service.stop()
    (line,) = [event for event in service.events() if event["event"] == "the stop hangs and is killed"]
    assert (line["level"], line["waits_for"]) == ("critical", "the lifespan")


def test_a_stop_does_not_wait_for_a_worker_that_has_just_been_forked(service: Service) -> None:
    service.begin(SLOW_WORKER="2")
    wait_until(lambda: "Booting worker" in service.log_file.read_text())
    assert service.stop() < 10  # not the whole of the graceful timeout


def test_a_worker_whose_lifespan_has_ended_is_replaced(service: Service) -> None:
    service.start(DRAIN_SECONDS="1")
    dead = service.send("/die").split()[-1]
    wait_until(lambda: service.log_file.read_text().count('"started"') == 2)
    wait_until(lambda: b"200 OK" in service.send("/health"))
    critical, *others = [
        event for event in service.events() if "the background task died" in event.get("exception", "")
    ]
    assert service.send("/die").split()[-1] != dead
    assert critical["event"] == "the lifespan has ended, and the worker is replaced"
    assert others == []


def test_a_worker_that_never_reports_is_replaced_and_a_slow_start_is_not(service: Service, tmp_path: Path) -> None:
    worker = service.repository / "src/my_service/ops/worker.py"
    edit(worker, "START_SECONDS = 300", "START_SECONDS = 3")
    try:
        service.begin(HANGS_ONCE=str(tmp_path / "hung"), TIMEOUT="1", SLOW_START="2")
        wait_until(lambda: '"started"' in service.log_file.read_text(), 20)
        log = service.log_file.read_text()
        assert log.count("WORKER TIMEOUT") == 1
        assert log.count("Booting worker") == 2
    finally:
        edit(worker, "START_SECONDS = 3", "START_SECONDS = 300")


def test_an_exit_in_a_handler_ends_no_worker(service: Service) -> None:
    service.start(MIDDLEWARE="yes")  # below it, the handler runs in a task
    assert b'{"detail":"Internal Server Error","request_id":' in service.send("/exit/3")
    assert b"200 OK" in service.send("/hello/Ada")
    assert service.log_file.read_text().count('"Booting worker') == 1


def test_the_reason_of_an_exit_of_the_lifespan_is_last(service: Service) -> None:
    service.begin(FAIL="exit")
    assert service.process.wait(60) == 3
    assert service.events()[-1]["event"] == "the service cannot start: SystemExit: no database"


def test_the_reason_is_last_also_when_several_workers_cannot_start(service: Service) -> None:
    service.begin(WEB_CONCURRENCY="3", SLOW_MASTER="1", FAIL="yes")  # two have failed when Gunicorn looks
    assert service.process.wait(60) == 3
    assert service.events()[-1]["event"] == "the service cannot start: ConnectionError: no database"
