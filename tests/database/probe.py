"""The service under test: the example's routes, slow ones, and a host name whose address the test chooses."""

import os
from pathlib import Path
from typing import Any

from my_service.main import app
from my_service.ops.database import Connection, Session
from sqlalchemy import text

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
