"""What these tests do with a container, more than the contract does."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..container import UNANSWERED, Container, wait_until


def kill_worker(container: Container) -> None:
    """Have the worker that answers next kill itself."""
    with suppress(*UNANSWERED):
        container.ask("/contract/kill")


def logged(container: Container, is_meant: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first line of the log that is meant, whichever worker writes it; raise if none comes."""
    lines: list[dict[str, Any]] = []

    def is_there() -> bool:
        lines[:] = filter(is_meant, container.log())
        return bool(lines)

    wait_until(is_there, 10, "no such line is in the log")
    return lines[0]
