"""Migrations: one at a time however many start, without an invalid index, and harmless to what runs."""

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.database.cluster import Client, Server, Service
from tests.support.commands import edit, wait_until


def migration(number: int, body: str) -> str:
    """Return a migration that follows the one before it."""
    return f'''"""Under test"""

import logging

import sqlalchemy as sa
from alembic import op

revision = "{number:04}"
down_revision = "{number - 1:04}"
unsafe = ""


def upgrade() -> None:
{textwrap.indent(body, "    ")}


def downgrade() -> None:
    pass
'''


CONCURRENTLY = """\
with op.get_context().autocommit_block():
    op.create_index("ix_notes_text", "notes", ["text"], postgresql_concurrently=True)
"""
HISTORY = "SELECT string_agg(revision, ',' ORDER BY revision) FROM alembic_history"
EXPAND = 'op.add_column("notes", sa.Column("title", sa.Text()))'


@pytest.fixture
def write(repository: Path, server: Server) -> Iterator[Callable[[int, str], Path]]:
    """Write a migration; it is removed after the test."""
    written: list[Path] = []

    def write(number: int, body: str) -> Path:
        written.append(repository / f"src/my_service/migrations/versions/{number:04}_test.py")
        written[-1].write_text(migration(number, body))
        return written[-1]

    yield write
    for path in written:
        path.unlink(missing_ok=True)
    server.sql("DROP INDEX IF EXISTS ix_notes_text; ALTER TABLE notes DROP COLUMN IF EXISTS title")
    server.sql("UPDATE alembic_version SET version_num = '0001'", "DELETE FROM alembic_history WHERE revision > '0001'")


def test_three_migrations_at_once_are_run_once_while_the_service_writes(
    server: Server, service: Service, write: Callable[[int, str], Path]
) -> None:
    write(2, CONCURRENTLY)
    write(3, EXPAND)
    with Client.working(service, "expand") as client:
        racers = [service.migrate() for _ in range(3)]
        said = [racer.communicate(timeout=60)[0] for racer in racers]
        before = client.statuses.total()
        wait_until(lambda: client.statuses.total() >= before + 100)
    assert [racer.returncode for racer in racers] == [0, 0, 0], said
    assert sum("Running upgrade 0001 -> 0002" in text for text in said) == 1
    assert server.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == "0"
    assert server.sql("SELECT version_num FROM alembic_version") == "0003"
    assert server.sql(HISTORY) == "0001,0002,0003"
    assert client.statuses.keys() == {201}


def test_a_failed_migration_leaves_those_before_it_and_their_history(
    server: Server, service: Service, write: Callable[[int, str], Path]
) -> None:
    write(2, EXPAND)
    write(3, 'op.execute("SELECT 1 / 0")')
    failed = service.migrate()
    said, _ = failed.communicate(timeout=60)
    assert failed.returncode == 1, said
    assert server.sql("SELECT version_num FROM alembic_version") == "0002"
    assert server.sql(HISTORY) == "0001,0002"


@pytest.mark.parametrize("shown", [False, True])
def test_the_values_of_a_failed_migration_are_not_logged(
    server: Server, service: Service, write: Callable[[int, str], Path], shown: bool
) -> None:
    write(
        2,
        """\
notes = sa.table("notes", sa.column("text"))
op.bulk_insert(notes, [{"text": "hunter" + str(number % 2)} for number in range(3)])
try:
    with op.get_bind().begin_nested():
        op.execute(sa.text("SELECT * FROM missing WHERE text = :text").bindparams(text="hunter" + "1"))
except Exception:
    logging.getLogger(__name__).exception("caught")
op.create_index("ix_notes_text", "notes", ["text"], unique=True)
""",
    )
    failed = service.migrate(DATABASE_LOG_SQL=str(shown))
    said, _ = failed.communicate(timeout=60)
    assert failed.returncode == 1
    assert "could not create unique index" in said.splitlines()[-1]
    assert "missing" in said
    assert ("hunter1" in said, "(text)=(hunter0)" in said) == (shown, shown)


def test_the_processors_of_the_service_see_a_failed_migration(
    repository: Path, service: Service, write: Callable[[int, str], Path]
) -> None:
    write(2, 'op.execute("SELECT 1 / 0")')
    env = repository / "src/my_service/migrations/env.py"
    own = env.read_text()
    edit(env, "\nrun()", "\nrun([lambda _logger, _level, event: {**event, 'marked': True}])")
    try:
        said, _ = service.migrate().communicate(timeout=60)
    finally:
        env.write_text(own)
    last = json.loads(said.splitlines()[-1])
    assert (last["event"], last.get("marked")) == ("the migration failed", True)


def test_a_migration_keeps_to_the_limit_of_a_log_line(service: Service, write: Callable[[int, str], Path]) -> None:
    write(2, 'op.execute("SELECT 1 / 0 " + 9000 * "-")')
    said, _ = service.migrate(LOG_LIMIT="4096").communicate(timeout=60)
    assert "division by zero" in said
    assert max(map(len, said.splitlines())) <= 4096


def test_a_migration_gives_up_a_lock_and_says_so(
    server: Server, service: Service, write: Callable[[int, str], Path]
) -> None:
    write(2, 'op.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")')
    holder = server.hold("BEGIN; LOCK TABLE notes; SELECT pg_sleep(30)")
    try:
        blocked = service.migrate()
        said, _ = blocked.communicate(timeout=60)
    finally:
        holder.kill()
        holder.wait()
    assert blocked.returncode == 1
    assert "canceling statement due to lock timeout" in said.splitlines()[-1]
    assert server.sql("SELECT version_num FROM alembic_version") == "0001"
