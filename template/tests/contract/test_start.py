"""Kept by the template."""

import time
from collections.abc import Callable

import pytest

from . import engine
from .container import BROKEN, IMAGE, PROBE, started
from .task import CPUS, ENVIRONMENT, MEMORY

SMALLEST = (0.25, 512, "1")  # the smallest task that Fargate offers, and the workers for it
OWN = (CPUS, MEMORY, ENVIRONMENT["WEB_CONCURRENCY"])


@pytest.mark.parametrize(("cpus", "memory", "workers"), [SMALLEST, OWN], ids=["smallest", "own"])
def test_a_task_is_healthy_within_the_start_period(
    tell: Callable[[str], None], cpus: float, memory: int, workers: str
) -> None:
    start_period = engine.get(f"/images/{IMAGE}/json")["Config"]["Healthcheck"]["StartPeriod"] / 1e9
    begun = time.monotonic()
    with started(IMAGE, {"WEB_CONCURRENCY": workers}, cpus=cpus, memory=memory) as container:
        while container.state()["Health"]["Status"] != "healthy":
            assert time.monotonic() - begun < start_period
            time.sleep(0.1)
        took = time.monotonic() - begun
        tell(f"healthy after {took:.1f} s with {cpus:g} vCPU, {memory} MiB, {workers} workers")
        assert container.state()["Health"]["FailingStreak"] == 0


def test_a_wrong_setting_ends_the_start_with_the_reason_and_without_the_value() -> None:
    with started(IMAGE, {"LOG_LEVEL": "hunter2"}) as container:
        assert container.wait_until_exited(timeout=30) == 1
        assert container.logged(lambda line: "log_level" in line.get("reason", ""))
        assert "hunter2" not in "".join(container.output()).lower()


def test_an_exception_in_the_lifespan_ends_the_start_with_the_reason() -> None:
    with started(PROBE, {"CONTRACT_FAILURE": "lifespan"}) as container:
        assert container.wait_until_exited(timeout=30) == 3
        assert container.logged(lambda line: line["event"].endswith("ConnectionError: no database"))


def test_an_exception_at_import_ends_the_start_with_the_reason() -> None:
    with started(BROKEN) as container:
        assert container.wait_until_exited(timeout=30) == 1
        assert container.logged(lambda line: "RuntimeError: no model" in line.get("exception", ""))
