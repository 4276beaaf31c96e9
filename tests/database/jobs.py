"""The worker under test: jobs that leave a trace in the database, and one outside of it."""

import asyncio
import os
import sys
from pathlib import Path

from my_service.models import Job, Note
from my_service.ops import jobs
from my_service.settings import get_settings
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.typing import EventDict

BEGUN = Path(os.environ["BEGUN"])


async def ledger(session: AsyncSession, number: int, seconds: float = 0) -> None:
    """Save a number, and note in a file that this was begun."""
    with BEGUN.open("a") as begun:
        begun.write(f"{number}\n")
    session.add(Note(text=f"job {number}"))
    await session.flush()
    await asyncio.sleep(seconds)


async def fail(session: AsyncSession) -> None:
    """Save a note and fail."""
    session.add(Note(text="failed"))
    await session.flush()
    raise RuntimeError("no")


async def cancelled(session: AsyncSession) -> None:
    """Await what somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def elsewhere() -> bool:
    """Do the job of a queue that is no table, and fail as it does."""
    await cancelled(AsyncSession())
    return True


async def nightly(session: AsyncSession) -> None:
    """Save a note, as a schedule does."""
    session.add(Note(text="nightly"))


async def slow(session: AsyncSession) -> None:
    """Take longer than a statement may in a route."""
    await session.execute(text("SELECT pg_sleep(6)"))


async def many(session: AsyncSession) -> None:
    """Save many notes by the first statement of the transaction, and then its limit."""
    await session.execute(insert(Note), [{"text": "1"}, {"text": "2"}])
    session.add(Note(text=await session.scalar(text("SELECT current_setting('statement_timeout')"))))


async def parts(session: AsyncSession) -> None:
    """Commit in the middle."""
    session.add(Note(text="part 1"))
    await session.commit()
    session.add(Note(text="part 2"))


EVERY = (ledger, fail, cancelled, nightly, slow, many, parts)
JOBS: dict[str, jobs.Job] = {job.__name__: job for job in EVERY}


def mark(_logger: object, _level: str, event: EventDict) -> EventDict:
    """Show that a processor of the service has seen an event."""
    return {**event, "marked": True}


if __name__ == "__main__":
    JOBS.pop(os.environ.get("UNKNOWN", ""), None)
    sys.exit(jobs.main(get_settings(), JOBS, elsewhere if "ELSEWHERE" in os.environ else Job, [mark]))
