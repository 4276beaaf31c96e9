"""Rendered services, containers of them and load on them, as all benchmarks need them."""

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import quantiles

from tests.support.containers import docker

ROOT = Path(__file__).parent.parent
REQUEST = b"GET /hello/Ada HTTP/1.1\r\nHost: bench\r\n\r\n"
CONNECTIONS = 16
SECONDS = 3

# The same application without the request middleware, so without ids and lines about requests.
PLAIN = """
from fastapi import FastAPI
from my_service.main import app
app.build_middleware_stack = lambda: FastAPI.build_middleware_stack(app)


@app.get("/health")
async def health() -> str:
    return "healthy"
"""
# The same again with a line about each request as Uvicorn writes it: importing the service has taken its handler away.
CONVENTIONAL = """
import logging
from plain import app
logging.getLogger("uvicorn.access").handlers = [logging.StreamHandler()]
"""


def step(text: str) -> None:
    """Tell what is done now."""
    print(text, file=sys.stderr, flush=True)


def render(folder: Path, **answers: str) -> None:
    """Render the template as it is on disk."""
    data = [f"--data={name}={value}" for name, value in answers.items()]
    copier = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD", *data, str(ROOT), str(folder)]
    subprocess.run(copier, check=True, stderr=subprocess.DEVNULL)


@contextmanager
def running(image: str, *arguments: str, command: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Run an image, and give the container and the seconds from its start to its first answer with status 200."""
    container = docker("run", "--detach", "--publish=127.0.0.1::8000", *arguments, image, *command)
    try:
        url = f"http://{address(container)}/health"
        for _ in range(6000):
            try:
                urllib.request.urlopen(url, timeout=60).close()
                break
            except OSError:
                time.sleep(0.01)
        else:
            raise TimeoutError(f"{image} does not answer")
        answered = time.time()
        started = datetime.fromisoformat(docker("inspect", "--format={{.State.StartedAt}}", container))
        yield container, answered - started.timestamp()
    finally:
        docker("rm", "--force", container)


def address(container: str) -> str:
    """Return where the container's port is published."""
    return docker("port", container, "8000/tcp").splitlines()[0]


def load(container: str) -> tuple[float, float]:
    """Return requests per second and the 99th percentile of their times in milliseconds.

    The client asks the container itself, as a load balancer does: Docker's proxy before a published port takes CPU.
    """
    networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return asyncio.run(_load(docker("inspect", f"--format={networks}", container)))


async def _load(host: str) -> tuple[float, float]:
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, 8000)
        while (begun := time.perf_counter()) < end:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return len(times) / SECONDS, quantiles(times, n=100)[98] * 1000
