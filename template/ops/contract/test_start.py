"""A task becomes healthy in time, and a start that fails says why. Kept by the template."""

import time
from collections.abc import Callable

import pytest

from .container import IMAGE, PROBE, started, wait_until
from .task import CPUS, ENVIRONMENT, HEALTH_PATH, MEMORY

SMALLEST = (0.25, 512, "1")  # the smallest task that Fargate offers, and the workers for it
OWN = (CPUS, MEMORY, ENVIRONMENT["WEB_CONCURRENCY"])


@pytest.mark.parametrize(("cpus", "memory", "workers"), [SMALLEST, OWN], ids=["smallest", "own"])
def test_a_task_is_healthy_within_the_start_period(
    record_property: Callable[[str, object], None], cpus: float, memory: int, workers: str
) -> None:
    begun = time.monotonic()
    with started(IMAGE, {"WEB_CONCURRENCY": workers}, cpus=cpus, memory=memory) as container:
        start_period = container.docker.attrs["Config"]["Healthcheck"]["StartPeriod"] / 1e9
        wait_until(
            lambda: container.state()["Health"]["Status"] == "healthy",
            start_period,
            f"the health check has not succeeded with {cpus:g} vCPU",
        )
        took = time.monotonic() - begun
        record_property("healthy", f"after {took:.1f} s with {cpus:g} vCPU, {memory} MiB, {workers} workers")
        assert container.state()["Health"]["FailingStreak"] == 0
        assert container.ask(HEALTH_PATH).status == 200, "the service answers on 127.0.0.1 alone"


def test_a_wrong_setting_ends_the_start_with_the_reason_and_without_the_value() -> None:
    with started(IMAGE, {"LOG_LEVEL": "hunter2"}) as container:
        wait_until(lambda: container.state()["Status"] == "exited", 30, "LOG_LEVEL=hunter2 has not ended the start")
        assert container.state()["ExitCode"] == 1
        reasons = [line["reason"] for line in container.log() if "reason" in line]
        assert any("log_level" in reason for reason in reasons), "the log does not name the setting"
        assert "hunter2" not in "".join(container.output()).lower()


def test_an_exception_in_the_lifespan_ends_the_start_with_the_reason() -> None:
    with started(PROBE, {"CONTRACT_FAILURE": "lifespan"}) as container:
        wait_until(lambda: container.state()["Status"] == "exited", 30, "an exception has not ended the start")
        assert container.state()["ExitCode"] == 3
        said = [event for event in container.events() if event.endswith("ConnectionError: no database")]
        assert said, "the log does not have the reason"
