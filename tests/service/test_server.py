"""What the service's server does differently from Uvicorn's, under Gunicorn."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, Render

IMPORTS = """\
import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import structlog
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse


def hide(logger: object, level: str, event: Any) -> Any:
    if "path" in event:
        event["path"] = event["path"].replace("hunter2", "hidden")
    return event
"""

LIFESPAN = """\
    structlog.get_logger().info("starting")
    if os.environ.get("FAIL") == "exit":
        sys.exit("no database")
    if os.environ.get("FAIL"):
        raise ConnectionError("no database")
    time.sleep(float(os.environ.get("SLOW_START", "0")))
    if start := os.environ.get("START"):
        with suppress(asyncio.CancelledError if start == "stubborn" else ()):
            await asyncio.sleep(60)
        await asyncio.sleep(60)
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
    if hasattr(app.state, "reason"):
        raise app.state.reason


@app.get("/die")
async def die(exits: bool = False) -> int:
    app.state.reason = SystemExit("exited") if exits else RuntimeError("the background task died")
    app.state.end.set()
    return os.getpid()


class Panic(BaseException):
    pass  # as a Rust library raises it


def end(kind: str) -> None:
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "panic": Panic}[kind]("ended")


async def end_soon(kind: str) -> None:
    await asyncio.sleep(0.01)
    end(kind)


async def ending(kind: str) -> AsyncIterator[str]:
    yield "begun"
    await end_soon(kind)


def ending_in_thread(kind: str) -> Iterator[str]:
    yield "begun"
    end(kind)


@app.get("/end/{place}/{kind}")
async def end_there(place: str, kind: str, tasks: BackgroundTasks) -> Any:
    if place == "stream":
        return StreamingResponse(ending(kind))
    if place == "stream-in-thread":
        return StreamingResponse(ending_in_thread(kind))
    if place == "background":
        tasks.add_task(end_soon, kind)
    if place == "background-in-thread":
        tasks.add_task(end, kind)
    if place == "task":
        asyncio.create_task(end_soon(kind))
    if place == "awaited-task":
        await asyncio.create_task(end_soon(kind))
    if place == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(end_soon(kind))
    if place == "thread":
        await asyncio.to_thread(end, kind)


app.get("/end-route/{kind}")(end_soon)
app.get("/end-route-in-thread/{kind}")(end)
app.get("/end-dependency/{kind}")(lambda kind, began=Depends(end_soon): None)
app.get("/end-after-answer/{kind}")(lambda kind, began=Depends(ending): None)
app.get("/end-after-answer-in-thread/{kind}")(lambda kind, began=Depends(ending_in_thread): None)


@app.websocket("/end-websocket/{kind}")
async def end_websocket(websocket: WebSocket, kind: str) -> None:
    await websocket.accept()
    await end_soon(kind)


@app.get("/limit/{files}")
async def limit(files: int) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return len(os.listdir("/proc/self/fd"))


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


@app.get("/shout")
async def shout() -> None:
    raise RuntimeError("x" * 100_000)


@app.get("/quick-thread")
def quick_thread() -> int:
    time.sleep(1)
    return 1


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


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    structlog.get_logger().info("begun")
    await websocket.receive()


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

HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
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

    def wait_for_line(self, text: str, before: int) -> None:
        """Return when a line of the log has a text, below the first ones."""
        wait_until(lambda: text in str(self.events()[before:]))

    def send(self, *paths: str) -> bytes:
        """Send requests in one packet and return all that is answered."""
        requests = [f"GET {path} HTTP/1.1\r\nHost: service\r\n" for path in paths]
        requests[-1] += "Connection: close\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall("".join(f"{request}\r\n" for request in requests).encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def talk(self, path: str = "/socket") -> bytes:
        """Open a WebSocket and return all that it says after its answer."""
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: service\r\n{HANDSHAKE}\r\n".encode())
            answer, _, said = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
            assert b"101 Switching" in answer
            return said

    def check(self) -> tuple[int, str | None, float]:
        """Return the status of a health check, what it says of its connection, and how many seconds it took."""
        began = time.monotonic()
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        connection.close()
        return answer.status, answer.getheader("connection"), time.monotonic() - began


@pytest.fixture(scope="module")
def repository(render: Render) -> Path:
    path = render(python_version=PYTHON)
    main = path / "src/my_service/main.py"
    edit(main, "from fastapi import FastAPI\n", IMPORTS)
    edit(main, "    yield\n", LIFESPAN)
    edit(main, "    lifespan,\n", "    lifespan,\n    [hide],\n")
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


