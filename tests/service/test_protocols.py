"""What becomes of the bytes of a connection, under Gunicorn and in development."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, Render

IMPORTS = """\
import asyncio
import json
import os
from pathlib import Path
from typing import Any

import sentry_sdk
from fastapi import BackgroundTasks, FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from sentry_sdk.transport import Transport
"""

MAIN = '''

def track(tracker: str, reason: object) -> None:
    with Path(os.environ["TRACKED"]).open("a") as file:
        file.write(f"{tracker}: {reason}\\n")


class Tracked(Transport):
    """Where Sentry sends its events."""

    def capture_envelope(self, envelope: Any) -> None:
        for event in filter(None, (item.get_event() for item in envelope.items)):
            errors = event.get("exception", {}).get("values") or [{"value": event.get("logentry")}]
            track("Sentry", [error["value"] for error in errors])


sentry_sdk.init("http://key@127.0.0.1:9/1", transport=Tracked)


@app.api_route("/echo", methods=["GET", "POST"])
async def echo(request: Request) -> str:
    return (await request.body()).decode()


@app.post("/headers")
async def headers(request: Request) -> dict[str, str]:
    await request.body()
    return dict(request.headers)


@app.get("/sleep/{seconds}")
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def begin() -> Any:
        yield b"begun"
        await asyncio.sleep(60)

    return StreamingResponse(begin())


@app.get("/broken/{mark}")
async def broken(mark: str) -> None:
    raise RuntimeError(mark)


@app.get("/late/{mark}")
async def late(mark: str, tasks: BackgroundTasks) -> None:
    tasks.add_task(broken, mark)


@app.get("/torn/{mark}")
async def torn(mark: str) -> StreamingResponse:
    async def half() -> Any:
        yield b"half"
        raise RuntimeError(mark)

    return StreamingResponse(half())


@app.websocket("/accepted")
async def accepted(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@app.websocket("/listen")
async def listen(websocket: WebSocket) -> None:
    await websocket.accept()
    while await websocket.receive_text() != "end":
        pass
    await websocket.close()


@app.websocket("/denied")
async def denied(websocket: WebSocket) -> None:
    await websocket.send_denial_response(Response(status_code=401))


@app.websocket("/failed")
async def failed(websocket: WebSocket) -> None:
    raise RuntimeError("failed")


inner = app


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Wrap the application, as each tracker but Sentry does."""
    if scope.get("path") == "/refused":
        raise PermissionError("refused outside")
    try:
        await inner(scope, receive, send)
    except Exception as error:
        track("outside", error)
        raise
