"""What a service may add to its application, and how it is reached."""

from collections.abc import Awaitable, Callable

import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from my_service.ops.app import create_app
from my_service.ops.health import HEALTH_PATH
from my_service.ops.proxies import trust
from my_service.ops.settings import OpsSettings
from starlette.types import Scope

from .log_lines import LogLines

SETTINGS = OpsSettings(environment="test")


def test_own_exception_handlers_and_telemetry_are_added_to_ours() -> None:
    async def teapot(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("teapot", 418)

    excluded: list[str] = []

    def exclude(scope: Scope) -> bool:
        excluded.append(scope["path"])
        return True

    app = create_app(SETTINGS, exception_handlers={KeyError: teapot}, telemetry={"exclude": exclude})

    @app.get("/key")
    async def key() -> None:
        raise KeyError

    client = TestClient(app)
    assert client.get("/key").status_code == 418
    assert "request_id" in client.get("/nowhere").json()
    ours = app._telemetry["exclude"]
    assert ours is not None
    assert ours({"path": HEALTH_PATH})
    assert ours({"path": "/key"})
    assert excluded == ["/key"]


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