def test_an_overloaded_worker_answers_health_checks_and_what_it_can_in_time(service: Service) -> None:
    service.start(TIMEOUT="2", WEB_CONCURRENCY="1")
    with ThreadPoolExecutor(60) as pool:
        answers = [pool.submit(service.send, "/compute") for _ in range(60)]  # 6 s, in one turn of an event loop
        health = 0
        while not all(answer.done() for answer in answers):
            assert b"200 OK" in service.send("/health")
            health += 1
    first_lines = Counter(answer.result().split(b"\r\n")[0] for answer in answers)
    assert first_lines.keys() == {b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable"}
    assert all(b"\r\nretry-after: 1\r\n" in answer.result() for answer in answers if b" 503 " in answer.result())
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


@pytest.mark.parametrize("middleware", ["", "yes"])
def test_a_worker_serves_until_it_is_replaced_and_what_lasts_ends_as_at_a_stop(
    service: Service, middleware: str
) -> None:
    settings = {"KEEPALIVE": "1", "DRAIN_SECONDS": "0", "GRACEFUL_TIMEOUT": "9"}  # leaves requests 3 s
    service.start(MAX_REQUESTS="30", TIMEOUT="2", MIDDLEWARE=middleware, **settings)
    with ThreadPoolExecutor() as pool:
        paths = ["/polite-events", "/events", "/work", "/thread"]
        polite, stream, work, thread = (pool.submit(service.send, path) for path in paths)
        websocket = pool.submit(service.talk)
        wait_until(lambda: service.log_file.read_text().count("begun") == len(paths) + 1)
        checks = []
        while service.log_file.read_text().count('"started"') == 1:
            checks.append(service.check())
            time.sleep(0.05)
        assert polite.result().endswith(b"data: last\n\n\r\n0\r\n\r\n")
        assert b"data: first" in stream.result()
        assert all(b"503 Service Unavailable" in answer.result() for answer in (work, thread))
        assert websocket.result() == b"\x88\x02" + (1012).to_bytes(2)
    statuses, connections, seconds = zip(*checks, strict=True)
    assert set(statuses) == {200}
    assert connections.count("close") > 50  # for 4 s
    assert max(seconds) < 2  # nobody listens
    log = service.log_file.read_text()
    assert not any(word in log for word in ("hangs", "ASGI", "TIMEOUT", "Bad file descriptor"))
    requests = {event["path"]: event for event in service.events() if event["event"] == "request"}
    assert (requests["/events"]["level"], requests["/events"]["aborted"]) == ("info", True)
    assert "exception" not in requests["/events"]


def test_a_request_that_comes_while_a_worker_is_replaced_is_served(service: Service) -> None:
    service.start(MAX_REQUESTS="1", KEEPALIVE="1", DRAIN_SECONDS="0")
    with ThreadPoolExecutor() as pool:
        pool.submit(service.send, "/quick-thread")  # the worker waits for it
        late = [pool.submit(time_later, service, seconds / 10) for seconds in range(20)]
        assert all(b"200 OK" in answer.result() for answer in late)
    assert service.log_file.read_text().count('"started"') > 1


def time_later(service: Service, seconds: float) -> bytes:
    """Send a request of a second after that time."""
    time.sleep(seconds)
    return service.send("/quick-thread")


def test_a_stop_of_a_worker_that_is_being_replaced_drains(service: Service) -> None:
    service.start(MAX_REQUESTS="1", KEEPALIVE="1", DRAIN_SECONDS="3", GRACEFUL_TIMEOUT="11")  # leaves requests 2 s
    with ThreadPoolExecutor() as pool:
        events = pool.submit(service.send, "/polite-events")
        wait_until(lambda: "is replaced" in service.log_file.read_text())
        stop = pool.submit(service.stop)
        wait_until(lambda: service.check()[0] == 503)
        time.sleep(2)  # it would have ended by now
        assert b"200 OK" in service.send("/hello/Ada")
        assert 3 < stop.result() < 8
        assert b"data: last" in events.result()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_other_signals_stop_as_sigterm_does(service: Service, number: signal.Signals) -> None:
    service.start(DRAIN_SECONDS="1")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.send, "/compute")
        service.process.send_signal(number)
        assert service.process.wait(10) == 0  # not the whole of the graceful timeout
        assert b"200 OK" in answer.result()
    assert "SIGKILL" not in service.log_file.read_text()


def test_new_workers_after_sighup_log_by_the_services_processors(service: Service) -> None:
    service.start(DRAIN_SECONDS="0")
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: '"stopped"' in service.log_file.read_text())  # the worker of before
    assert b"200 OK" in service.send("/hello/hunter2")
    assert [event["path"] for event in service.events() if event["event"] == "request"] == ["/hello/hidden"]


