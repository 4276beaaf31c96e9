"""This machine: the rig's folders, and commands."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# The rig's own tests set RIG_CACHE, RIG_STATE and the like, to leave another rig on this machine alone.
CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("RIG_CACHE", CACHES / "copier-fastapi-ecs/rig"))
STATE = Path(os.environ.get("RIG_STATE", "/run/copier-fastapi-ecs-rig" if os.geteuid() == 0 else CACHE / "state"))

started: list[Callable[[], None]] = []  # how to stop what this process has started


class RigError(Exception):
    """What cannot be made available, and why."""


def say(text: str) -> None:
    """Tell whoever waits."""
    print(f"rig: {text}", file=sys.stderr, flush=True)


def run(
    *command: str | Path, stdin: IO[str] | None = None, log: Path | None = None, timeout: float | None = None
) -> str:
    """Return what a command prints, or write it to a log; a failure raises CalledProcessError."""
    with log.open("a") if log else open(os.devnull, "w") as errors:
        output = errors if log else subprocess.PIPE
        source = stdin or subprocess.DEVNULL
        done = subprocess.run(
            command, stdin=source, stdout=output, stderr=errors, text=True, timeout=timeout, check=True
        )
    return done.stdout or ""


def succeeds(*command: str | Path) -> bool:
    """Return whether a command ends well."""
    try:
        run(*command)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextmanager
def lock() -> Iterator[None]:
    """One rig at a time; what is started does not inherit the lock."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> bool:
    """Return whether it has become true in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def mounts(folder: Path) -> list[str]:
    """Return the mount points below a folder, deepest first."""
    with suppress(OSError):
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)
    return []


def unmount(folder: Path) -> None:
    """Unmount what a killed build or engine left below a folder, even if another program still looks into it."""
    for point in mounts(folder):
        succeeds("umount", "--lazy", point)


def remove(folder: Path) -> None:
    """Remove a folder, but nothing that is mounted in it."""
    unmount(folder)
    if not mounts(folder):
        shutil.rmtree(folder, ignore_errors=True)
