"""Workers that are killed, that hang, that cannot start and that are recycled, beside others that serve."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ..container import UNANSWERED, Container, serving, wait_until
from ..load import Load
from ..task import MEMORY
from .container import kill_worker, logged


def ask_in_vain(container: Container, path: str, request_id: str = "") -> None:
    """Send a request that no worker survives."""
    with pytest.raises(UNANSWERED):
        container.ask(path, X_Request_ID=request_id)


def exhaust(container: Container) -> None:
    """Have the kernel kill a worker that takes all memory."""
    ask_in_vain(container, "/contract/hoard")


def answering_workers(container: Container) -> set[int]:
    """Return the process ids of two workers, once two answer."""
    seen: set[int] = set()

    def two_answer() -> bool:
        seen.add(container.ask("/contract/pid").json())
        return len(seen) == 2

    wait_until(two_answer, 60, "one worker alone answers")
    return seen


def check_that_the_other_serves(container: Container) -> None:
    """Send requests, which all must be answered."""
    assert {container.ask("/contract/pid").status for _ in range(50)} == {200}


@pytest.mark.parametrize("harm", [kill_worker, exhaust])
def test_a_lost_worker_is_replaced_while_the_other_serves(harm: Callable[[Container], None]) -> None:
    with serving({"WEB_CONCURRENCY": "2"}, memory=min(MEMORY, 2048)) as container:
        before = answering_workers(container)
        harm(container)
        check_that_the_other_serves(container)
        assert len(before & answering_workers(container)) == 1
        assert container.state()["Status"] == "running"


def test_a_worker_that_hangs_leaves_its_stack_and_the_request_id_and_is_replaced() -> None:
    with serving({"WEB_CONCURRENCY": "2", "TIMEOUT": "2"}) as container, ThreadPoolExecutor() as pool:
        before = answering_workers(container)
        hanging = pool.submit(ask_in_vain, container, "/contract/block/60", "the-one")
        time.sleep(0.5)
        check_that_the_other_serves(container)
        line = logged(container, lambda line: line["event"] == "the worker hangs and is aborted")
        assert line["request_id"] == "the-one"
        assert "time.sleep(seconds)" in line["stack"]
        hanging.result()
        assert len(before & answering_workers(container)) == 1
        assert container.state()["Status"] == "running"


def test_a_worker_that_cannot_start_is_tried_again_while_the_other_serves() -> None:
    with serving({"WEB_CONCURRENCY": "2", "CONTRACT_FAILURE": "later"}) as container:
        before = answering_workers(container)
        container.ask("/contract/down", "POST")
        kill_worker(container)
        logged(container, lambda line: line["event"] == "a worker cannot start and is tried again")
        check_that_the_other_serves(container)
        container.ask("/contract/back", "POST")
        assert len(before & answering_workers(container)) == 1


def recycle_under_load(workers: int) -> Load:
    """Send requests until three workers have been recycled."""
    environment = {"WEB_CONCURRENCY": str(workers), "MAX_REQUESTS": "100", "DRAIN_SECONDS": "0"}
    with serving(environment) as container, Load(container) as load:
        wait_until(lambda: container.events().count("started") >= workers + 3, 30, "too few workers are recycled")
    return load


def test_no_request_is_lost_when_workers_are_recycled(record_property: Callable[[str, object], None]) -> None:
    with ThreadPoolExecutor() as pool:
        loads = list(pool.map(recycle_under_load, [1, 2]))
    lost = [reason for load in loads for reason in load.lost]
    record_property("recycled", f"{sum(load.sent for load in loads)} requests sent, {len(lost)} lost with MAX_REQUESTS")
    assert lost == []


def test_a_worker_keeps_an_idle_connection_longer_than_the_load_balancer_does(late_answer: Future[int]) -> None:
    assert late_answer.result() == 200
