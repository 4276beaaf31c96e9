"""What the request middleware adds to each request."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
import structlog
from fastapi import APIRouter, BackgroundTasks, Body, FastAPI, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.testclient import TestClient
from my_service.ops.app import create_app
from my_service.ops.health import HEALTH_PATH, VERSION_PATH
from my_service.ops.protocols import without_logged_errors
from my_service.ops.settings import OpsSettings
from pydantic import BaseModel
from starlette.types import Message, Scope

from .log_lines import LogLines

BACKGROUND = 0.3  # seconds


class Login(BaseModel):
    password: str


class Tree(BaseModel):
    children: "list[Tree]" = []


class Strict(BaseModel, extra="forbid"):
    password: str


@pytest.fixture(autouse=True)
def routes(service: FastAPI) -> None:
    add_routes(service)


def add_routes(service: FastAPI) -> None:
    """Add routes that end in each way a request can end."""

    @service.get("/items/{number}")
    async def item(number: int) -> int:
        structlog.get_logger().info("working")
        return number

    @service.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", {"X-Tea": "no"})

    @service.get("/unchanged")
    async def unchanged() -> Response:
        raise HTTPException(304)

    @service.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    @service.post("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @service.post("/cancelled")
    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    @service.post("/body")
    async def body(value: Login) -> Login:
        return value

    @service.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @service.post("/large", max_body_size=100)
    async def large(request: Request) -> int:
        return len(await request.body())

    @service.post("/stream")
    async def stream() -> StreamingResponse:
        async def forever() -> AsyncIterator[bytes]:
            while True:
                yield b"."
                await asyncio.sleep(0.01)

        return StreamingResponse(forever())

    @service.post("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def half() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("half")

        return StreamingResponse(half())

    @service.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(asyncio.sleep, BACKGROUND)

    @service.get("/unavailable")
    async def unavailable() -> None:
        raise HTTPException(503)

    @service.post("/login")
    async def login(value: Login) -> Login:
        return value

    @service.get("/value-error")
    async def value_error() -> float:
        return float("one")

    @service.post("/no-number")
    async def no_number(value: Annotated[dict[str, int], Body()]) -> Response:
        return JSONResponse(float("nan"))

    @service.get("/no-header")
    async def no_header() -> Response:
        return Response(headers={"X-Name": "☃"})

    @service.get("/own-id")
    async def own_id() -> Response:
        return Response(headers={"X-Request-ID": "own"})

    @service.get("/line-break")
    async def line_break() -> Response:
        return Response(headers={"X-Name": "a\r\nSet-Cookie: b"})

    @service.post("/number")
    async def number(value: Annotated[float, Body()]):  # type: ignore[no-untyped-def] # no response model
        return {"value": value}

    @service.post("/strict")
    async def strict(value: Strict) -> Strict:
        return value

    @service.post("/anything")
    async def anything(value: Annotated[Any, Body()]) -> str:
        return type(value).__name__

    @service.post("/echo")
    async def echo(value: Annotated[Any, Body()]) -> Any:
        return value

    @service.post("/numbers")
    async def numbers(value: list[int]) -> list[int]:
        return value

    @service.post("/tree")
    async def tree(value: Tree) -> Tree:
        return value

    @service.get("/whole/{number:int}")
    async def whole(number: int) -> int:
        return number

    @service.get("/real/{number:float}")
    async def real(number: float) -> float:
        return number

    @service.get("/decimal")
    async def decimal(number: Decimal) -> dict[str, Decimal]:
        return {"number": number}

    @service.get("/endless-recursion")
    async def recur() -> None:
        await recur()

    @service.post("/form")
    async def form(password: Annotated[str, Form()], file: UploadFile) -> str:
        return password


def test_a_request_without_an_id_gets_one(service_client: TestClient, log_lines: LogLines) -> None:
    response = service_client.get("/items/1")
    assert {line["request_id"] for line in log_lines()} == {response.headers["x-request-id"]}


def test_a_valid_request_id_is_kept(service_client: TestClient) -> None:
    response = service_client.get("/items/1", headers={"X-Request-ID": "Root=1-67891233-abcdef"})
    assert response.headers["x-request-id"] == "Root=1-67891233-abcdef"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", '{"level":"info"}'])
def test_an_invalid_request_id_is_replaced(service_client: TestClient, given: str) -> None:
    response = service_client.get("/items/1", headers={"X-Request-ID": given})
    assert len(response.headers["x-request-id"]) == 32


def test_an_id_of_the_service_itself_does_not_come_beside_the_one_in_the_log(
    service_client: TestClient, log_lines: LogLines
) -> None:
    response = service_client.get("/own-id")
    assert response.headers.get_list("x-request-id") == [line["request_id"] for line in log_lines()]


def test_a_header_with_a_line_break_is_a_500_with_a_reason(service_client: TestClient, log_lines: LogLines) -> None:
    response = service_client.get("/line-break")
    assert response.json() == {
        "detail": "Internal Server Error",
        "request_id": response.headers["x-request-id"],
    }
    (line,) = log_lines()
    assert line["status"] == 500
    assert r"a header of the response has the character b'\r'" in line["exception"]


def test_a_request_is_logged_once_with_its_route(service_client: TestClient, log_lines: LogLines) -> None:
    service_client.get("/items/7?token=secret")
    (line,) = [line for line in log_lines() if line["event"] == "request"]
    assert (line["method"], line["path"], line["route"], line["status"]) == ("GET", "/items/7", "/items/{number}", 200)
    assert line["duration_ms"] >= 0
    assert "secret" not in str(line)


def test_the_logged_route_has_the_prefixes_of_its_routers(
    service: FastAPI, service_client: TestClient, log_lines: LogLines
) -> None:
    inner, outer = APIRouter(prefix="/inner"), APIRouter()

    @inner.get("/items/{number}")
    async def item(number: int) -> int:
        return number

    @inner.websocket("/chat/{room}")
    async def chat(socket: WebSocket, room: str) -> None:
        await socket.accept()
        await socket.close()

    outer.include_router(inner)
    service.include_router(outer, prefix="/v1")
    service_client.get("/v1/inner/items/7")
    with service_client.websocket_connect("/v1/inner/chat/tea"):
        pass
    routes = [line["route"] for line in log_lines() if line["event"] in ("request", "websocket")]
    assert routes == ["/v1/inner/items/{number}", "/v1/inner/chat/{room}"]


def test_the_logged_route_of_a_mounted_application_begins_where_it_is_mounted(
    service: FastAPI, service_client: TestClient, log_lines: LogLines
) -> None:
    mounted = FastAPI()
    add_routes(mounted)
    service.mount("/v1", mounted)
    for path in ("/v1/items/7", "/v1/missing", "/missing"):
        service_client.get(path)
    routes = [line["route"] for line in log_lines() if line["event"] == "request"]
    assert routes == ["/v1/items/{number}", "/v1", None]


@pytest.mark.parametrize("path", [HEALTH_PATH, VERSION_PATH])
def test_a_successful_health_check_is_not_logged(service_client: TestClient, log_lines: LogLines, path: str) -> None:
    assert service_client.get(path).status_code == 200
    assert log_lines() == []


def test_a_failed_health_check_is_logged(service: FastAPI, service_client: TestClient, log_lines: LogLines) -> None:
    service.state.draining = True
    service_client.get(HEALTH_PATH)
    assert [line["status"] for line in log_lines()] == [503]


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/teapot", 418, "short and stout"),
        ("/nowhere", 404, "Not Found"),
        ("/broken", 500, "Internal Server Error"),
    ],
)
def test_an_error_body_has_the_request_id(service_client: TestClient, path: str, status: int, detail: str) -> None:
    response = service_client.get(path)
    assert response.status_code == status
    assert response.json() == {"detail": detail, "request_id": response.headers["x-request-id"]}


def test_an_exceptions_headers_are_kept(service_client: TestClient) -> None:
    assert service_client.get("/teapot").headers["x-tea"] == "no"


def test_a_status_that_has_no_body_gets_no_error_body(service_client: TestClient) -> None:
    response = service_client.get("/unchanged")
    assert (response.status_code, response.content) == (304, b"")


def test_a_validation_error_names_the_wrong_parameter(service_client: TestClient) -> None:
    response = service_client.get("/items/one")
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["path", "number"]
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_an_unhandled_exception_is_logged_but_not_shown(service_client: TestClient, log_lines: LogLines) -> None:
    response = service_client.get("/broken")
    assert "secret detail" not in response.text
    (line,) = log_lines()
    assert (line["level"], line["status"]) == ("error", 500)
    assert "RuntimeError: secret detail" in line["exception"]


async def request(
    service: FastAPI, path: str, receive: list[Message], during: Callable[[asyncio.Task[None]], Any] | None = None
) -> list[Message]:
    """Make a request as a server does, and return what is sent to the client; the last of `receive` comes again."""
    sent: list[Message] = []

    async def next_message() -> Message:
        if len(receive) == 1 and receive[0]["type"] == "http.request":
            await asyncio.sleep(0)
        return receive[0] if len(receive) == 1 else receive.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}

    async def serve() -> None:
        await without_logged_errors(service)(scope, next_message, send)

    task = asyncio.create_task(serve())
    await asyncio.sleep(0.05)
    if during:
        during(task)
    await task
    return sent


NO_BODY: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
GONE: list[Message] = [{"type": "http.disconnect"}]


def test_a_request_that_the_stop_cannot_wait_for_is_answered(service: FastAPI, log_lines: LogLines) -> None:
    service.state.stopping.set()
    sent = asyncio.run(request(service, "/slow", NO_BODY, lambda task: task.cancel()))
    assert sent[0]["status"] == 503
    assert b"stopping" in sent[1]["body"]
    assert [(line["status"], line["level"]) for line in log_lines()] == [(503, "error")]


def test_a_stream_that_goes_on_until_the_stop_is_no_error(service: FastAPI, log_lines: LogLines) -> None:
    service.state.stopping.set()
    asyncio.run(request(service, "/stream", NO_BODY, lambda task: task.cancel()))
    (line,) = log_lines()
    assert (line["status"], line["level"], line["aborted"]) == (200, "info", True)
    assert "exception" not in line


def test_a_cancelled_task_of_the_handler_is_a_failure_and_no_stop(service: FastAPI, log_lines: LogLines) -> None:
    sent = asyncio.run(request(service, "/cancelled", NO_BODY))
    assert sent[0]["status"] == 500
    assert b"stopping" not in sent[1]["body"]
    (line,) = log_lines()
    assert (line["status"], line["level"]) == (500, "error")
    assert "CancelledError" in line["exception"]


@pytest.mark.parametrize("path", ["/body", "/raw", "/stream"])
def test_a_client_that_goes_away_is_499_without_a_traceback(service: FastAPI, log_lines: LogLines, path: str) -> None:
    asyncio.run(request(service, path, list(GONE)))
    (line,) = log_lines()
    assert (line["status"], line["level"]) == (499, "info")
    assert "exception" not in line


def test_a_stream_that_fails_is_an_error_and_says_that_it_is_not_whole(service: FastAPI, log_lines: LogLines) -> None:
    asyncio.run(request(service, "/broken-stream", NO_BODY))
    (line,) = log_lines()
    assert (line["level"], line["aborted"]) == ("error", True)
    assert "RuntimeError: half" in line["exception"]


def test_the_duration_ends_with_the_last_byte(service_client: TestClient, log_lines: LogLines) -> None:
    service_client.get("/background")
    (line,) = log_lines()
    assert line["duration_ms"] < BACKGROUND * 1000
    assert "aborted" not in line


def test_a_5xx_response_is_logged_as_an_error(service_client: TestClient, log_lines: LogLines) -> None:
    service_client.get("/unavailable")
    assert [(line["status"], line["level"]) for line in log_lines()] == [(503, "error")]


def test_a_test_sees_the_exception_of_a_handler(service: FastAPI) -> None:
    with TestClient(service) as client, pytest.raises(RuntimeError, match="secret detail"):
        client.get("/broken")


@pytest.mark.parametrize("length", [{}, {"content-length": "11"}])
@pytest.mark.parametrize("path", ["/body", "/raw", "/nowhere", "/items/1"])
def test_a_body_above_the_limit_gets_the_usual_error_body(path: str, length: dict[str, str]) -> None:
    service = create_app(OpsSettings(environment="test", max_body_size=10))
    add_routes(service)
    body = iter([b"12345678901"]) if not length else b"12345678901"
    response = TestClient(service).request("POST" if path != "/items/1" else "GET", path, content=body, headers=length)
    if path in ("/nowhere", "/items/1") and not length:  # nobody reads, so nobody counts
        assert response.status_code in (200, 404)
        return
    assert response.status_code == 413
    assert response.json() == {"detail": "Content Too Large", "request_id": response.headers["x-request-id"]}


@pytest.mark.parametrize("reads", ["the middleware", "the handler", "nobody"])
def test_a_refused_body_is_no_failure_behind_a_middleware_and_hides_none(reads: str, log_lines: LogLines) -> None:
    service = create_app(OpsSettings(environment="test", max_body_size=10))

    @service.middleware("http")
    @service.middleware("http")
    async def passes(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if reads == "the middleware":
            await request.body()
        return await call_next(request)

    @service.post("/")
    async def handle(request: Request) -> None:
        if reads == "the handler":
            await request.body()
        raise RuntimeError("of the handler")

    client, fails = TestClient(service), reads == "nobody"
    with pytest.raises(RuntimeError) if fails else nullcontext():
        assert client.post("/", content=b"12345678901").status_code == 413
    (line,) = log_lines()
    assert (line["status"], line["level"], "exception" in line) == (413, "error" if fails else "info", fails)


def test_a_route_may_take_larger_bodies() -> None:
    service = create_app(OpsSettings(environment="test", max_body_size=10))
    add_routes(service)
    assert TestClient(service).post("/large", content=b"12345678901").json() == 11


def test_bodies_that_are_in_memory_at_a_time_have_a_limit() -> None:
    service = create_app(OpsSettings(environment="test", max_body_size=10, body_memory=0))  # room for one of 10 bytes
    add_routes(service)

    @service.post("/hold")
    async def hold(request: Request) -> int:
        return len(await request.body()) + await asyncio.sleep(0.2, 0)

    async def all_requests() -> list[list[Message]]:
        body: list[Message] = [{"type": "http.request", "body": b"12345678", "more_body": False}]
        held = asyncio.create_task(request(service, "/hold", list(body)))
        await asyncio.sleep(0.1)
        return [
            await request(service, "/raw", list(body)),
            await request(service, "/raw", list(NO_BODY)),
            await held,
            await request(service, "/raw", list(body)),
        ]

    refused, empty, held, later = asyncio.run(all_requests())
    assert [sent[0]["status"] for sent in (refused, empty, held, later)] == [503, 200, 200, 200]
    assert (b"retry-after", b"1") in refused[0]["headers"]
    assert b"The service is busy." in refused[1]["body"]


HOSTILE = [
    ("application/json", b"NaN"),
    ("application/json", b'{"password": NaN}'),
    ("application/json", b"\xff\xfe\xfd"),
    ("application/json", b'{"password": "\\ud800"}'),
    ("application/json", b'{"\\ud800": 1}'),
    ("application/json", b"[" * 100_000),
    *[("application/json", b"[" * depth + b"]" * depth) for depth in (250, 300, 900, 2000)],
    *[("application/json", b'{"children":[' * depth + b"]}" * depth) for depth in (100, 300, 900)],
    ("application/json", b"1" * 5000),
    ("application/json", b'{"password": 1e400}'),
    ("application/json", b"[%s.0]" % (b"1" * 400)),
    ("text/plain", b"\xff\xfe\xfd"),
    ("multipart/form-data; boundary=x", b"--x\r\n\xff"),
]


@pytest.mark.parametrize(("kind", "body"), HOSTILE)
@pytest.mark.parametrize("path", ["/login", "/number", "/strict", "/anything", "/echo", "/tree", "/form"])
def test_no_body_causes_a_500(service_client: TestClient, path: str, kind: str, body: bytes) -> None:
    response = service_client.post(path, content=body, headers={"content-type": kind})
    assert response.status_code in (200, 400, 422)
    assert response.status_code == 200 or "request_id" in response.json()


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "path",
    [f"/items/{DIGITS}", f"/whole/{DIGITS}", f"/real/{DIGITS}", f"/real/{DIGITS}.5", "/decimal?number=1e999999"],
)
def test_no_number_causes_a_500(service_client: TestClient, path: str) -> None:
    assert service_client.get(path).status_code in (200, 400, 422)


def test_what_a_limit_refuses_is_in_the_log(service_client: TestClient, log_lines: LogLines) -> None:
    for number in ("1e400", "-1E%2B400", DIGITS):
        response = service_client.post(f"/number?sent={number}", content=b"NaN")
        assert response.status_code == 400
        wrong, request = log_lines()
        assert (wrong["level"], request["level"], request["status"]) == ("info", "info", 400)
        assert "ValueError: Out of range float values are not JSON compliant" in wrong["exception"]


def recurse() -> None:
    recurse()


FAULTS: dict[str, Callable[[], Any]] = {
    "RecursionError": recurse,
    "PydanticSerializationError": object,
    "not JSON compliant": lambda: JSONResponse(float("nan")),
    "integer string conversion": lambda: JSONResponse(10**5000),
    "surrogates not allowed": lambda: JSONResponse("\ud800"),
}
CAUSES = {
    b"[" * 200: "RecursionError",
    b"NaN": "not JSON compliant",
    b"1e400": "not JSON compliant, integer string conversion",
    DIGITS.encode(): "not JSON compliant, integer string conversion",
    rb'"\ud800"': "surrogates not allowed",
}
HASHES = [sha256(bytes(number)) for number in range(1, 20_000)]
IDS = [str(UUID(bytes=each.digest()[:16])) for each in HASHES] + [each.hexdigest() for each in HASHES]
LOOKS_LARGE = "12345e67-1e40-4e55-91e7-123e45678901"


@pytest.mark.parametrize(("reason", "fault"), FAULTS.items(), ids=FAULTS)
def test_no_id_in_a_request_hides_a_fault_of_the_service(
    service: FastAPI, service_client: TestClient, log_lines: LogLines, reason: str, fault: Callable[[], Any]
) -> None:
    @service.post("/fault/{id}")
    async def handle(request: Request) -> Any:
        await request.body()
        return fault()

    path = f"/fault/{LOOKS_LARGE}?id={LOOKS_LARGE}&offset=-1"
    assert service_client.post(path, json={"ids": IDS, "number": -1.5e-7}).status_code == 500
    assert reason in log_lines()[-1]["exception"]


@pytest.mark.parametrize(("reason", "fault"), FAULTS.items(), ids=FAULTS)
def test_what_meets_one_limit_hides_no_fault_that_meets_another(
    service: FastAPI, service_client: TestClient, reason: str, fault: Callable[[], Any]
) -> None:
    @service.post("/fault")
    async def handle(request: Request) -> Any:
        await request.body()
        return fault()

    for sent, reasons in CAUSES.items():
        assert (service_client.post("/fault", content=sent).status_code == 400) == (reason in reasons), sent[:10]


def test_a_recursion_of_the_service_itself_is_still_a_failure(service_client: TestClient, log_lines: LogLines) -> None:
    assert service_client.get("/endless-recursion").status_code == 500
    assert "RecursionError" in log_lines()[-1]["exception"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" + b"0," * 1000 + b"0]", 413),
        (b"[" + b'"",' * 1000 + b"0]", 413),
        (b'["' + rb"a\"b," * 1000 + b'"]', 200),  # one value
        (b"[" + b'"a,b", ' * 900 + b"0]", 200),
        (b"[" + b"0," * 999 + b"0]", 200),
    ],
)
def test_the_values_of_a_body_have_a_limit(body: bytes, status: int) -> None:
    service = create_app(OpsSettings(environment="test", max_json_values=1000))
    add_routes(service)
    response = TestClient(service).post("/echo", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    if status == 413:
        detail = "The body has more than 1000 values."
        assert response.json() == {"detail": detail, "request_id": response.headers["x-request-id"]}


def test_a_client_is_told_of_its_first_hundred_errors(service_client: TestClient) -> None:
    response = service_client.post("/numbers", json=["one"] * 1000)
    assert response.status_code == 422
    assert len(response.json()["detail"]) == 100


@pytest.mark.parametrize(("method", "path"), [("GET", "/value-error"), ("GET", "/no-header"), ("POST", "/no-number")])
def test_a_value_error_of_the_handler_is_still_a_failure(
    service_client: TestClient, log_lines: LogLines, method: str, path: str
) -> None:
    assert service_client.request(method, path, json={"value": 1}).status_code == 500
    assert "Error: " in log_lines()[-1]["exception"]


def test_a_body_that_the_machine_cannot_keep_is_a_failure_of_the_service(
    service_client: TestClient, log_lines: LogLines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # a full one is an OSError, too
    response = service_client.post("/form", data={"password": "x"}, files={"file": b"x" * 2**21})
    assert response.status_code == 500
    assert response.json() == {"detail": "Internal Server Error", "request_id": response.headers["x-request-id"]}
    (line,) = log_lines()
    assert line["level"] == "error"
    assert "FileNotFoundError" in line["exception"]


class Panic(BaseException):
    """As a Rust library raises it."""


@pytest.mark.parametrize("kind", [Panic, SystemExit, KeyboardInterrupt])
def test_whatever_ends_a_handler_is_answered_and_logged_once(
    service: FastAPI, service_client: TestClient, log_lines: LogLines, kind: type[BaseException]
) -> None:
    @service.get("/panic")
    async def panic() -> None:
        raise kind("panicked")

    @service.get("/panic-in-thread")
    def panic_in_thread() -> None:
        raise kind("panicked")

    @service.middleware("http")  # its handlers run in tasks
    async def passes(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    for path in ("/panic", "/panic-in-thread"):
        response = service_client.get(path)
        assert response.status_code == 500
        assert response.json() == {"detail": "Internal Server Error", "request_id": response.headers["x-request-id"]}
        (line,) = log_lines()
        assert (line["level"], line["status"], line["path"]) == ("error", 500, path)
        assert f"{kind.__name__}: panicked" in line["exception"]


def test_a_rejected_value_is_not_echoed(service_client: TestClient) -> None:
    response = service_client.post("/login", json={"password": ["hunter2"]})
    assert response.status_code == 422
    assert "hunter2" not in response.text
    assert response.json()["detail"] == [
        {"type": "string_type", "loc": ["body", "password"], "msg": "Input should be a valid string"}
    ]
