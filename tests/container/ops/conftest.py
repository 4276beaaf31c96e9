"""An idle connection, on which a request comes when the other tests have run."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from ..container import ask, serving

IDLE = 65  # seconds: above the load balancer's idle timeout of 60 s


@pytest.fixture(scope="session", autouse=True)
def late_answer(it_starts: None) -> Iterator[Future[int]]:
    """The status of an answer on a connection that was idle before; the other tests run meanwhile."""
    ended = Event()

    def ask_late() -> int:
        with serving() as container:
            connection = container.connect()
            ask(connection, "/contract/pid")
            open_socket = connection.sock
            ended.wait(IDLE)
            response = ask(connection, "/contract/pid")
            assert connection.sock is open_socket
            connection.close()
            return response.status

    with ThreadPoolExecutor() as pool:
        yield pool.submit(ask_late)
        ended.set()
