"""The worker under test: jobs that leave a trace in the database, and one outside of it."""

import asyncio
import os
import sys
from pathlib import Path

from my_service.models import Job, Note
from my_service.ops import jobs
from my_service.settings import get_settings
from sqlalchemy.ext.asyncio import AsyncSession

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


async def nightly(session: AsyncSession) -> None:
    """Save a note, as a schedule does."""
    session.add(Note(text="nightly"))


JOBS: dict[str, jobs.Job] = {"ledger": ledger, "fail": fail, "nightly": nightly}

if __name__ == "__main__":
    JOBS.pop(os.environ.get("UNKNOWN", ""), None)
    sys.exit(jobs.main(get_settings(), JOBS, Job))
