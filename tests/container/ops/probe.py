"""The contract's probe with the routes that these tests need; it takes the place of the rendered one."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, FastAPI, Request, UploadFile, WebSocket
from my_service.main import app
from my_service.ops.app import create_app
from my_service.settings import get_settings

FAILURE = os.environ.get("CONTRACT_FAILURE")
AWAY = Path("/tmp/away")
routes = APIRouter(prefix="/contract")


@routes.get("/sleep/{seconds}")
async def sleep(seconds: float) -> None:
    """Wait, as for a database."""
    await asyncio.sleep(seconds)


@routes.get("/busy/{seconds}")
def busy(seconds: float) -> None:
    """Keep a thread busy."""
    time.sleep(seconds)


@routes.get("/block/{seconds}")
async def block(seconds: float) -> None:
    """Keep the event loop from all else: a mistake."""
    time.sleep(seconds)


@routes.get("/hoard")
async def hoard() -> None:
    """Take more memory than there is."""
    hoarded = []
    while True:
        hoarded.append(b"\1" * 2**24)


@routes.get("/pid")
async def pid() -> int:
    """Tell which worker answers."""
    return os.getpid()


@routes.get("/kill")
async def kill() -> None:
    """Kill the worker that answers."""
    os.kill(os.getpid(), signal.SIGKILL)


@routes.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Send back what comes."""
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())


@routes.get("/shout/{size}")
async def shout(size: int) -> None:
    """Fail with a long message."""
    raise RuntimeError("x" * size)


@routes.post("/login")
async def login(password: Annotated[str, Body(embed=True)]) -> str:
    """Take JSON."""
    return password


@routes.post("/down")
def down() -> None:
    """Take away the dependency of the lifespan."""
    AWAY.touch()


@routes.post("/back")
def back() -> None:
    """Let it be there again."""
    AWAY.unlink()


@routes.get("/client")
async def client(request: Request) -> str | None:
    """Tell who asks."""
    return request.client.host if request.client else None


@routes.post("/upload")
async def upload(file: UploadFile) -> str:
    """Return the SHA-256 of a file."""
    return sha256(await file.read()).hexdigest()


@routes.get("/fail")
async def fail() -> None:
    """Fail wherever code can: in a task, in a thread, in a destructor and in the handler."""

    class Unclean:
        def __del__(self) -> None:
            raise RuntimeError("first line of the destructor\nsecond line")

    async def fail_in_task() -> None:
        raise RuntimeError("first line of the task\nsecond line")

    def fail_in_thread() -> None:
        raise RuntimeError("first line of the thread\nsecond line")

    await asyncio.wait([asyncio.create_task(fail_in_task())])
    thread = threading.Thread(target=fail_in_thread)
    thread.start()
    thread.join()
    Unclean()
    raise RuntimeError("first line\nsecond line")


def is_away() -> bool:
    """Say whether the dependency of the lifespan is away."""
    return AWAY.exists()


@asynccontextmanager
async def failing_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Fail as when a database does not answer: from the start, or while it is away."""
    if FAILURE == "lifespan" or is_away():
        raise ConnectionError("no database")
    yield


if FAILURE:
    app = create_app(get_settings(), failing_lifespan)

# First, because the service may have a route for any path.
app.router.routes = [*routes.routes, *app.router.routes]
