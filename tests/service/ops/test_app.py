"""What a service may add to its application, and how it is reached."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from my_service.ops.app import create_app
from my_service.ops.health import HEALTH_PATH
from my_service.ops.middleware import trust
from my_service.ops.settings import OpsSettings
from pydantic import BaseModel
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Scope
from structlog.typing import EventDict

from .log_lines import LogLines

SETTINGS = OpsSettings(environment="test")


def test_own_exception_handlers_are_added_to_ours() -> None:
    async def teapot(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("teapot", 418)

    app = create_app(SETTINGS, exception_handlers={KeyError: teapot})

    @app.get("/key")
    async def key() -> None:
        raise KeyError

    client = TestClient(app)
    assert client.get("/key").status_code == 418
    assert "request_id" in client.get("/nowhere").json()


def test_own_middleware_and_cors_run_inside_the_templates_middleware(log_lines: LogLines) -> None:
    app = create_app(SETTINGS)
    app.add_middleware(CORSMiddleware, allow_origins=["https://example.com"])

    @app.middleware("http")
    async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = "yes"
        return response

    response = TestClient(app).get("/nowhere", headers={"origin": "https://example.com"})
    assert response.headers["access-control-allow-origin"] == "https://example.com"
    assert response.headers["x-stamp"] == "yes"
    assert [line["request_id"] for line in log_lines()] == [response.headers["x-request-id"]]


def test_the_id_of_a_request_stays_though_the_service_clears_what_is_bound(log_lines: LogLines) -> None:
    app = create_app(SETTINGS)

    @app.middleware("http")
    async def bind(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        structlog.contextvars.clear_contextvars()  # as structlog documents it
        structlog.contextvars.bind_contextvars(tenant="acme", **request.query_params)
        return await call_next(request)

    @app.get("/broken")
    async def broken() -> None:
        structlog.get_logger().info("structlog")
        logging.getLogger("library").warning("standard")
        raise RuntimeError

    client = TestClient(app, raise_server_exceptions=False)
    for bound in ({}, {"request_id": "the-one"}, {"request_id": "mine"}):
        response = client.get("/broken", headers={"x-request-id": "the-one"}, params=bound)
        assert response.headers["x-request-id"] == response.json()["request_id"] == "the-one"
        lines = log_lines()
        assert [line["event"] for line in lines] == ["structlog", "standard", "request"]
        for line in lines:
            assert (line["request_id"], line["tenant"]) == ("the-one", "acme")
            assert line.get("request_id_") == ("mine" if "mine" in bound.values() else None)


def test_processors_and_handlers_of_the_service_can_read_the_id_of_a_request() -> None:
    seen = []

    def read(_logger: Any, _method: str, event: EventDict) -> EventDict:
        seen.append(event["request_id"])
        return event

    app = create_app(SETTINGS, log_processors=[read])
    app.get("/id")(lambda: structlog.contextvars.get_contextvars()["request_id"])
    assert TestClient(app).get("/id", headers={"x-request-id": "the-one"}).json() == "the-one"
    assert seen == ["the-one"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/broken", 500), ("POST", "/read", 413), ("POST", "/unread", 413), ("GET", "/nowhere", 404)],
)
def test_a_browser_of_another_origin_can_read_errors(method: str, path: str, status: int) -> None:
    app = create_app(OpsSettings(environment="test", max_body_size=10))

    @app.middleware("http")
    async def passes(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    app.add_middleware(CORSMiddleware, allow_origins=["https://example.com"])
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["testserver"])

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    app.post("/unread")(lambda: 1)
    client = TestClient(app, raise_server_exceptions=False)
    body = b"12345678901" if method == "POST" else None
    response = client.request(method, path, content=body, headers={"origin": "https://example.com"})
    assert response.status_code == status
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert response.headers.get_list("access-control-allow-origin") == ["https://example.com"]
    assert response.headers.get_list("vary") == ["Origin"]
    refused = client.request(method, path, headers={"origin": "https://example.com", "host": "other"})
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == "https://example.com"


@pytest.mark.parametrize("environment", ["test", "local"])
def test_the_api_documentation_is_served_if_a_setting_says_so(environment: str) -> None:
    for serve, status in {False: 404, True: 200}.items():
        client = TestClient(create_app(OpsSettings(environment=environment, serve_docs=serve)))
        assert {client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")} == {status}


def test_opentelemetrys_instrumentor_finds_the_stack_that_it_looks_for() -> None:
    stack = create_app(SETTINGS).build_middleware_stack()
    assert isinstance(stack, ServerErrorMiddleware)
    assert stack.app is stack  # what the instrumentor takes out of it is the request middleware, too


class Login(BaseModel):
    password: str


def add_failures(app: FastAPI) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    @app.post("/login")
    async def login(value: Login) -> None:
        pass


@pytest.mark.parametrize("mounted", [FastAPI(), create_app(SETTINGS)], ids=["FastAPI", "create_app"])
def test_a_mounted_application_answers_errors_as_the_service_does(mounted: FastAPI, log_lines: LogLines) -> None:
    app = create_app(SETTINGS)
    add_failures(mounted)
    app.mount("/v1", mounted)
    client = TestClient(app, raise_server_exceptions=False)
    expected = {"/v1/broken": (500, "Internal Server Error"), "/v1/teapot": (418, "short and stout")}
    for path, (status, detail) in {**expected, "/v1/nowhere": (404, "Not Found")}.items():
        response = client.get(path)
        (request_id,) = response.headers.get_list("x-request-id")
        assert response.status_code == status
        assert response.json() == {"detail": detail, "request_id": request_id}
        (line,) = log_lines()
        assert (line["request_id"], line["status"]) == (request_id, status)
    wrong = client.post("/v1/login", json={"password": ["hunter2"]})
    assert wrong.json()["request_id"] == wrong.headers["x-request-id"]
    assert "hunter2" not in wrong.text


def test_a_mounted_application_keeps_its_own_error_handlers() -> None:
    async def teapot(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("tea", 418)

    app, mounted = create_app(SETTINGS), FastAPI(exception_handlers={HTTPException: teapot})
    add_failures(mounted)
    app.mount("/v1", mounted)
    assert TestClient(app).get("/v1/teapot").text == "tea"


def test_a_mounted_application_is_logged_and_its_health_is_not_ours(log_lines: LogLines) -> None:
    app, mounted = create_app(SETTINGS), FastAPI()
    mounted.get(HEALTH_PATH)(lambda: "mounted")
    app.mount("/mounted", mounted)
    assert TestClient(app).get(f"/mounted{HEALTH_PATH}").json() == "mounted"
    assert [line["path"] for line in log_lines()] == [f"/mounted{HEALTH_PATH}"]


def test_below_a_root_path_the_health_check_is_found_and_silent(log_lines: LogLines) -> None:
    client = TestClient(create_app(SETTINGS), root_path="/api")
    assert client.get(f"/api{HEALTH_PATH}").status_code == 200
    assert log_lines() == []


CHAIN = b"198.51.100.6, 203.0.113.9 , 192.0.2.7:443"


@pytest.mark.parametrize(
    ("hops", "chain", "client"),
    [
        (0, CHAIN, "peer"),
        (1, CHAIN, "192.0.2.7"),
        (2, CHAIN, "203.0.113.9"),
        (9, CHAIN, "198.51.100.6"),
        (1, b"[2001:db8::1]:443", "2001:db8::1"),
        (1, b"2001:db8::1", "2001:db8::1"),
        (1, b"somebody", "peer"),
        (1, b"", "peer"),
        (1, b"fe80::1%eth0", "peer"),
        (1, b" " * 99 + b"192.0.2.7", "peer"),  # what is kept of each address has a bound
    ],
)
def test_the_client_address_is_what_our_first_proxy_saw(hops: int, chain: bytes, client: str) -> None:
    headers = [(b"x-forwarded-for", chain), (b"x-forwarded-proto", b"https")]
    scope: Scope = {"type": "http", "client": ("peer", 1), "scheme": "http", "headers": headers}
    trust(scope, hops)
    assert scope["client"][0] == client
    assert scope["scheme"] == ("https" if hops else "http")


def test_a_websocket_has_an_id_and_a_line_at_its_end(service: FastAPI, log_lines: LogLines) -> None:
    @service.websocket("/echo/{room}")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text(await websocket.receive_text())

    with TestClient(service).websocket_connect("/echo/1") as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"
        client.close(4000)
    (line,) = log_lines()
    assert (line["event"], line["path"], line["code"], line["level"]) == ("websocket", "/echo/1", 4000, "info")
    assert (b"x-request-id", line["request_id"].encode()) in (client.extra_headers or [])


def test_a_websocket_that_fails_is_an_error(service: FastAPI, log_lines: LogLines) -> None:
    @service.websocket("/broken")
    async def broken(websocket: WebSocket) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), TestClient(service).websocket_connect("/broken"):
        pass
    assert [line["level"] for line in log_lines()] == ["error"]
