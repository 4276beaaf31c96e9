"""The tests of a service reach nothing of the developer's, whatever they start, and leave nothing behind."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database.cluster import Server
from tests.support.commands import wait_until

LEFT = "SELECT string_agg(datname, ',') FROM pg_database WHERE datname LIKE 'test%'"
TESTS = '''\
"""Under test"""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from my_service.ops.database import open_sessions
from my_service.ops.settings import OpsSettings
from my_service.settings import get_settings
from sqlalchemy import text


async def work() -> None:
    async with open_sessions(get_settings()) as sessions, sessions.begin() as session:
        await session.execute(text("INSERT INTO notes (text) VALUES ('by a test')"))


def test_a_worker_imported_by_name() -> None:
    asyncio.run(work())


def test_sessions_side_by_side(own_database: OpsSettings) -> None:
    async def count() -> int | None:
        async with open_sessions(get_settings()) as sessions, sessions.begin() as one, sessions.begin() as two:
            await asyncio.gather(*(each.execute(text("SELECT pg_sleep(0.1)")) for each in (one, two)))
            return await one.scalar(text("SELECT count(*) FROM notes"))

    asyncio.run(work())
    assert asyncio.run(count()) == 1


def test_a_process(own_database: OpsSettings) -> None:
    subprocess.run([sys.executable, "-c", Path(__file__).read_text() + "\\nasyncio.run(work())"], check=True)


@pytest.mark.skipif("PAUSE" not in __import__("os").environ, reason="only for the run that is killed")
def test_a_run_that_is_killed() -> None:
    import os
    import time

    Path(os.environ["PAUSE"]).touch()
    time.sleep(600)
'''


@pytest.fixture
def tests(repository: Path) -> Iterator[Path]:
    """The tests of the service and ours."""
    path = repository / "tests/test_ours.py"
    path.write_text(TESTS)
    yield path
    path.unlink()


def start(repository: Path, tests: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the service's own tests as `make test` does."""
    path = f"{repository}/.venv/bin:/usr/bin:/bin"
    return subprocess.Popen(
        (".venv/bin/python", "-m", "pytest", "--no-cov", "--quiet", str(tests), "tests/test_notes.py"),
        cwd=repository,
        env={"PATH": path, "PYTHONPATH": "src", "TMPDIR": os.environ.get("TMPDIR", "/tmp"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_in_the_middle(run: subprocess.Popen[str], pause: Path) -> None:
    wait_until(pause.exists, 120)
    run.kill()
    run.communicate()


def test_a_server_of_the_developers_keeps_its_data_and_nothing_else(
    repository: Path, server: Server, tests: Path, tmp_path: Path
) -> None:
    server.sql("CREATE TABLE notes (text text)", "GRANT ALL ON notes TO PUBLIC")
    developers = {"DATABASE_HOST": "127.0.0.1", "DATABASE_PORT": str(server.port), "DATABASE_USER": "postgres"}
    developers |= {"DATABASE_TLS": "false", "DATABASE_NAME": "service"}
    pause = tmp_path / "pause"
    kill_in_the_middle(start(repository, tests, PAUSE=str(pause), **developers), pause)
    assert server.sql(LEFT).startswith("test_")
    other = start(repository, tests, PAUSE=str(tmp_path / "other"), **developers)
    try:
        wait_until((tmp_path / "other").exists, 120)
        (name,) = server.sql(LEFT).split(",")  # that of the killed run is gone
        tested = start(repository, tests, **developers | {"DATABASE_NAME": "postgres"})  # those of another service
        said, _ = tested.communicate(timeout=120)
        assert tested.returncode == 0, said
        assert server.sql(LEFT) == name  # that of a run which goes on is not
    finally:
        other.send_signal(signal.SIGINT)
        other.communicate(timeout=60)
    assert server.sql(LEFT) == ""
    assert server.sql("SELECT count(*) FROM notes") == "0"
    server.sql("DROP TABLE notes")


def test_a_server_that_was_started_for_the_tests_ends_with_them_however_they_end(
    repository: Path, tests: Path, tmp_path: Path
) -> None:
    pause = tmp_path / "pause"
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # PostgreSQL is another user
    kill_in_the_middle(start(repository, tests, PAUSE=str(pause), TMPDIR=str(folder)), pause)
    wait_until(lambda: not any(folder.iterdir()), 30)
    tested = start(repository, tests, TMPDIR=str(folder))
    said, _ = tested.communicate(timeout=120)
    assert tested.returncode == 0, said
    assert not any(folder.iterdir())
    folder.rmdir()
