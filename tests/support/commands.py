"""Run commands, keep a Git history, edit files, wait."""

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.rig import machine
from tests.support.template import ROOT

GITHUB_SHELL = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c")  # how GitHub runs a step


def run(*command: str | Path, cwd: Path = ROOT, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed, stderr with stdout; a failure raises with its output."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}")
    return done


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    """Return when it is true, or fail; an answer that does not come counts as false."""

    def is_answered() -> bool:
        with suppress(OSError):
            return is_true()
        return False

    assert machine.wait_until(is_answered, seconds)


def commit(repository: Path, message: str = "Saved") -> str:
    """Commit all there is, in a new Git repository if need be, and return the commit's id."""
    if not (repository / ".git").exists():
        run("git", "init", "--quiet", cwd=repository)
    run("git", "add", "--all", cwd=repository)
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")  # a machine may know no name
    run("git", *author, "commit", "--quiet", "--allow-empty", "--message", message, cwd=repository)
    return run("git", "rev-parse", "HEAD", cwd=repository).stdout.strip()


def tree(root: Path) -> dict[str, str]:
    """Return every file below `root` but Git's: its path and its text."""
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(files)}


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that must be in the file."""
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new))
