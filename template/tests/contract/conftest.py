"""What the contract tests share. Kept by the template."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from .container import IMAGE, ask, serving, started

IDLE = 65  # seconds: above the load balancer's idle timeout of 60 s
FACTS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make a place for the lines of the summary."""
    config.stash[FACTS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the measured figures."""
    for fact in config.stash[FACTS]:
        terminalreporter.write_line(f"contract: {fact}")


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Add a line to the summary."""
    return pytestconfig.stash[FACTS].append


@pytest.fixture(scope="session", autouse=True)
def it_starts() -> None:
    """End at once if the service does not start: each test would only wait for it."""
    with started(IMAGE) as container:
        try:
            container.wait_until_serving()
        except AssertionError as error:
            end = "".join(container.output()).splitlines()[-20:]
            reason = f"The service does not start: {error}. The end of its log:"
            place = "Give it what it needs as the service `api` in compose.override.yaml: `environment`, `depends_on`."
            pytest.exit("\n".join([reason, *end, place]), returncode=1)


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
