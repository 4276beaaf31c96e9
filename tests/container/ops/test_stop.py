"""What a stop does with requests that are too long, idle connections and telemetry; and many stops."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

from ..container import Container, ask, serving, wait_until
from ..load import Load
from ..task import HEALTH_PATH, STOP_TIMEOUT
from ..test_stop import stop_all


def test_no_request_is_lost_in_many_stops(record_property: Callable[[str, object], None]) -> None:
    record_property("stopped", stop_all(4 * [(2, 1), (2, 2)]))


def wait_for_drain(container: Container) -> None:
    """Return when the health endpoint turns the load balancer away."""
    wait_until(lambda: container.ask(HEALTH_PATH).status != 200, 20, "the health endpoint still answers 200")
    response = container.ask(HEALTH_PATH)
    assert response.status == 503
    assert response.headers["Connection"] == "close"


def test_a_stopping_task_is_unhealthy_and_serves_on() -> None:
    with serving({"DRAIN_SECONDS": "3"}) as container, ThreadPoolExecutor(16) as pool:
        stop = pool.submit(container.stop)
        wait_for_drain(container)
        assert container.ask("/contract/pid").status == 200
        assert stop.result() > 3


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_each_signal_that_ends_a_process_drains_it_under_load(signal: str) -> None:
    with serving({"DRAIN_SECONDS": "2", "WEB_CONCURRENCY": "2"}) as container:
        with Load(container) as load:
            time.sleep(0.5)
            container.docker.kill(signal)
            time.sleep(1)
        wait_until(lambda: container.state()["Status"] == "exited", STOP_TIMEOUT, f"{signal} has not ended it")
        assert load.lost == []
        assert container.state()["ExitCode"] == 0
        assert container.events().count("stopped") == 2
        assert not any("SIGKILL" in event for event in container.events())


def test_a_request_longer_than_the_budget_is_answered_with_an_error() -> None:
    budget = {"DRAIN_SECONDS": "1", "GRACEFUL_TIMEOUT": "9", "WEB_CONCURRENCY": "2"}  # leaves requests 2 s
    with serving(budget) as container, ThreadPoolExecutor(16) as pool:
        requests = [pool.submit(container.ask, f"/contract/{kind}/60") for kind in ["sleep", "busy"] * 4]
        time.sleep(0.5)
        assert 3 < container.stop() < STOP_TIMEOUT
        for request in requests:
            response = request.result()
            assert response.status == 503
            assert response.json()["request_id"] == response.headers["X-Request-ID"]
        assert container.state()["ExitCode"] == 0
        assert container.events().count("stopped") == 2
        assert not any("SIGKILL" in event for event in container.events())


def test_an_idle_connection_does_not_delay_the_stop() -> None:
    with serving({"DRAIN_SECONDS": "0"}) as container:
        connection = container.connect()
        assert ask(connection, "/contract/pid").headers["Connection"] != "close"
        assert container.stop() < 10  # not the whole of the graceful timeout
        connection.close()
        assert container.state()["ExitCode"] == 0


@pytest.mark.skipif(find_spec("opentelemetry.exporter") is None, reason="the service has no telemetry")
def test_an_unreachable_telemetry_collector_does_not_delay_the_stop_beyond_the_budget() -> None:
    telemetry = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://192.0.2.1:4318"}
    with serving({"DRAIN_SECONDS": "0", **telemetry}) as container:
        assert container.ask("/contract/pid").status == 200
        assert container.stop() < 10  # not the ten seconds and more of the exporter's own timeout
        assert container.state()["ExitCode"] == 0
        assert "stopped" in container.events()
