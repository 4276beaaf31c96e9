"""What runs after its route: it keeps no connection of the pool, and none of its mistakes is silent."""

import socket
import time
import urllib.request
from contextlib import ExitStack

import pytest

from tests.database.cluster import Server, Service
from tests.support.commands import wait_until

MORE_THAN_ALL_CONNECTIONS = 3 * 2 * 3  # of DATABASE_POOL_SIZE and WEB_CONCURRENCY


def failures(service: Service, path: str) -> list[str]:
    """Return the exceptions that are logged of requests to a path."""
    lines = (event for event in service.events() if event.get("path") == path and event["level"] == "error")
    return [event["exception"] for event in lines]


@pytest.mark.parametrize("path", ["/late-stream", "/opened-stream", "/late-write"])
def test_a_session_that_is_used_after_its_route_gives_its_connection_back_and_fails_in_the_log(
    server: Server, service: Service, path: str
) -> None:
    for _ in range(MORE_THAN_ALL_CONNECTIONS):
        service.ask(path)
    assert service.is_back()
    in_use = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'service' AND state <> 'idle'"
    wait_until(lambda: server.sql(in_use) == "0")
    assert server.sql("SELECT count(*) FROM notes WHERE text = 'late'") == "0"
    found = failures(service, path)
    assert len(found) == MORE_THAN_ALL_CONNECTIONS
    advice = "take `sessions: Sessions` in the route"
    assert path == "/opened-stream" or all(advice in failure for failure in found)


def test_the_documented_stream_and_background_task_work_and_a_slow_client_keeps_no_connection(
    server: Server, service: Service
) -> None:
    server.sql("INSERT INTO notes (text) SELECT repeat('x', 1000) FROM generate_series(1, 10000)")

    def stuck() -> bool:
        newest = "SELECT max(query_start) FROM pg_stat_activity WHERE usename = 'service'"
        before = server.sql(newest)
        time.sleep(0.5)
        return server.sql(newest) == before

    with ExitStack() as clients:
        for _ in range(MORE_THAN_ALL_CONNECTIONS):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel would take all of it
            client.connect(("127.0.0.1", service.port))
            client.sendall(b"GET /export HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(stuck)
        assert service.is_back()
    assert service.is_back()
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/export") as response:
        assert response.read().count(b"\n") == int(server.sql("SELECT count(*) FROM notes"))

    for _ in range(MORE_THAN_ALL_CONNECTIONS):
        assert service.ask("/visits", {})[0] == 202
    saved = "SELECT count(*) FROM notes WHERE text = 'a visit'"
    wait_until(lambda: server.sql(saved) == str(MORE_THAN_ALL_CONNECTIONS))
    assert not failures(service, "/export") + failures(service, "/visits")
