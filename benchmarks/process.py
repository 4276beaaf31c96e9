"""What the process costs: middleware and logs against none, preload against none, workers against each other.

Run by `make bench`, with a container engine. Every figure is a ratio to another one of the same run. The image is that
of the default answers; each variant is a container of it with one CPU. Prints Markdown.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parent.parent
IMAGE = "bench-process"
REQUEST = b"GET /hello/Ada HTTP/1.1\r\nHost: bench\r\n\r\n"
CONNECTIONS = 16
ROUNDS = 9
SECONDS = 3

# The same application without the request middleware, so without ids and lines about requests.
PLAIN = """
from fastapi import FastAPI
from my_service.main import app
app.build_middleware_stack = lambda: FastAPI.build_middleware_stack(app)
"""
# The same again with a line about each request as Uvicorn writes it: importing the service has taken its handler away.
ACCESS = """
import logging
from plain import app
logging.getLogger("uvicorn.access").handlers = [logging.StreamHandler()]
"""
GUNICORN = "gunicorn --config /dev/null --bind 0.0.0.0:8000 --worker-tmp-dir /dev/shm --no-control-socket "
UVICORN = GUNICORN + "--worker-class uvicorn_worker.UvicornWorker "
OURS = "gunicorn my_service.main:app"
VARIANTS = {
    "ours": OURS,
    "no middleware, no logs": UVICORN + "--log-level warning plain:app",
    "the seed's access log": UVICORN + "access:app",
}


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def step(text: str) -> None:
    print(text, file=sys.stderr)


def build() -> None:
    """Build the image of the default answers, with the plain application beside the service."""
    with tempfile.TemporaryDirectory() as folder:
        copier = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref", "HEAD", str(ROOT), folder]
        subprocess.run(copier, check=True, stderr=subprocess.DEVNULL)
        docker("build", "--quiet", "--tag", f"{IMAGE}-base", folder)
        Path(folder, "plain.py").write_text(PLAIN)
        Path(folder, "access.py").write_text(ACCESS)
        Path(folder, "bench.Dockerfile").write_text(f"FROM {IMAGE}-base\nCOPY plain.py access.py /app/src/\n")
        Path(folder, ".dockerignore").write_text("")
        docker("build", "--quiet", "--tag", IMAGE, "--file", f"{folder}/bench.Dockerfile", folder)


@contextmanager
def serving(command: str, workers: int) -> Iterator[tuple[str, int]]:
    """Run the image with one CPU; give the container and its port once it answers."""
    arguments = [
        "--detach",
        "--cpus=1",
        "--memory=2g",
        "--shm-size=512m",
        f"--env=WEB_CONCURRENCY={workers}",
        "--env=DRAIN_SECONDS=0",
    ]
    # Into memory: what the engine does with a container's output is the same machine's time, and not on Fargate.
    logged = ["sh", "-c", f"exec {command} >/dev/shm/log 2>&1"]
    container = docker("run", *arguments, "--publish=127.0.0.1::8000", IMAGE, *logged)
    try:
        port = int(docker("port", container, "8000/tcp").splitlines()[0].rpartition(":")[2])
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/hello/Ada").close()
                break
            except OSError:
                time.sleep(0.1)
        yield container, port
    finally:
        docker("rm", "--force", container)


async def load(port: int) -> tuple[float, float]:
    """Return requests per second and the 99th percentile of their times in milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begun := time.perf_counter()) < end:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return len(times) / SECONDS, quantiles(times, n=100)[98] * 1000


def middleware() -> None:
    """Compare requests per second, the variants taking turns."""
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(ROUNDS):
        first = number % len(VARIANTS)  # each comes first, second and last as often as the others
        for name in [*VARIANTS, *VARIANTS][first : first + len(VARIANTS)]:
            step(f"round {number + 1} of {ROUNDS}: {name}")
            with serving(VARIANTS[name], 1) as (_, port):
                asyncio.run(load(port))
                rates[name].append(asyncio.run(load(port))[0])
    none = rates["no middleware, no logs"]
    print("| one worker, one CPU | requests/s | ratio, median | least to most |\n|---|---|---|---|")
    for name, rate in rates.items():
        ratios = [a / b for a, b in zip(rate, none, strict=True)]
        print(f"| {name} | {median(rate):.0f} | {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")


def memory() -> None:
    """Compare the memory of four workers, shared pages counted once (PSS)."""
    pss = {}
    for name, command in {"preload": OURS, "no preload": UVICORN + "my_service.main:app"}.items():
        step(f"memory: {name}")
        with serving(command, 4) as (container, port):
            asyncio.run(load(port))
            lines = docker("exec", container, "sh", "-c", "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | grep ^Pss:")
            pss[name] = sum(int(line.split()[1]) for line in lines.splitlines()) / 1024
    print("\n| four workers | PSS, MiB | ratio |\n|---|---|---|")
    for name, size in pss.items():
        print(f"| {name} | {size:.0f} | {size / pss['no preload']:.2f} |")


def workers() -> None:
    """Compare one, two and four workers that share one CPU."""
    print("\n| workers on one CPU | requests/s | p99, ms |\n|---|---|---|")
    results: dict[int, list[tuple[float, float]]] = {1: [], 2: [], 4: []}
    for number in range(ROUNDS // 2):
        for count, rounds in results.items():
            step(f"round {number + 1} of {ROUNDS // 2}: {count} workers")
            with serving(OURS, count) as (_, port):
                asyncio.run(load(port))
                rounds.append(asyncio.run(load(port)))
    for count, rounds in results.items():
        print(f"| {count} | {median(r for r, _ in rounds):.0f} | {median(p for _, p in rounds):.0f} |")


if __name__ == "__main__":
    build()
    try:
        for part in (middleware, memory, workers):
            if part.__name__ in sys.argv[1:] or not sys.argv[1:]:
                part()
    finally:
        docker("image", "rm", "--force", IMAGE, f"{IMAGE}-base")
