"""The health endpoint and the running version."""

from fastapi import FastAPI
from fastapi.testclient import TestClient
from my_service.ops.health import HEALTH_PATH, VERSION_PATH


def test_a_running_service_is_healthy(service: FastAPI) -> None:
    with TestClient(service) as client:
        response = client.get(HEALTH_PATH)
    assert response.status_code == 200
    assert response.json() == {"status": "healthy"}


def test_a_draining_service_is_unhealthy_and_closes_connections(service: FastAPI, service_client: TestClient) -> None:
    service.state.draining = True
    response = service_client.get(HEALTH_PATH)
    assert response.status_code == 503
    assert response.headers["connection"] == "close"


def test_the_version_endpoint_names_the_running_version(service_client: TestClient) -> None:
    expected = {"service": "example", "version": "abc123", "environment": "test"}
    assert service_client.get(VERSION_PATH).json() == expected
