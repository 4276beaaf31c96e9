"""What a stop and a failed start cost the image's users: requests lost, and log lines after the reason."""

import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks.containers import address, step
from benchmarks.images import OURS, Image, built
from tests.support.containers import docker

CLIENTS = 8
AFTER_SIGTERM = 2  # seconds that a load balancer takes to notice
REASON = "ConnectionError: no database"
FAILING = f"""
from contextlib import asynccontextmanager


@asynccontextmanager
async def lifespan(app):
    raise {REASON.replace(": ", '("')}")
    yield
"""


def lost_requests(image: Image) -> float:
    """Return how many of 100 requests fail that are sent on new connections in the two seconds after SIGTERM."""
    answered: list[bool] = []
    over = threading.Event()

    def client(url: str) -> None:
        while not over.wait(0.02):
            try:
                urllib.request.urlopen(url, timeout=10).close()
                answered.append(True)
            except OSError:
                answered.append(False)

    drain = 5 if image.name in OURS else 0  # seconds; nothing drains without the template
    with image.run(f"--env=DRAIN_SECONDS={drain}") as (container, _), ThreadPoolExecutor(CLIENTS + 1) as pool:
        url = f"http://{address(container)}/hello/Ada"
        stop = pool.submit(docker, "stop", "--time=30", container)
        time.sleep(0.2)  # for the signal to be sent
        for _ in range(CLIENTS):
            pool.submit(client, url)
        time.sleep(AFTER_SIGTERM)
        over.set()
        stop.result()
    return round(100 * answered.count(False) / len(answered))


def lines_after_the_reason(image: Image) -> float:
    """Return how many lines of the log follow the last one that names why the start failed."""
    main = image.folder / "src/my_service/main.py"
    failing = image.folder / "failing.py"
    # In place of the service's own lifespan, which does nothing.
    before, _, after = main.read_text().partition("@asynccontextmanager\nasync def lifespan")
    failing.write_text(before + FAILING + after[after.index("\n\n\n") :])
    mount = f"--volume={failing}:/app/src/my_service/main.py:ro"
    container = docker("create", mount, "--env=PYTHONPYCACHEPREFIX=/tmp", image.tag)
    try:
        docker("start", container)
        docker("wait", container)
        lines = docker("logs", container, errors=True).splitlines()
    finally:
        docker("rm", "--force", container)
    named = [number for number, line in enumerate(lines) if REASON in line]
    return len(lines) - 1 - named[-1]


def measure() -> dict[str, dict[str, float]]:
    """Return both figures of each image."""
    measures: dict[str, Callable[[Image], float]] = {
        "lost_requests": lost_requests,
        "lines_after_the_reason": lambda image: median(lines_after_the_reason(image) for _ in range(9)),
    }
    results: dict[str, Any] = {}
    with built() as (images, *_):
        for image in images:
            step(f"failures: {image.name}")
            results[image.name] = {name: function(image) for name, function in measures.items()}
    return results
