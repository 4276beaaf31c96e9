"""What the process costs: middleware and logs against none, preload against none.

Each variant is a container of the image of the default answers with one CPU.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.containers import CONVENTIONAL, PLAIN, load, render, running, step
from tests.support.commands import edit
from tests.support.containers import docker

IMAGE = "bench-process"
ROUNDS = 6

UVICORN = (
    "gunicorn --config /dev/null --bind 0.0.0.0:8000 --worker-tmp-dir /dev/shm --no-control-socket "
    "--worker-class uvicorn_worker.UvicornWorker "
)
OURS = "python -m my_service.ops.gunicorn my_service.main:app"
VARIANTS = {
    "ours": OURS,
    "no middleware, no logs": UVICORN + "--log-level warning plain:app",
    "Uvicorn's access log": UVICORN + "conventional:app",
}


def build() -> None:
    """Build the image of the default answers, with the plain application and a second configuration beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render(folder)
        # The variants' worker class.
        edit(folder / "pyproject.toml", "dependencies = []", 'dependencies = ["uvicorn-worker>=0.4"]')
        docker("build", "--quiet", "--tag", f"{IMAGE}-base", name)
        (folder / "plain.py").write_text(PLAIN)
        (folder / "conventional.py").write_text(CONVENTIONAL)
        # The import before Gunicorn's own would be a preload, too.
        config = (folder / "gunicorn.conf.py").read_text().replace("preload_app = True", "preload_app = False")
        before, _, rest = config.partition("try:\n    import my_service.main")
        (folder / "lazy.conf.py").write_text(before + rest[rest.index("gc.freeze()") :])
        copy = "COPY plain.py conventional.py lazy.conf.py /app/src/"
        (folder / "bench.Dockerfile").write_text(f"FROM {IMAGE}-base\n{copy}\n")
        (folder / ".dockerignore").write_text("")
        docker("build", "--quiet", "--tag", IMAGE, "--file", f"{name}/bench.Dockerfile", name)


@contextmanager
def serving(command: str, workers: int) -> Iterator[str]:
    """Run the image with one CPU; give the container once it answers."""
    environment = ["--env=DRAIN_SECONDS=0", f"--env=WEB_CONCURRENCY={workers}"]
    # Into memory: what the engine does with a container's output is the same machine's time, and not on Fargate.
    logged = ("sh", "-c", f"exec {command} >/dev/shm/log 2>&1")
    with running(IMAGE, "--cpus=1", "--memory=2g", "--shm-size=512m", *environment, command=logged) as (container, _):
        yield container


def middleware() -> dict[str, list[float]]:
    """Compare requests per second, the variants taking turns."""
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(ROUNDS):
        first = number % len(VARIANTS)  # each comes first, second and last as often as the others
        for name in [*VARIANTS, *VARIANTS][first : first + len(VARIANTS)]:
            step(f"process: one worker, round {number + 1} of {ROUNDS}: {name}")
            with serving(VARIANTS[name], 1) as container:
                load(container)
                rates[name].append(load(container)[0])
    return rates


def memory() -> dict[str, list[float]]:
    """Compare the memory of four workers with and without preload, shared pages counted once (PSS), in MiB."""
    pss: dict[str, list[float]] = {"preload": [], "no preload": []}
    for number in range(3):
        for name, config in {"preload": "gunicorn.conf.py", "no preload": "src/lazy.conf.py"}.items():
            step(f"process: memory, round {number + 1} of 3: {name}")
            with serving(f"python -m my_service.ops.gunicorn --config {config} my_service.main:app", 4) as container:
                load(container)
                lines = docker("exec", container, "sh", "-c", "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | grep ^Pss:")
                pss[name].append(sum(int(line.split()[1]) for line in lines.splitlines()) / 1024)
    return pss


def measure() -> dict[str, Any]:
    """Return all of the above."""
    step("process: building the image")
    build()
    try:
        return {"middleware": middleware(), "memory": memory()}
    finally:
        docker("image", "rm", "--force", IMAGE, f"{IMAGE}-base")