@pytest.mark.parametrize("max_requests", ["0", "1"])
def test_a_stop_that_hangs_says_so_before_it_is_killed(service: Service, max_requests: str) -> None:
    service.start(DRAIN_SECONDS="0", GRACEFUL_TIMEOUT="7", HANG="yes", MAX_REQUESTS=max_requests, TIMEOUT="8")
    if max_requests == "0":
        service.stop()
    else:
        wait_until(lambda: "WORKER TIMEOUT" in service.log_file.read_text())
    (line,) = [event for event in service.events() if event["event"] == "the stop hangs and is killed"]
    assert (line["level"], line["waits_for"]) == ("critical", "the lifespan")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_ends_a_start(service: Service, workers: int) -> None:
    service.begin(START="waits", WEB_CONCURRENCY=str(workers))
    wait_until(lambda: service.log_file.read_text().count('"starting"') == workers)
    assert service.stop() < 3
    stopped = [event for event in service.events() if event["event"] == "stopped during the start"]
    assert len(stopped) == workers
    assert all("await asyncio.sleep(60)" in event["exception"] for event in stopped)
    assert {event["level"] for event in service.events()} == {"info"}


def test_a_stop_counts_the_time_of_a_start_that_blocks_the_event_loop(service: Service) -> None:
    service.begin(SLOW_START="6", DRAIN_SECONDS="5")
    wait_until(lambda: '"starting"' in service.log_file.read_text())
    assert service.stop() < 9
    assert "closed" in service.log_file.read_text()


@pytest.mark.parametrize("start", [{"START": "stubborn"}, {"SLOW_START": "60"}])
def test_a_start_that_does_not_let_itself_be_stopped_is_named(service: Service, start: dict[str, str]) -> None:
    service.begin(DRAIN_SECONDS="0", GRACEFUL_TIMEOUT="7", **start)
    wait_until(lambda: '"starting"' in service.log_file.read_text())
    service.stop()
    (line,) = [event for event in service.events() if event["event"] == "the stop hangs and is killed"]
    assert (line["level"], line["waits_for"]) == ("critical", "the start of the lifespan")


def test_a_stop_does_not_wait_for_a_worker_that_has_just_been_forked(service: Service) -> None:
    service.begin(SLOW_WORKER="2")
    wait_until(lambda: "Booting worker" in service.log_file.read_text())
    assert service.stop() < 10  # not the whole of the graceful timeout


@pytest.mark.parametrize(("path", "reason"), [("/die", "the background task died"), ("/die?exits=yes", "exited")])
def test_a_worker_whose_lifespan_has_ended_is_replaced(service: Service, path: str, reason: str) -> None:
    service.start(DRAIN_SECONDS="1")
    dead = service.send(path).split()[-1]
    wait_until(lambda: service.log_file.read_text().count('"started"') == 2)
    wait_until(lambda: b"200 OK" in service.send("/health"))
    critical, *others = [event for event in service.events() if reason in event.get("exception", "")]
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


def test_a_worker_without_file_descriptors_says_so_and_recovers(service: Service) -> None:
    service.start(DRAIN_SECONDS="0")
    event = "the worker cannot open files, nor take connections"
    open_files = int(service.send("/limit/1000").split()[-1])
    service.send(f"/limit/{open_files + 10}")
    began = time.monotonic()
    with ExitStack() as clients:
        for _ in range(50):
            clients.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        wait_until(lambda: event in service.log_file.read_text())
        time.sleep(2)
    wait_until(lambda: b"200 OK" in service.send("/hello/Ada"))
    lines = [line for line in service.events() if line["event"] == event]
    assert len(lines) <= 1 + time.monotonic() - began
    assert "Too many open files" in lines[0]["reason"]
    assert service.log_file.read_text().count('"Booting worker') == 1


UNANSWERED = ("route", "route-in-thread", "dependency", "awaited-task", "group", "thread")
ENDS = {
    **{f"/end-{place}/": b"500 Internal" for place in UNANSWERED[:3]},
    **{f"/end/{place}/": b"500 Internal" for place in UNANSWERED[3:]},
    **{f"/end-after-answer{where}/": b"null" for where in ("", "-in-thread")},
    **{f"/end/stream{where}/": b"begun" for where in ("", "-in-thread")},
    **{f"/end/{place}/": b"null" for place in ("background", "background-in-thread", "task")},
}


