"""The service sends nothing to a server whose certificate does not name it, or that no trusted authority has signed."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.database.cluster import Service
from tests.support.commands import wait_until

NAME = "database.test"  # as the service knows its server


class TlsServer:
    """The beginning of a PostgreSQL server: it agrees to TLS and notes what it hears."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.asked = 0
        self.heard = b""

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self.listener.accept()
                with suppress(OSError), connection:
                    connection.recv(8)  # the request for TLS
                    self.asked += 1
                    connection.sendall(b"S")
                    with self.context.wrap_socket(connection, server_side=True) as secured:
                        self.heard += secured.recv(1024)


@contextmanager
def serving(authority: trustme.CA, name: str) -> Iterator[TlsServer]:
    server = TlsServer(authority, name)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join()


@pytest.mark.parametrize(
    ("name", "trusted", "user_is_sent"),
    [(NAME, True, True), ("another.test", True, False), (NAME, False, False)],
)
def test_a_user_is_sent_to_the_verified_server_alone(
    repository: Path, tmp_path: Path, name: str, trusted: bool, user_is_sent: bool
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    certificates = tmp_path / "authorities.pem"
    (authority if trusted else other).cert_pem.write_to_path(certificates)
    with serving(authority, name) as server:
        service = Service(repository, tmp_path, server.port)
        service.environment |= {"DATABASE_TLS": "true", "DATABASE_CA": str(certificates)}
        service.start()
        try:
            wait_until(lambda: service.ask("/notes?limit=1")[0] == 503)
        finally:
            service.kill()
    assert server.asked
    assert (b"user\0service\0" in server.heard) == user_is_sent
