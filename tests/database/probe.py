"""The service under test: the example's routes, slow ones, and a host name whose address the test chooses."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks
from fastapi.responses import StreamingResponse
from my_service.main import app
from my_service.models import Note
from my_service.ops.database import Connection, Session
from my_service.routers import export
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

app.include_router(export.router)  # the example of docs/database.md

connect = Connection.connect


async def connect_to_address(**arguments: Any) -> Any:
    """Look the host name up in the file ADDRESS, which is a DNS that changes in a failover."""
    address = Path(os.environ["ADDRESS"]).read_text().strip()
    return await connect(**arguments, hostaddr=address)


setattr(Connection, "connect", staticmethod(connect_to_address))  # noqa: B010


@app.get("/sleep")
async def sleep(session: Session, seconds: float) -> int:
    """Keep a connection busy; answers the process id of the server's end of it."""
    row = await session.execute(text("SELECT pg_backend_pid(), pg_sleep(:seconds)"), {"seconds": seconds})
    return int(row.one()[0])


@app.get("/pids")
async def pids(session: Session) -> tuple[int, int]:
    """Answer this worker's process id, and that of the server's end of its connection."""
    return os.getpid(), int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())


@app.get("/limits")
async def limits(session: Session) -> list[str]:
    """Answer the settings of the transaction."""
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "timezone")
    return [str(await session.scalar(text(f"SELECT current_setting('{name}')"))) for name in names]


@app.get("/late-stream")
async def late_stream(session: Session) -> StreamingResponse:
    """Stream with the session of the route, which has ended by then: a mistake."""

    async def numbers() -> AsyncIterator[str]:
        for number in await session.scalars(text("SELECT 1")):
            yield str(number)

    return StreamingResponse(numbers())


@app.get("/opened-stream")
async def opened_stream(session: Session) -> StreamingResponse:
    """Begin to read in the route, and go on when its session has ended: a mistake."""
    found = await session.stream_scalars(text("SELECT 1"))

    async def numbers() -> AsyncIterator[str]:
        async for number in found:
            yield str(number)

    return StreamingResponse(numbers())


@app.get("/late-write")
async def late_write(session: Session, tasks: BackgroundTasks) -> str:
    """Write in the background with the session of the route, which has ended by then: a mistake."""

    async def write(session: AsyncSession) -> None:
        session.add(Note(text="late"))
        await session.flush()

    tasks.add_task(write, session)
    return "ok"