@pytest.mark.parametrize("middleware", ["", "yes"])
def test_whatever_ends_a_part_of_a_request_ends_no_worker_and_has_an_answer_and_a_line(
    service: Service, middleware: str
) -> None:
    service.start(MIDDLEWARE=middleware, DRAIN_SECONDS="0")
    for kind, name in {"exit": "SystemExit", "interrupt": "KeyboardInterrupt", "panic": "Panic"}.items():
        for path, answer in ENDS.items():
            before = len(service.events())
            assert answer in service.send(path + kind), path + kind
            service.wait_for_line(f"{name}: ended", before)
        before = len(service.events())
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(f"GET /end-websocket/{kind} HTTP/1.1\r\nHost: service\r\n{HANDSHAKE}\r\n".encode())
            assert b"101 Switching" in client.recv(65536)
            service.wait_for_line(f"{name}: ended", before)
    assert b"200 OK" in service.send("/hello/Ada")
    service.stop()
    requests = [event for event in service.events() if event["event"] == "request"]
    assert len(requests) == 3 * len(ENDS) + 1
    assert service.log_file.read_text().count('"Booting worker') == 1


def test_the_reason_of_an_exit_of_the_lifespan_is_last(service: Service) -> None:
    service.begin(FAIL="exit")
    assert service.process.wait(60) == 3
    assert service.events()[-1]["event"] == "the service cannot start: SystemExit: no database"


def test_the_reason_is_last_also_when_several_workers_cannot_start(service: Service) -> None:
    service.begin(WEB_CONCURRENCY="3", SLOW_MASTER="1", FAIL="yes")  # two have failed when Gunicorn looks
    assert service.process.wait(60) == 3
    assert service.events()[-1]["event"] == "the service cannot start: ConnectionError: no database"


def test_a_log_that_nobody_reads_stops_nothing_and_then_says_how_many_lines_are_lost(
    service: Service, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # or nobody could write
    long = "/" + "x" * 3000  # 30 of its lines fill a pipe; one of a failure is written in parts
    service.log_file = fifo
    service.start(DRAIN_SECONDS="0", WEB_CONCURRENCY="2", TIMEOUT="2")
    for path in [long] * 50 + ["/shout"]:
        service.send(path)
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    before = set(children.read_text().split())
    os.kill(int(min(before)), signal.SIGKILL)  # Gunicorn's master has lines to write about that
    wait_until(lambda: len(before | set(children.read_text().split())) == 3)
    assert all(b"200 OK" in service.send("/health") for _ in range(20))

    read = b""
    for _ in range(20):  # each worker says what it has lost
        service.send("/hello/Ada")
        read += read_all(reader)
    lines = [json.loads(line) for line in read.splitlines()]
    assert any(line.get("lines_lost", 0) > 0 for line in lines)
    assert any(line.get("path") == "/hello/Ada" for line in lines)
    for _ in range(50):
        service.send(long)
    service.stop()
    os.close(reader)


def read_all(descriptor: int) -> bytes:
    """Return what is in a pipe now."""
    read = b""
    with suppress(BlockingIOError):
        while more := os.read(descriptor, 2**20):
            read += more
    return read


def test_a_result_is_answered_though_many_handlers_wait_for_a_thread(service: Service) -> None:
    service.start(THREADS="2", DRAIN_SECONDS="0", GRACEFUL_TIMEOUT="8")  # leaves requests 2 s
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(service.send, "/quick-thread") for _ in range(10)]
        wait_until(lambda: any(answer.done() for answer in answers))
        assert sum(answer.done() for answer in answers) <= 2  # FastAPI's own way: none before all have run
        service.stop()
    statuses = Counter(answer.result().split()[1] for answer in answers)
    assert statuses.keys() == {b"200", b"503"}
    assert statuses[b"200"] >= 4  # what has run before the stop, and in its time


def test_a_number_of_workers_that_is_none_ends_the_start_with_one_line(service: Service) -> None:
    service.begin(WEB_CONCURRENCY="hunter2")
    assert service.process.wait(60) == 1
    (line,) = service.events()
    assert line["event"] == "wrong settings"
    assert "web_concurrency" in line["reason"]
    assert "hunter2" not in str(line)


def test_a_stop_before_gunicorn_is_there_ends_the_process(service: Service) -> None:
    service.begin()
    wait_until(lambda: handles(service.process.pid, signal.SIGTERM))  # with the id 1, it would ignore it until then
    service.process.terminate()
    assert service.process.wait(60) == 0
    assert service.log_file.read_text() == ""


def handles(process: int, number: int) -> bool:
    """Say whether a process has a handler for a signal."""
    (caught,) = re.findall(r"SigCgt:\s(\w+)", Path(f"/proc/{process}/status").read_text())
    return bool(int(caught, 16) & 1 << number - 1)