'''

KEY = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
HANDSHAKE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}"
# What Java's HttpClient and curl --http2 send with each request in clear text, and others that no service takes.
OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "TLS": "upgrade: TLS/1.2\r\nconnection: keep-alive\r\nconnection: UPGRADE\r\n",
    "WebSocket by POST": HANDSHAKE,
    "two": "Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
}
SMUGGLED = "GET /hello/STOLEN HTTP/1.1\r\nHost: service\r\n\r\n"
HALF = len(SMUGGLED) // 2
CHUNKED = f"{HALF:x}\r\n{SMUGGLED[:HALF]}\r\n{len(SMUGGLED) - HALF:X};note=1\r\n{SMUGGLED[HALF:]}\r\n0\r\n\r\n"
BODIES = {
    "length": (f"Content-Length: {len(SMUGGLED)}\r\n", SMUGGLED, SMUGGLED),
    "chunks": ("Transfer-Encoding: chunked\r\n", CHUNKED, SMUGGLED),
    "empty": ("Content-Length: 0\r\n", "", ""),
    "none": ("", "", ""),
}
LAST = "GET /hello/Ada HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
GREETED = (200, {"message": "Hello, Ada!"})


def post(*headers: str, path: str = "/echo", version: str = "1.1") -> str:
    """Return the head of a request."""
    return f"POST {path} HTTP/{version}\r\nHost: service\r\n{''.join(headers)}\r\n"


def parse(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Return the status and the content of each answer."""
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        body = raw[:length]
        yield int(head.split()[1]), json.loads(body) if b"application/json" in head else body.decode()
        raw = raw[length:]


class Server(Gunicorn):
    """A running service; the log has JSON lines, and in development the lines of make and the reloader."""

    def __init__(self, repository: Path, folder: Path, port: int) -> None:
        self.port = port
        self.log_file = folder / "log"
        self.tracked = folder / "tracked"
        environment = {"PYTHONPATH": "src", "DRAIN_SECONDS": "0", "TRACKED": str(self.tracked)}
        self.launch("my_service.main:app", port, repository, self.log_file, environment)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def talk(self, *packets: str) -> list[tuple[int, Any]]:
        """Send packets on one connection and return all answers until the service closes it."""
        with self.connect() as connection:
            for packet in packets:
                connection.sendall(packet.encode())
                time.sleep(0.005)
            return list(parse(b"".join(iter(lambda: connection.recv(65536), b""))))

    def lines(self, text: str) -> list[dict[str, Any]]:
        """Return the lines of the log that have a text."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line[:1] == "{" and text in line]


class Development(Server):
    """The same by make run."""

    def launch(self, app: str, port: int, repository: Path, log_file: Path, environment: dict[str, str]) -> None:
        with log_file.open("a") as log:
            self.process = subprocess.Popen(
                ["make", "run"],
                cwd=repository,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def repository(render: Render, port: int) -> Path:
    path = render(python_version=PYTHON, port=port)
    main = path / "src/my_service/main.py"
    edit(main, "from fastapi import FastAPI\n", IMPORTS)
    main.write_text(main.read_text() + MAIN)
    run("uv", "add", "--quiet", "--python", sys.executable, "sentry-sdk", cwd=path)
    return path


@pytest.fixture(scope="module", params=[Server, Development])
def server(
    request: pytest.FixtureRequest, repository: Path, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = request.param(repository, tmp_path_factory.mktemp("server"), port)
    try:
        wait_until(lambda: server.talk(LAST) == [GREETED])
        yield server
    finally:
        server.kill()


def test_the_api_documentation_is_served_in_development_alone(server: Server) -> None:
    ((status, _),) = server.talk(LAST.replace("/hello/Ada", "/openapi.json"))
    assert status == (200 if isinstance(server, Development) else 404)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_request_that_offers_another_protocol_keeps_its_body(
    server: Server, offer: str, version: str, body: str
) -> None:
    framing, sent, received = BODIES[body]
    head = post(
        OFFERS[offer].replace("keep-alive", "close"), framing, "Connection: Upgrade, close\r\n", version=version
    )
    assert server.talk(head + sent) == [(200, received)]
    assert server.talk(head, sent) == [(200, received)]


def test_several_offers_on_one_connection_may_be_split_anywhere(server: Server) -> None:
    requests = [post(OFFERS["h2c"], framing) + sent for framing, sent, _ in BODIES.values()]
    expected = [(200, received) for _, _, received in BODIES.values()]
    conversation = "".join([*requests, LAST])
    with ThreadPoolExecutor(16) as pool:
        parts = ((conversation[:at], conversation[at:]) for at in range(1, len(conversation)))
        answers = Counter(str(answer) for answer in pool.map(lambda packets: server.talk(*packets), parts))
    assert answers == {str([*expected, GREETED]): len(conversation) - 1}
    assert server.talk(*conversation) == [*expected, GREETED]


def test_many_offers_in_one_packet_are_all_answered(server: Server) -> None:
    offers = 1000  # more than Python's limit of recursion
    assert server.talk(post(OFFERS["TLS"]) * offers + LAST) == [*[(200, "")] * offers, GREETED]


@pytest.mark.parametrize("target", ["example.com:443", "/hello/Ada"])
def test_connect_is_refused_and_nothing_after_it_is_a_request(server: Server, target: str) -> None:
    head = f"CONNECT {target} HTTP/1.1\r\nHost: example.com\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n"
    assert [status for status, _ in server.talk(head + SMUGGLED)] == [400]


TRAILERS = "X-Forwarded-For: 192.0.2.66\r\nX-Request-ID: forged\r\nAuthorization: Bearer forged\r\n"


def test_a_trailer_is_never_a_header(server: Server) -> None:
    head = post("Transfer-Encoding: chunked\r\n", path="/headers")
    received = (200, {"host": "service", "transfer-encoding": "chunked"})
    packets = [head, "5\r\nhello\r\n", f"0\r\n{TRAILERS}\r\n", LAST]
    assert server.talk("".join(packets)) == [received, GREETED]
    assert server.talk(*packets) == [received, GREETED]


LARGE = "a" * 70_000


@pytest.mark.parametrize(
    "request_",
    [
        post("X: y\r\n" * 100),
        post(f"X: {LARGE}\r\n"),
        post(f"X: {LARGE[:9000]}\r\n" * 8),
        f"GET /{LARGE} HTTP/1.1\r\n",
        f"GET / HTTP/1.1\r\nX: {LARGE}",  # and so on
        f"GET / HTTP/1.1\r\nX: {LARGE * 20}",
    ],
)
def test_a_head_has_a_limit(server: Server, request_: str) -> None:
    assert server.talk(request_) == [(431, "Request Header Fields Too Large")]


@pytest.mark.parametrize("rest", [f"0\r\nX: {LARGE}", "0\r\n" + "X: y\r\n" * 12_000, f"5;{LARGE}"])
def test_what_stands_beside_a_body_has_a_limit(server: Server, rest: str) -> None:
    with server.connect() as connection:
        connection.sendall(post("Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n").encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(rest.encode())
        answers = parse(b"".join(iter(lambda: connection.recv(65536), b"")))
        assert list(answers) == [(431, "Request Header Fields Too Large")]


def test_a_usual_large_head_is_taken(server: Server) -> None:
    headers = "".join(f"X-{number}: {LARGE[:600]}\r\n" for number in range(97))
    assert server.talk(post(headers, "Connection: close\r\n")) == [(200, "")]


def test_a_client_that_has_said_all_gets_its_answers(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /sleep/0.2 HTTP/1.1\r\nHost: service\r\n\r\n" * 2)
        connection.shutdown(socket.SHUT_WR)
        answers = parse(b"".join(iter(lambda: connection.recv(65536), b"")))
        assert list(answers) == [(200, "slept")] * 2
    wait_until(lambda: len(server.lines('"/sleep/0.2"')) == 2)
    assert [(line["status"], "aborted" in line) for line in server.lines('"/sleep/0.2"')] == [(200, False)] * 2


@pytest.mark.parametrize("path", ["/endless", "/sleep/0.3"])
def test_a_client_that_goes_is_logged_as_gone_and_its_stream_ends(server: Server, path: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
        time.sleep(0.1)
    wait_until(lambda: server.lines(f'"{path}"') != [])
    assert [line["status"] for line in server.lines(f'"{path}"')] == [499]


def test_an_answer_before_100_continue_closes_the_connection(server: Server) -> None:
    expect = ["Expect: 100-continue\r\n", "Content-Length: 5\r\n"]
    ((status, _),) = server.talk(post(expect[0], "Content-Length: 50000000\r\n"))
    assert status == 413
    with server.connect() as connection:
        connection.sendall(post(*expect).encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello" + LAST.encode())
        assert list(parse(b"".join(iter(lambda: connection.recv(65536), b"")))) == [(200, "hello"), GREETED]


def test_what_is_no_request_is_never_the_answer_to_the_one_before(server: Server) -> None:
    assert server.talk("GET /sleep/0.1 HTTP/1.1\r\nHost: service\r\n\r\nrubbish\r\n\r\n") == [(200, "slept")]


def test_malformed_requests_are_counted_in_a_line_a_second(server: Server) -> None:
    def lines() -> list[dict[str, Any]]:
        return server.lines("malformed requests were refused")

    def refused() -> int:
        return sum(line["count"] for line in lines())

    wait_until(lambda: server.talk("x\r\n\r\n") != [] and refused() > 0)
    time.sleep(1.5)  # until what tests before have sent is logged
    requests, counted, logged = 50, refused(), len(lines())
    assert [server.talk("x\r\n\r\n") for _ in range(requests)] == [[(400, "Bad Request")]] * requests
    wait_until(lambda: refused() == counted + requests)
    assert len(lines()) < logged + requests
    assert set(lines()[-1]["clients"]) == {"127.0.0.1"}


@pytest.mark.parametrize("header", ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="])
def test_a_bad_handshake_is_refused_and_nothing_after_it_is_a_request(server: Server, header: str) -> None:
    head = f"GET /accepted HTTP/1.1\r\nHost: service\r\n{HANDSHAKE.replace(header, 'X-Other: 1')}\r\n"
    assert [status for status, _ in server.talk(head + SMUGGLED)] == [400]


def test_a_handshake_with_a_body_is_a_request(server: Server) -> None:
    head = f"GET /echo HTTP/1.1\r\nHost: service\r\n{HANDSHAKE}Content-Length: {len(SMUGGLED)}\r\n\r\n"
    assert server.talk(head + SMUGGLED + LAST) == [(200, SMUGGLED), GREETED]


def test_a_websocket_has_one_line_in_the_log_without_its_query_string(server: Server) -> None:
    statuses = {"accepted": 101, "nowhere": 403, "denied": 401, "failed": 500}
    for path, status in statuses.items():
        with server.connect() as connection:
            connection.sendall(f"GET /{path}?token=hunter2 HTTP/1.1\r\nHost: service\r\n{HANDSHAKE}\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 %d" % status)
    for path in statuses:
        wait_until(lambda path=path: server.lines(f'"path":"/{path}"') != [])  # type: ignore[misc]
        (line,) = [line for line in server.lines(f"/{path}") if "exception" not in line]
        assert line["event"] == "websocket"
    assert "hunter2" not in server.log_file.read_text()


@pytest.mark.parametrize(("kind", "status"), [("broken", 500), ("late", 200)])
def test_an_exception_reaches_all_trackers_and_the_log_once_and_the_connection_serves_on(
    server: Server, kind: str, status: int
) -> None:
    mark = uuid.uuid4().hex
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    connection.auto_open = 0  # it does not open again
    connection.request("GET", f"/{kind}/{mark}", headers={"X-Request-ID": mark})
    response = connection.getresponse()
    assert response.status == status
    failed = {"detail": "Internal Server Error", "request_id": mark}
    assert json.load(response) == (failed if status == 500 else None)
    wait_until(lambda: server.lines(mark) != [])
    connection.request("GET", "/hello/Ada")
    assert connection.getresponse().status == 200
    connection.close()
    check_reports(server, mark)


def test_an_exception_in_a_stream_reaches_all_trackers_and_the_log_once(server: Server) -> None:
    mark = uuid.uuid4().hex
    with server.connect() as connection:
        connection.sendall(f"GET /torn/{mark} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
        assert b"half" in b"".join(iter(lambda: connection.recv(65536), b""))  # closed: this answer has no end
    wait_until(lambda: server.lines(mark) != [])
    check_reports(server, mark)


FRAME = bytes([0, 0x80, 0, 0, 0, 0])  # an empty one under a mask
TEXT, PING, LAST_PART = 0x01, 0x89, 0x80
FLOODS = {
    "fragments": bytes([TEXT]) + FRAME[1:] + FRAME * 250_000 + bytes([LAST_PART]) + FRAME[1:],
    "pings": (bytes([PING]) + FRAME[1:]) * 250_000,
    "messages": (bytes([LAST_PART | TEXT]) + FRAME[1:]) * 250_000,
}
CLOSE = bytes([LAST_PART | 8])
END = bytes([LAST_PART | TEXT, LAST_PART | 3, 0, 0, 0, 0]) + b"end"


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_on_a_websocket_keeps_nobody_else_from_an_answer(server: Server, flood: str) -> None:
    def talk() -> None:
        with server.connect() as client:
            client.sendall(f"GET /listen HTTP/1.1\r\nHost: service\r\n{HANDSHAKE}\r\n".encode())
            assert b"101 Switching" in client.recv(65536)
            pool.submit(client.sendall, FLOODS[flood] + END)
            while CLOSE not in client.recv(65536):
                pass

    answered = 0
    with ThreadPoolExecutor() as pool:
        talking = pool.submit(talk)
        while not talking.done():
            answered += server.talk(LAST) == [GREETED]
        talking.result()
    assert answered > 5


def check_reports(server: Server, mark: str) -> None:
    """Look for one traceback in the log, in the line of the request, and for one report of each tracker."""
    (line,) = server.lines(mark)
    assert line["event"] == "request"
    assert f"RuntimeError: {mark}" in line["exception"]
    tracked = sorted(line for line in server.tracked.read_text().splitlines() if mark in line)
    assert tracked == [f"Sentry: ['{mark}']", f"outside: {mark}"]


def test_an_exception_of_a_wrapper_is_logged_and_answered_by_the_server(server: Server) -> None:
    before = len(server.lines("refused outside"))
    assert server.talk(LAST.replace("/hello/Ada", "/refused")) == [(500, "Internal Server Error")]
    (line,) = server.lines("refused outside")[before:]
    assert line["event"].strip() == "Exception in ASGI application"
