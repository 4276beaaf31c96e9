"""Kept by the template."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .container import Container, ask, serving
from .load import Load
from .task import HEALTH_PATH, STOP_TIMEOUT

STOPS = 20
REQUESTS = 2000
AT_ONCE = 5  # containers that share the machine
SLOW = ["/contract/sleep/3", "/contract/busy/3"]


@dataclass
class Stop:
    """What a stop under load was like."""

    sent: int
    lost: list[str]
    seconds: float
    exit_code: int
    stopped_workers: int
    workers: int


def stop_under_load(image: str, drain: int, workers: int) -> Stop:
    """Stop a container while clients send, until half a second before it stops listening."""

    def send_slow(path: str) -> None:
        connection = container.connect()
        load.count(connection, path)
        connection.close()

    environment = {"DRAIN_SECONDS": str(drain), "WEB_CONCURRENCY": str(workers)}
    with serving(image, environment) as container, ThreadPoolExecutor(16) as pool, Load(container) as load:
        time.sleep(1)
        slow = [pool.submit(send_slow, path) for path in SLOW * 2]
        time.sleep(0.3)
        stop = pool.submit(container.stop)
        time.sleep(drain - 1)
        slow += [pool.submit(send_slow, path) for path in SLOW]
        time.sleep(0.5)
        load.end()
        seconds = stop.result()
        for sent in slow:
            sent.result()
        return Stop(
            sent=load.sent,
            lost=load.lost,
            seconds=seconds,
            exit_code=container.state()["ExitCode"],
            stopped_workers=container.events().count("stopped"),
            workers=workers,
        )


def test_no_request_is_lost_when_a_task_stops(probe: str, tell: Callable[[str], None]) -> None:
    # Most with a short drain, to save time, and some with the one that is deployed.
    kinds = [(5, 1), (5, 2)] + [(2, 1), (2, 2)] * (STOPS // 2 - 1)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stops = list(pool.map(lambda kind: stop_under_load(probe, *kind), kinds))

    sent = sum(stop.sent for stop in stops)
    lost = [reason for stop in stops for reason in stop.lost]
    slowest = max(stop.seconds for stop in stops)
    tell(f"{sent} requests sent, {len(lost)} lost, {len(stops)} stops, the slowest in {slowest:.1f} s")
    assert Counter(lost) == {}
    assert sent >= REQUESTS
    assert slowest < STOP_TIMEOUT
    assert {stop.exit_code for stop in stops} == {0}
    assert [stop.stopped_workers for stop in stops] == [stop.workers for stop in stops]


def wait_for_drain(container: Container) -> None:
    """Return when the health endpoint turns the load balancer away."""
    end = time.monotonic() + 20
    while (response := container.ask(HEALTH_PATH)).status == 200:
        assert time.monotonic() < end
    assert response.status == 503
    assert response.headers["Connection"] == "close"


def test_a_stopping_task_is_unhealthy_and_serves_on(probe: str) -> None:
    with serving(probe, {"DRAIN_SECONDS": "3"}) as container, ThreadPoolExecutor(16) as pool:
        stop = pool.submit(container.stop)
        wait_for_drain(container)
        assert container.ask("/contract/pid").status == 200
        assert stop.result() > 3


def test_a_request_longer_than_the_budget_is_answered_with_an_error(probe: str) -> None:
    budget = {"DRAIN_SECONDS": "1", "GRACEFUL_TIMEOUT": "9", "WEB_CONCURRENCY": "2"}  # leaves requests 2 s
    with serving(probe, budget) as container, ThreadPoolExecutor(16) as pool:
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


def test_an_idle_connection_does_not_delay_the_stop(probe: str) -> None:
    with serving(probe, {"DRAIN_SECONDS": "0"}) as container:
        connection = container.connect()
        assert ask(connection, "/contract/pid").headers["Connection"] != "close"
        assert container.stop() < 10  # not the whole of the graceful timeout
        connection.close()
        assert container.state()["ExitCode"] == 0


def test_an_unreachable_telemetry_collector_does_not_delay_the_stop_beyond_the_budget(probe: str) -> None:
    telemetry = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://192.0.2.1:4318"}
    with serving(probe, {"DRAIN_SECONDS": "0", **telemetry}) as container:
        assert container.ask("/contract/pid").status == 200
        assert container.stop() < 10  # not the ten seconds and more of the exporter's own timeout
        assert container.state()["ExitCode"] == 0
        assert "stopped" in container.events()
