"""Whatever happens to the database: no answer is 500, no confirmed write is lost, the service recovers by itself."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.database.cluster import Client, Server, Service
from tests.support.commands import wait_until
from tests.support.gunicorn import STOP_TIMEOUT

# Short enough for every day; by hand: DATABASE_KILLS=10 DATABASE_WRITES=10000 DATABASE_FROZEN=20 DATABASE_POOLER=yes.
KILLS = int(os.environ.get("DATABASE_KILLS", "2"))
WRITES = int(os.environ.get("DATABASE_WRITES", "500"))
FROZEN = int(os.environ.get("DATABASE_FROZEN", "8"))
GOOD = {201, 503}  # saved, or the database is away


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line that is seen when the test passes, too."""

    def tell(line: str) -> None:
        with capsys.disabled():
            print(f"\ndatabase: {line}")

    return tell


def test_no_confirmed_write_is_lost(server: Server, service: Service, tell: Callable[[str], None]) -> None:
    def kill_the_database() -> None:
        server.kill()
        server.start()

    def kill_the_service() -> None:
        service.kill()
        service.start()

    with Client.working(service, "ledger") as client, Client.working(service, "visit", 1, "/visits") as visits:
        for number in range(1, 2 * KILLS + 1):
            goal = number * WRITES // (2 * KILLS + 1)
            wait_until(lambda goal=goal: len(client.confirmed) >= goal, 120)  # type: ignore[misc]
            with suppress(ValueError):  # a stream that breaks off
                service.ask("/export")
            (kill_the_database if number % 2 else kill_the_service)()
        wait_until(lambda: len(client.confirmed) >= WRITES, 300)
    assert client.statuses.keys() <= GOOD | {0}  # 0: the service has been killed
    assert client.statuses[503]
    assert visits.statuses.keys() <= {202, 0}  # answered before the background task
    assert client.lost(server) == set()
    kills = f"{KILLS} kills of the database and {KILLS} of the service"
    tell(f"{len(client.confirmed)} confirmed writes across {kills}, 0 lost; answers: {dict(client.statuses)}")


@contextmanager
def killed(server: Server, service: Service) -> Iterator[None]:
    """Be away for 3 seconds."""
    server.kill()
    try:
        time.sleep(3)
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: Server, service: Service) -> Iterator[None]:
    """Answer nothing, while the kernel still acknowledges packets."""
    server.freeze()
    try:
        time.sleep(FROZEN)
        yield
    finally:
        server.thaw()


@contextmanager
def full(server: Server, service: Service) -> Iterator[None]:
    """Refuse connections, as all are taken."""
    server.sql("ALTER ROLE service CONNECTION LIMIT 0")
    try:
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service'")
        yield
    finally:
        server.sql("ALTER ROLE service CONNECTION LIMIT -1")


@contextmanager
def read_only(server: Server, service: Service) -> Iterator[None]:
    """Be the old primary of a failover: open connections stay, and nothing can be written."""
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    server.sql("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.sql("SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only")
        server.sql("SELECT pg_reload_conf()")


@contextmanager
def moved(server: Server, service: Service) -> Iterator[None]:
    """Have another address, where the old one drops packets."""
    if "DATABASE_POOLER" in os.environ:
        pytest.skip("PgBouncer has one address")
    if os.geteuid() or not shutil.which("iptables"):
        pytest.skip("packets are dropped by iptables, as root")
    old, new = ("127.0.0.1", "127.0.0.2") if service.address.read_text() == "127.0.0.1" else ("127.0.0.2", "127.0.0.1")
    ports = (("--dport", "-d"), ("--sport", "-s"))
    rules = [("INPUT", "-p", "tcp", port, str(server.port), where, old, "-j", "DROP") for port, where in ports]
    with ExitStack() as undo:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-I", *rule], check=True)
            undo.callback(subprocess.run, ["iptables", "-w", "-D", *rule], check=True)
        time.sleep(1)
        service.address.write_text(new)
        yield
        wait_until(service.is_back, 30)


@pytest.mark.parametrize("outage", [killed, frozen, full, read_only, moved])
def test_an_outage_is_answered_with_503_until_it_ends(
    server: Server,
    service: Service,
    outage: Callable[[Server, Service], AbstractContextManager[None]],
    tell: Callable[[str], None],
) -> None:
    name = outage.__name__
    wait_until(service.is_back, 30)
    with Client.working(service, name) as client:
        wait_until(lambda: client.statuses[201] >= 20)
        with outage(server, service):
            assert service.ask("/health")[0] == 200
            wait_until(lambda: client.statuses[503] > 0 or name == "moved")
        ended = time.monotonic()
        wait_until(service.is_back, 30)
        back = time.monotonic() - ended
    assert client.statuses.keys() <= GOOD
    assert client.lost(server) == set()
    slowest = f"the slowest {client.slowest:.1f} s"
    tell(f"{name}: answers {dict(client.statuses)}, {slowest}, back {back:.1f} s after the end")


def test_requests_wait_for_a_connection_and_not_for_long(
    server: Server, service: Service, tell: Callable[[str], None]
) -> None:
    def ask(seconds: float) -> Callable[[int], int]:
        return lambda _: service.ask(f"/sleep?seconds={seconds}")[0]

    with ThreadPoolExecutor(24) as clients:
        waited = list(clients.map(ask(1), range(6)))
        refused = list(clients.map(ask(4), range(24)))
    assert set(waited) == {200}
    assert set(refused) == {200, 503}
    tell(f"exhausted pool: {refused.count(200)} times 200, {refused.count(503)} times 503")


def test_connections_stay_within_the_computed_number_also_while_a_deployment_rolls(
    server: Server, service: Service, tmp_path: Path
) -> None:
    # In `moved` the server hears nothing of the end of its connections, as the packets are dropped.
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service'")
    connected = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'service'"
    one_task = 2 * 3  # WEB_CONCURRENCY and DATABASE_POOL_SIZE

    def most(client: Client) -> int:
        wait_until(lambda: client.statuses[201] > 0)
        return max(int(server.sql(connected)) for _ in range(50))

    new = Service(service.repository, tmp_path, server.port)
    with Client.working(service, "old", threads=16) as client:
        assert 2 <= most(client) <= one_task
        new.start()
        try:
            with Client.working(new, "new", threads=16) as client_of_new:
                assert most(client_of_new) <= 2 * one_task
        finally:
            new.stop()
    assert {*client.statuses, *client_of_new.statuses} <= GOOD


@pytest.mark.skipif("DATABASE_POOLER" in os.environ, reason="PgBouncer shares connections")
def test_workers_share_no_connection(service: Service) -> None:
    seen: dict[int, set[int]] = {}
    for _ in range(100):
        _, (worker, connection) = service.ask("/pids")
        seen.setdefault(worker, set()).add(connection)
    first, second = seen.values()
    assert not first & second


def test_a_service_stops_in_time_while_the_database_is_frozen(
    server: Server, service: Service, tell: Callable[[str], None]
) -> None:
    with ThreadPoolExecutor(1) as clients:
        busy = clients.submit(service.ask, "/sleep?seconds=2")
        time.sleep(1)
        server.freeze()
        try:
            took = service.stop()
            assert took < STOP_TIMEOUT
            assert busy.result()[0] == 503
        finally:
            server.thaw()
            service.start()
    assert '"event":"stopped"' in service.log_file.read_text().replace(" ", "")
    tell(f"SIGTERM while frozen: stopped after {took:.1f} s")
