"""Start and stop; the drain of a real process is tested on the running image, in tests/container."""

import asyncio
import mmap
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from my_service.ops import lifecycle
from my_service.ops.app import create_app
from my_service.ops.lifecycle import startup_failure, with_drain
from my_service.ops.settings import OpsSettings


@pytest.fixture
def sigterm_handler() -> Iterator[None]:
    """Put the handler of SIGTERM back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_services_own_lifespan_runs() -> None:
    events = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("stop")

    with TestClient(create_app(OpsSettings(environment="test"), lifespan)):
        assert events == ["start"]
    assert events == ["start", "stop"]


def start(reason: str = "") -> None:
    """Start and stop an application, whose start fails if there is a reason."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if reason:
            raise ConnectionError(reason)
        yield

    with TestClient(create_app(OpsSettings(environment="test"), lifespan)):
        pass


def test_the_reason_of_the_last_failed_start_is_kept_until_one_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_shared", mmap.mmap(-1, 64))
    for reason in ("no database at this address", "no database"):
        with pytest.raises(ConnectionError):
            start(reason)
        assert startup_failure() == f"ConnectionError: {reason}"
    start()
    assert lifecycle.has_started()
    assert startup_failure() == ""


def test_each_test_client_has_a_stop_of_its_own(service: FastAPI) -> None:
    @service.get("/wait")
    async def wait() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(service.state.stopping.wait(), 0.01)

    for _ in range(2):
        with TestClient(service) as client:
            assert not service.state.draining
            assert client.get("/wait").status_code == 200
            service.state.draining = True


@pytest.mark.usefixtures("sigterm_handler")
def test_a_test_client_leaves_the_processs_own_handler_of_sigterm_alone(service: FastAPI) -> None:
    @service.get("/replace")
    async def replace() -> None:
        lifecycle.replace_worker("what it needs is lost", None)

    heard = []
    signal.signal(signal.SIGTERM, lambda *arguments: heard.append(arguments))
    with TestClient(service) as client:
        assert client.get("/replace").status_code == 200
    assert heard == []


@pytest.mark.usefixtures("sigterm_handler")
def test_sigterm_drains_first_and_then_stops() -> None:
    stopped = asyncio.Event()
    app = FastAPI()

    async def run() -> None:
        signal.signal(signal.SIGTERM, lambda _signum, _frame: stopped.set())
        async with with_drain(None, OpsSettings(environment="test", drain_seconds=0))(app):
            signal.raise_signal(signal.SIGTERM)
            assert app.state.draining
            assert not stopped.is_set()
            await asyncio.wait_for(app.state.stopping.wait(), timeout=5)
            await asyncio.wait_for(stopped.wait(), timeout=5)

    asyncio.run(run())
