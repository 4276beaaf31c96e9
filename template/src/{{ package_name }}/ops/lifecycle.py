"""Start and stop: say why a start fails, and serve until the load balancer stops sending. Kept by the template."""

import asyncio
import mmap
import multiprocessing
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from time import monotonic
from types import FrameType
from typing import Any, cast

import structlog
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from .settings import ORDER, OpsSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]

# Shared with the Gunicorn master and all workers, as this module is imported before the master forks. The first byte
# says that a worker has started, the others say why one could not.
_shared = mmap.mmap(-1, 1024)
applications: set[FastAPI] = set()  # of this process, whose lifespan has begun
_once = multiprocessing.get_context("fork").Lock()  # one process takes it, and keeps it


def has_started() -> bool:
    """Say whether any worker has started since the master did."""
    return _shared[0] == 1


def ends_the_service() -> bool:
    """Say whether this worker, which cannot start, ends the service: if none has started, and no other has said so.

    A second one would raise an exception in the Gunicorn master while it stops, and the reason would not be logged.
    """
    return not has_started() and _once.acquire(block=False)


def startup_failure() -> str:
    """Return why the service could not start; empty if a worker has started, or none has failed."""
    return "" if has_started() else _shared[1:].rstrip(b"\0").decode(errors="replace")


def is_served() -> bool:
    """Say whether a server waits for SIGTERM. A test client has none, and runs outside of the main thread."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and callable(signal.getsignal(signal.SIGTERM))


def serve(app: FastAPI) -> None:
    """Say that nothing stops the application; the event is new, as each test client has an event loop of its own."""
    app.state.draining = False
    app.state.stopping = asyncio.Event()  # is set when draining begins, and before a worker is recycled


def with_drain(lifespan: Lifespan | None, settings: OpsSettings) -> Lifespan:
    """Return a lifespan that runs `lifespan` and, on SIGTERM, goes on serving for the time of a drain before the stop.

    Meanwhile `app.state.draining` is true and `app.state.stopping` set, so that a stream can end itself; the health
    endpoint answers 503 and each response closes its connection. A start is cancelled.
    """
    log = structlog.get_logger()

    @asynccontextmanager
    async def wrapped(app: FastAPI) -> AsyncIterator[Any]:
        current_default_thread_limiter().total_tokens = settings.threads
        applications.add(app)
        serve(app)
        loop = asyncio.get_running_loop()
        task = cast(asyncio.Task[Any], asyncio.current_task())
        stop: Any = signal.getsignal(signal.SIGTERM)
        started = serving = ended = False

        def watch() -> None:  # in a thread: the event loop may be blocked
            timer = threading.Timer(settings.graceful_timeout - ORDER, say)
            timer.daemon = True
            timer.start()

        def say() -> None:
            waits_for = "requests" if serving else "the lifespan" if started else "the start of the lifespan"
            if not ended:
                log.critical("the stop hangs and is killed", waits_for=waits_for)

        def drain(signum: int, frame: FrameType | None) -> None:
            if not app.state.draining:
                app.state.draining = True
                app.state.drain_began = monotonic()
                watch()
                loop.call_soon_threadsafe(begin_stop, signum, frame)

        def begin_stop(signum: int, frame: FrameType | None) -> None:
            app.state.stopping.set()
            if not started:
                task.cancel()
            loop.call_later(app.state.drain_began + settings.drain_seconds - monotonic(), stop, signum, frame)

        served = is_served()
        if served:
            signal.signal(signal.SIGTERM, drain)
        try:
            async with lifespan(app) if lifespan else nullcontext() as state:
                _shared[0] = 1
                log.info("started")
                started = serving = True
                yield state
                serving = False
                if served and not app.state.draining:  # this worker is recycled
                    watch()
            ended = True
        except BaseException as error:  # such as that of a task group whose task has failed, or has called sys.exit()
            if app.state.draining and not started:
                log.info("stopped during the start", exc_info=error)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)  # as a worker that has started ends
            if not has_started():
                # All of the memory, so that nothing is left of another worker's reason.
                room = len(_shared) - 1
                reason = f"{type(error).__name__}: {error}".encode(errors="replace")
                _shared[1:] = reason[:room].ljust(room, b"\0")
            if not (serving and served) or app.state.draining:
                raise
            replace_worker("the lifespan has ended", error)
        log.info("stopped")

    return wrapped


def replace_worker(reason: str, failure: BaseException | None) -> None:
    """Begin the drain of a worker that looks healthy and has lost what it needs: Gunicorn starts another."""
    structlog.get_logger().critical(f"{reason}, and the worker is replaced", exc_info=failure)
    if is_served():
        signal.raise_signal(signal.SIGTERM)
