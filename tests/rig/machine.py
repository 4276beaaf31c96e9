"""This machine: the rig's folders, commands and daemons."""

import fcntl
import os
import shutil
import signal
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

started: list["Daemon"] = []  # by this process
commands: set[subprocess.Popen[str]] = set()  # that run now, each in a process group of its own


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
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=errors if log else subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        commands.add(process)
        try:
            printed, _ = process.communicate(timeout=timeout)
        finally:
            end_group(process)
            commands.discard(process)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return printed or ""


def succeeds(*command: str | Path) -> bool:
    """Return whether a command ends well."""
    try:
        run(*command)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def end_group(process: "subprocess.Popen[str]") -> None:
    """End a command that still runs, with what it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


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


class Daemon:
    """A program in the background that any later rig can find and stop by its recorded process id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = STATE / f"{name}.log"
        self.file = STATE / f"{name}.pid"

    @property
    def recorded(self) -> bool:
        return self.file.exists()

    def alive(self) -> bool:
        """Return whether it runs. Its process id may be another program's by now."""
        try:
            command = Path("/proc", self.file.read_text().strip(), "cmdline").read_bytes()
        except OSError:
            return False
        return command.startswith(f"{self.name}\0".encode()) and f"{STATE}/".encode() in command

    def start(self, *arguments: str | Path) -> None:
        STATE.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [self.name, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.file.write_text(f"{process.pid}\n")
        started.append(self)

    def stop(self) -> None:
        if self.alive():
            say(f"stopping {self.name}")
            pid = int(self.file.read_text())
            os.kill(pid, signal.SIGTERM)
            if not wait_until(self._ended):
                os.kill(pid, signal.SIGKILL)
                wait_until(self._ended)
        self.file.unlink(missing_ok=True)

    def _ended(self) -> bool:
        with suppress(ChildProcessError):  # another rig's child
            os.waitpid(int(self.file.read_text()), os.WNOHANG)
        return not self.alive()


def mounts(folder: Path) -> list[str]:
    """Return the mount points below a folder, deepest first."""
    try:
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return []
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def unmount(folder: Path) -> None:
    """Unmount what a killed build or engine left below a folder, even if another program still looks into it."""
    for point in mounts(folder):
        succeeds("umount", "--lazy", point)


def remove(folder: Path) -> None:
    """Remove a folder, but nothing that is mounted in it."""
    unmount(folder)
    if not mounts(folder):
        shutil.rmtree(folder, ignore_errors=True)
