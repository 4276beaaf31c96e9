"""Kept by the template."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from .container import UNANSWERED, Container, serving
from .load import Load
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


def test_a_worker_that_hangs_leaves_its_stack_and_the_request_id(probe: str) -> None:
    with serving(probe, {"WEB_CONCURRENCY": "1", "TIMEOUT": "2", "DRAIN_SECONDS": "0"}) as container:
        with pytest.raises(UNANSWERED):
            container.ask("/contract/block/60", X_Request_ID="the-one")
        line = container.logged(lambda line: line["event"] == "the worker hangs and is aborted")
        assert line["request_id"] == "the-one"
        assert "time.sleep(seconds)" in line["stack"]


def test_a_worker_that_cannot_start_is_tried_again_while_the_other_serves(probe: str) -> None:
    two = {"WEB_CONCURRENCY": "2", "CONTRACT_FAILURE": "later"}
    with serving(probe, two) as container:
        before = answering_workers(container)
        container.ask("/contract/down", "POST")
        container.kill_worker()
        container.logged(lambda line: line["event"] == "a worker cannot start and is tried again")
        assert {container.ask("/contract/pid").status for _ in range(50)} == {200}
        container.ask("/contract/back", "POST")
        assert len(before & answering_workers(container)) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_is_lost_when_workers_are_recycled(probe: str, tell: Callable[[str], None], workers: str) -> None:
    environment = {"WEB_CONCURRENCY": workers, "MAX_REQUESTS": "100", "DRAIN_SECONDS": "0"}
    with serving(probe, environment) as container:
        with Load(container) as load:
            end = time.monotonic() + 30
            while container.events().count("started") < int(workers) + 3:
                assert time.monotonic() < end, "too few workers have been recycled"
                time.sleep(1)
        tell(f"{load.sent} requests sent, {len(load.lost)} lost with MAX_REQUESTS and {workers} worker(s)")
        assert load.lost == []


def test_a_worker_keeps_an_idle_connection_longer_than_the_load_balancer_does(late_answer: Future[int]) -> None:
    assert late_answer.result() == 200
