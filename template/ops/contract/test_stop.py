"""A stop under load loses no request. Kept by the template."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .container import serving
from .load import Load
from .task import HEALTH_PATH, STOP_TIMEOUT

# Each stop's drain in seconds and its workers. The first two have the drain that is deployed; the others are quick.
STOPS = [(5, 1), (5, 2), (2, 1), (2, 2)]
REQUESTS = 500  # a machine with much else to do sends fewer
AT_ONCE = 5  # containers that share the machine
SLOW = ["/contract/sleep/3", "/contract/busy/3"]


def stop_under_load(drain: int, workers: int) -> tuple[Load, float]:
    """Stop a container while clients send, until half a second before it stops listening; return them and its seconds."""

    def send_slow(path: str) -> None:
        connection = container.connect()
        load.count(connection, path)
        connection.close()

    environment = {"DRAIN_SECONDS": str(drain), "WEB_CONCURRENCY": str(workers)}
    with serving(environment) as container, ThreadPoolExecutor(16) as pool, Load(container) as load:
        time.sleep(1)
        slow = [pool.submit(send_slow, path) for path in SLOW * 2]
        time.sleep(0.3)
        stop = pool.submit(container.stop)
        time.sleep(drain - 1)
        load.count(container.connect(), HEALTH_PATH, 503)
        slow += [pool.submit(send_slow, path) for path in SLOW]
        time.sleep(0.5)
        load.end()
        seconds = stop.result()
        for sent in slow:
            sent.result()
        assert container.state()["ExitCode"] == 0
        assert container.events().count("stopped") == workers, "a lifespan has not ended"
    return load, seconds


def stop_all(stops: list[tuple[int, int]]) -> str:
    """Stop containers under load, check that nothing is lost, and return what was measured."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stopped = list(pool.map(lambda stop: stop_under_load(*stop), stops))
    sent = sum(load.sent for load, _ in stopped)
    lost = Counter(reason for load, _ in stopped for reason in load.lost)
    slowest = max(seconds for _, seconds in stopped)
    assert lost == {}, f"{lost.total()} of {sent} requests are lost: {lost}"
    assert sent >= REQUESTS
    assert slowest < STOP_TIMEOUT
    return f"in {len(stops)} stops, {sent} requests sent, none lost, the slowest stop in {slowest:.1f} s"


def test_no_request_is_lost_when_a_task_stops(record_property: Callable[[str, object], None]) -> None:
    record_property("stopped", stop_all(STOPS))
