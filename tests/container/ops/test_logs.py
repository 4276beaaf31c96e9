"""That every line is one JSON object is checked of each container, in the contract's container.py."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..container import serving
from .container import kill_worker


@pytest.mark.parametrize("level", ["info", "DEBUG"])
def test_whatever_happens_is_logged_as_json_and_without_secrets(level: str) -> None:
    with serving({"LOG_LEVEL": level, "DATABASE_PASSWORD": "hunter2", "DRAIN_SECONDS": "0"}) as container:
        assert container.ask("/contract/fail?token=hunter2").status == 500
        assert container.ask("/nowhere", Authorization="Bearer hunter2").status == 404
        assert container.ask("/contract/sleep/long").status == 422
        assert container.ask("/contract/pid", X_Request_ID='"}\t{"').status == 200
        kill_worker(container)
        container.wait_until_serving()
        container.stop()

        exceptions = [line["exception"] for line in container.log() if "exception" in line]
        for origin in ["", " of the task", " of the thread", " of the destructor"]:
            assert any(f"RuntimeError: first line{origin}\nsecond line" in exception for exception in exceptions)
        assert any("Listening at" in event for event in container.events())
        assert "hunter2" not in "".join(container.output())


def test_long_lines_of_many_workers_are_whole_and_short_enough_for_firelens() -> None:
    with (
        serving({"WEB_CONCURRENCY": "4", "DRAIN_SECONDS": "0", "LOG_LIMIT": "15000"}) as container,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = Counter(pool.map(lambda _: container.ask("/contract/shout/40000").status, range(100)))
        assert answers.keys() <= {500, 503}  # a busy machine makes some wait for too long
        container.stop()  # the line of a request comes after its answer
        lines = container.log()  # fails on a line that is torn
        cut = [line for line in lines if "are cut here" in line.get("exception", "")]
        assert len(cut) + sum(line.get("lines_lost", 0) for line in lines) >= answers[500] > 0
        assert max(len(json.dumps(line)) for line in lines) <= 15_000
