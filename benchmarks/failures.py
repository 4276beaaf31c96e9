"""What a bad hour costs the image's users: a stop, a failed start, ten times the load it can take, large bodies."""

import asyncio
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

from benchmarks.containers import address, step
from benchmarks.images import OURS, Image, built, megabytes
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

ROUTES = """

@app.get("/compute")
async def compute() -> None:
    import time
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass


@app.post("/body")
async def body(value: dict[str, str]) -> int:
    return len(value)
"""
OVERLOAD = 10  # times the capacity
SECONDS = 8
PATIENCE = 10  # seconds that a client waits
BODY = b'{"a": "' + b"a" * 9_900_000 + b'"}'
BODIES = 60


@contextmanager
def serving(image: Image, *command: str) -> Iterator[tuple[str, str]]:
    """Run an image on the first CPU, with more routes, by a command or its own; give its container and address.

    The clients leave it that CPU, if there is another.
    """
    main = image.folder / "src/my_service/main.py"
    more = image.folder / "more.py"
    more.write_text(main.read_text() + ROUTES)
    mount = f"--volume={more}:/app/src/my_service/main.py:ro"
    options = ("--cpuset-cpus=0", "--log-driver=none", "--env=PYTHONPYCACHEPREFIX=/tmp", mount)
    cpus = os.sched_getaffinity(0)
    with image.run(*options, workers=1, command=command) as (container, _):
        os.sched_setaffinity(0, cpus - {0} or {0})
        try:
            yield container, address(container)
        finally:
            os.sched_setaffinity(0, cpus)


async def answer(at: str, path: str, body: bytes = b"") -> tuple[int, float]:
    """Send a request on a new connection, and return the status and the seconds; 0 if it is not answered."""
    host, _, port = at.partition(":")
    begun = time.perf_counter()
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode() + body)
            line = (await reader.read())[:12]
            writer.close()
        return int(line[9:]), time.perf_counter() - begun
    except (OSError, TimeoutError, ValueError):
        return 0, PATIENCE


async def capacity(at: str) -> float:
    """Return how many requests are answered in one second."""
    end = time.perf_counter() + SECONDS
    done = 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            status, _ = await answer(at, "/compute")
            done += status == 200

    await asyncio.gather(client(), client(), client(), client())
    return done / SECONDS


Requests = list[asyncio.Task[tuple[int, float]]]


async def offer(at: str, rate: float) -> tuple[Requests, Requests]:
    """Send that many requests a second, whatever is answered, and four health checks a second; return both."""
    begun = time.perf_counter()
    requests, checks = Requests(), Requests()
    for number in range(int(rate * SECONDS)):
        await asyncio.sleep(max(0, begun + number / rate - time.perf_counter()))
        requests.append(asyncio.create_task(answer(at, "/compute")))
        if number % max(1, int(rate / 4)) == 0:
            checks.append(asyncio.create_task(answer(at, "/health")))
    return requests, checks


async def overloaded(at: str) -> dict[str, float]:
    """Send ten times as many requests as are answered in one second, and look at the answers and the health."""
    known = await capacity(at)
    begun = time.perf_counter()
    requests, checks = await offer(at, known * OVERLOAD)
    took = time.perf_counter() - begun
    ended = time.perf_counter()
    in_time = sum(request.done() and request.result()[0] == 200 for request in requests)
    while (await answer(at, "/compute"))[1] > 0.5 and time.perf_counter() - ended < 60:
        await asyncio.sleep(0.1)
    back = time.perf_counter() - ended
    answers = await asyncio.gather(*requests)
    healthy = [seconds <= 1 for _, seconds in await asyncio.gather(*checks)]
    return {
        "overload_goodput": 100 * in_time / took / known,
        "overload_p99_s": p99(answers),
        "overload_unanswered": 100 * sum(status == 0 for status, _ in answers) / len(answers),
        "overload_health": 100 * sum(healthy) / len(healthy),
        "overload_back_s": back,
    }


def p99(answers: list[tuple[int, float]]) -> float:
    """Return the 99th percentile of the seconds of those with status 200."""
    times = [seconds for status, seconds in answers if status == 200]
    return quantiles(times, n=100)[98] if len(times) > 1 else PATIENCE


def overload(image: Image) -> dict[str, float]:
    """Return how an image bears ten times its capacity."""
    with serving(image) as (_, at):
        return asyncio.run(overloaded(at))


def memory_after_bodies(image: Image) -> float:
    """Return how many megabytes an image has more after many large bodies, and 500 small requests."""

    async def send(at: str) -> None:
        await asyncio.gather(*(answer(at, "/body", BODY) for _ in range(BODIES)))
        for _ in range(500):
            await answer(at, "/hello/Ada")

    with serving(image) as (container, at):
        asyncio.run(answer(at, "/hello/Ada"))
        before = megabytes(container)
        asyncio.run(send(at))
        return megabytes(container) - before


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
    """Return all figures of each image."""
    measures: dict[str, Callable[[Image], float]] = {
        "memory_after_bodies_mb": memory_after_bodies,
        "lost_requests": lost_requests,
        "lines_after_the_reason": lambda image: median(lines_after_the_reason(image) for _ in range(9)),
    }
    results: dict[str, Any] = {}
    with built() as (images, *_):
        for image in images:
            step(f"failures: {image.name}")
            results[image.name] = {name: function(image) for name, function in measures.items()} | overload(image)
    return results
