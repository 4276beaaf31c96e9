"""This machine: the rig's folders, and commands."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


def run(*command: str | Path, log: Path | None = None, timeout: float | None = None) -> str:
    """Return what a command prints; its errors go into a log if one is given. A failure raises CalledProcessError."""
    with open(log or os.devnull, "a") as errors:
        return subprocess.check_output(command, stdin=subprocess.DEVNULL, stderr=errors, text=True, timeout=timeout)


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
