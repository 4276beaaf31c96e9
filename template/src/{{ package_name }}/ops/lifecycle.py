"""Start and stop: say why a start fails, serve on while the load balancer turns away. Kept by the template."""

import asyncio
import mmap
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any

import structlog
from fastapi import FastAPI

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]

# Shared with the Gunicorn master, which imports this module before it forks: the master has the last word in the log.
_failure = mmap.mmap(-1, 1024)


def startup_failure() -> str:
    """Return why a worker of this process could not start; empty when none failed."""
    return _failure[:].rstrip(b"\0").decode(errors="replace")


def with_drain(lifespan: Lifespan | None, drain_seconds: int) -> Lifespan:
    """Return a lifespan that runs `lifespan` and, on SIGTERM, goes on serving for `drain_seconds` before the stop.

    Meanwhile `app.state.draining` is true: the health endpoint answers 503 and each response closes its connection.
    """
    log = structlog.get_logger()

    @asynccontextmanager
    async def wrapped(app: FastAPI) -> AsyncIterator[Any]:
        _drain_on_sigterm(app, drain_seconds)
        async with AsyncExitStack() as stack:
            state = None
            if lifespan:
                try:
                    state = await stack.enter_async_context(lifespan(app))
                except Exception as error:
                    reason = f"{type(error).__name__}: {error}".encode()[: len(_failure)]
                    _failure[: len(reason)] = reason
                    raise
            log.info("started")
            yield state
        log.info("stopped")

    return wrapped


def _drain_on_sigterm(app: FastAPI, drain_seconds: int) -> None:
    """Put the drain before the server's own SIGTERM handler, where there is one."""
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):  # a test client: no server, nothing to drain
        return

    def drain(signum: int, frame: FrameType | None) -> None:
        if not app.state.draining:
            app.state.draining = True
            loop.call_soon_threadsafe(loop.call_later, drain_seconds, stop, signum, frame)

    signal.signal(signal.SIGTERM, drain)
