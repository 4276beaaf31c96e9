"""Through PgBouncer in transaction mode, as through RDS Proxy: the service, the migrations, and their lock."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.database.cluster import Client, Server, Service
from tests.database.pooler import Pooler, pooling
from tests.database.test_migrations import CONCURRENTLY, EXPAND, HISTORY, write
from tests.support.commands import wait_until

__all__ = ["write"]  # a fixture
IN_USE = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'service' AND state <> 'idle'"


@pytest.fixture(scope="module")
def pooler(server: Server) -> Iterator[Pooler]:
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder, pooling(server, Path(folder)) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def database_port(pooler: Pooler) -> int:
    """The service knows the pooler alone."""
    return pooler.port


def test_a_statement_has_its_limit_and_no_setting_reaches_who_comes_next(
    server: Server, service: Service, pooler: Pooler
) -> None:
    settings = (
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('timezone')"
    )
    through = ("-h", "127.0.0.1", "-p", str(pooler.port), "-U", "service", "-d", "service", "-Atqc", settings)

    def seen() -> str:
        return subprocess.run((server.programs / "psql", *through), capture_output=True, text=True, check=True).stdout

    before = seen()
    assert service.ask("/limits") == (200, ["5s", "1min", "UTC"])
    assert service.ask("/sleep?seconds=8")[0] == 503
    assert "canceling statement due to statement timeout" in (server.folder / "log").read_text()
    said, _ = (migration := service.migrate()).communicate(timeout=60)
    assert migration.returncode == 0, said
    assert all(service.ask("/pids")[0] == 200 for _ in range(20))
    assert {seen() for _ in range(20)} == {before}


def test_streams_background_tasks_and_writes_lose_nothing_while_the_pooler_and_the_server_are_killed(
    server: Server, service: Service, pooler: Pooler
) -> None:
    def kill_the_server() -> None:
        server.kill()
        server.start()

    def kill_the_pooler() -> None:
        pooler.kill()
        pooler.start()

    with Client.working(service, "pooled") as client, Client.working(service, "late", 1, "/visits") as late:
        for kill in (kill_the_server, kill_the_pooler):
            before = len(client.confirmed)
            wait_until(lambda before=before: len(client.confirmed) >= before + 50, 60)  # type: ignore[misc]
            with suppress(ValueError):  # a stream may break off
                service.ask("/export")
            kill()
        before = len(client.confirmed)
        wait_until(lambda: len(client.confirmed) >= before + 50, 60)
    assert client.statuses.keys() <= {201, 503}
    assert client.lost(server) == set()
    assert late.statuses.keys() == {202}
    wait_until(lambda: server.sql(IN_USE) == "0")
    assert service.is_back()


def test_three_migrations_at_once_are_run_once(
    server: Server, service: Service, write: Callable[[int, str], Path]
) -> None:
    write(2, CONCURRENTLY)
    write(3, EXPAND)
    with Client.working(service, "racers") as client:
        racers = [service.migrate() for _ in range(3)]
        said = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], said
    assert sum("Running upgrade 0001 -> 0002" in text for text in said) == 1
    assert server.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == "0"
    assert server.sql(HISTORY) == "0001,0002,0003"
    assert client.statuses.keys() == {201}


def test_the_lock_of_a_killed_migration_ends_with_it(
    server: Server, service: Service, write: Callable[[int, str], Path]
) -> None:
    path = write(2, 'op.execute("SELECT pg_sleep(60)")')
    killed = service.migrate()
    wait_until(lambda: server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1")
    killed.kill()
    killed.communicate()
    path.unlink()
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    said, _ = (migration := service.migrate()).communicate(timeout=60)
    assert migration.returncode == 0, said


def test_who_waits_for_another_migration_says_so_and_not_for_ever(server: Server, service: Service) -> None:
    holder = server.hold("BEGIN; SELECT pg_advisory_xact_lock(5432001); SELECT pg_sleep(60)")
    impatient = "from my_service.ops import migrate; migrate.LOCK_SECONDS = 2; raise SystemExit(migrate.main([]))"
    started = time.monotonic()
    try:
        (waiting := service.python("-c", impatient)).wait(60)
    finally:
        holder.kill()
        holder.wait()
    assert time.monotonic() - started >= 2
    assert waiting.returncode == 1
    assert waiting.stdout
    lines = [json.loads(line) for line in waiting.stdout]
    assert [line["event"] for line in lines] == ["waiting for another migration", "the migration failed"]
    assert lines[-1]["reason"].startswith("Another migration has run for 2 s and still does.")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 5432001")
    said, _ = (migration := service.migrate()).communicate(timeout=60)
    assert migration.returncode == 0, said
