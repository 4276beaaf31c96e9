"""How cost grows: with workers and CPUs, with the load that is offered, and with the files of a repository.

Beside the conventional image stand the servers that a user would take instead, in an image of their own.
"""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.containers import load, step
from benchmarks.failures import OVERLOAD, capacity, offer, p99, serving
from benchmarks.images import Image, Prepared, Rounds, built, megabytes, prepare
from benchmarks.updates import template_of
from tests.support.commands import commit
from tests.support.template import copy
from tests.update.script import template_update

ROUNDS = 3
SIZES = [(1, 0.25), (1, 1), (2, 1), (4, 1)]  # workers and CPUs
LOADS = [0.5, 1, 2, 5, OVERLOAD]  # times the capacity
FILES = [100, 1000, 10_000]
SERVERS = {  # their commands without the number of workers; `slim` has its own
    "slim": "",
    "conventional": "gunicorn conventional:app --worker-class uvicorn.workers.UvicornWorker --bind 0.0.0.0:8000"
    " --timeout 120 --access-logfile - --workers",
    "Granian": "granian conventional:app --interface asgi --host 0.0.0.0 --access-log --workers",
    "fastapi run": "fastapi run src/conventional.py --workers",
}


def prepare_servers(folder: Path) -> Prepared:
    """Lay out our image, and the conventional one with the other servers."""
    (conventional, _, slim, _), python, uv = prepare(folder)
    project = conventional.folder / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [", 'dependencies = ["granian", "fastapi-cli",', 1))
    return [slim, conventional], python, uv


def command(name: str, workers: int) -> tuple[str, ...]:
    """Return the command that starts a server."""
    return (*SERVERS[name].split(), str(workers)) if SERVERS[name] else ()


def requests(images: dict[str, Image]) -> dict[str, dict[str, Rounds]]:
    """Return requests per second and megabytes of each server in each size; the servers take turns."""
    results: dict[str, dict[str, Rounds]] = {
        f"{workers} on {cpus} CPU": {name: {"requests_per_second": [], "memory_mb": []} for name in SERVERS}
        for workers, cpus in SIZES
    }
    for number in range(ROUNDS):
        for (size, row), (workers, cpus) in zip(results.items(), SIZES, strict=True):
            for name, figures in row.items():
                step(f"growth: round {number + 1} of {ROUNDS}: {size}: {name}")
                options = (f"--cpus={cpus}", "--log-driver=none")
                with images[name].run(*options, workers=workers, command=command(name, workers)) as (container, _):
                    load(container)
                    figures["requests_per_second"].append(load(container)[0])
                    figures["memory_mb"].append(megabytes(container))
    return results


def offered(images: dict[str, Image]) -> dict[str, list[float]]:
    """Return the 99th percentile of the seconds to an answer of one worker of each server, for each of LOADS."""
    results: dict[str, list[float]] = {}

    async def at_load(at: str) -> list[float]:
        known = await capacity(at)
        times = []
        for times_capacity in LOADS:
            answers, checks = await offer(at, known * times_capacity)
            times.append(p99(await asyncio.gather(*answers)))
            await asyncio.gather(*checks)
        return times

    for name in SERVERS:
        step(f"growth: offered load: {name}")
        with serving(images[name], *command(name, 1)) as (_, at):
            results[name] = asyncio.run(at_load(at))
    return results


def updates() -> dict[str, float]:
    """Return the seconds of an update from the last release by the number of the owner's files."""
    with tempfile.TemporaryDirectory() as name:
        service = Path(name, "service")
        template, (version, _) = template_of(Path(name), last=2)
        results = {}
        for files in FILES:
            step(f"growth: update with {files} files")
            copy(template, service, {}, version)
            for number in range(files):
                path = service / f"src/my_service/more/{number % 100}/{number}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"number = {number}\n")
            commit(service)
            begun = time.monotonic()
            status, said = template_update(service)
            results[str(files)] = time.monotonic() - begun
            assert status == 0, said
            shutil.rmtree(service)
        return results


def measure() -> dict[str, Any]:
    """Return all of the above."""
    with built(prepare_servers) as ((slim, conventional), *_):
        images = {name: conventional if SERVERS[name] else slim for name in SERVERS}
        return {"requests": requests(images), "offered": offered(images), "updates": updates()}
