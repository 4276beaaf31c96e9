"""Kept by the template."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from .container import UNANSWERED, Container, serving
from .task import MEMORY


def ask_in_vain(container: Container, path: str) -> None:
    """Send a request that no worker survives."""
    with pytest.raises(UNANSWERED):
        container.ask(path)


def block(container: Container, pool: Executor) -> None:
    """Block a worker's event loop."""
    pool.submit(ask_in_vain, container, "/contract/block/60")
    time.sleep(0.5)


def kill(container: Container, pool: Executor) -> None:
    """Kill a worker."""
    container.kill_worker()


def exhaust(container: Container, pool: Executor) -> None:
    """Have the kernel kill a worker that takes all memory."""
    ask_in_vain(container, "/contract/hoard")


def answering_workers(container: Container) -> set[int]:
    """Return the process ids of two workers, once two answer."""
    seen: set[int] = set()
    end = time.monotonic() + 60
    while len(seen) < 2:
        assert time.monotonic() < end, f"only {seen} answer"
        seen.add(container.ask("/contract/pid").json())
    return seen


@pytest.mark.parametrize("harm", [block, kill, exhaust])
def test_a_lost_worker_is_replaced_while_the_other_serves(
    probe: str, harm: Callable[[Container, Executor], None]
) -> None:
    two = {"WEB_CONCURRENCY": "2", "TIMEOUT": "2"}
    with serving(probe, two, memory=min(MEMORY, 2048)) as container, ThreadPoolExecutor() as pool:
        before = answering_workers(container)
        harm(container, pool)
        assert {container.ask("/contract/pid").status for _ in range(50)} == {200}
        after = answering_workers(container)
        assert len(before & after) == 1
        assert container.state()["Status"] == "running"
