"""The health endpoint and the running version."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Header
from fastapi.testclient import TestClient
from my_service.ops.app import create_app
from my_service.ops.health import HEALTH_PATH, VERSION_PATH
from my_service.ops.settings import OpsSettings
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware


def test_a_running_service_is_healthy(service: FastAPI) -> None:
    with TestClient(service) as client:
        response = client.get(HEALTH_PATH)
        assert client.head(HEALTH_PATH).status_code == 200
    assert response.status_code == 200
    assert response.json() == {"status": "healthy"}


def test_a_draining_service_is_unhealthy_and_closes_connections(service: FastAPI, service_client: TestClient) -> None:
    service.state.draining = True
    response = service_client.get(HEALTH_PATH)
    assert response.status_code == 503
    assert response.json() == {"status": "draining"}
    assert response.headers["connection"] == "close"


def test_the_version_endpoint_names_the_running_version(service_client: TestClient) -> None:
    expected = {"service": "example", "version": "abc123", "environment": "test"}
    assert service_client.get(VERSION_PATH).json() == expected


def test_the_version_endpoint_can_be_closed() -> None:
    client = TestClient(create_app(OpsSettings(environment="test", serve_version=False)))
    assert client.get(VERSION_PATH).status_code == 404
    assert client.get(HEALTH_PATH).status_code == 200


class Nobody(AuthenticationBackend):
    """Lets nobody in."""

    async def authenticate(self, conn: Any) -> None:
        raise AuthenticationError("who are you?")


def needs_key(x_api_key: str = Header()) -> str:
    return x_api_key


@pytest.mark.parametrize(
    ("added", "refusal"),
    [
        ({"dependencies": [Depends(needs_key)]}, 422),
        ({"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=["api.example.com"])]}, 400),
        ({"middleware": [Middleware(HTTPSRedirectMiddleware)]}, 307),
        ({"middleware": [Middleware(AuthenticationMiddleware, backend=Nobody())]}, 400),
    ],
    ids=["dependency", "trusted host", "https", "authentication"],
)
def test_whatever_refuses_requests_does_not_refuse_a_health_check(added: dict[str, Any], refusal: int) -> None:
    app = create_app(OpsSettings(environment="test"), **added)
    app.get("/route")(lambda: "route")
    app.post(HEALTH_PATH)(lambda: "the service's own")
    get: Callable[[str], Any] = TestClient(app, follow_redirects=False).get
    assert get("/route").status_code == refusal
    assert get(HEALTH_PATH).json() == {"status": "healthy"}
    assert get(VERSION_PATH).status_code == 200
