"""Clients that keep a service busy, and count. Kept by the template."""

from http.client import HTTPConnection
from threading import Event, Thread
from types import TracebackType
from typing import Self

from .container import UNANSWERED, Container, ask

PATH = "/contract/sleep/0.01"
PAUSE = 0.03  # seconds between two requests of a client
KEEP = [True] * 5 + [False] * 2  # whether a client keeps its connection as long as it may, or opens new ones


class Load:
    """Several clients, each sending one request after the other from `with` to the end of its block or `end()`."""

    def __init__(self, container: Container) -> None:
        """Take the container that they ask."""
        self.container = container
        self.sent = 0
        self.lost: list[str] = []
        self._ended = Event()
        self._threads = [Thread(target=self._send, args=(keep,)) for keep in KEEP]

    def _send(self, keep: bool) -> None:
        connection = self.container.connect(timeout=20)
        while not self._ended.wait(PAUSE):
            self.count(connection, PATH)
            if not keep:
                connection.close()
        connection.close()

    def count(self, connection: HTTPConnection, path: str, status: int = 200) -> None:
        """Send one request on a connection, which opens again if the service has said that it closes it."""
        self.sent += 1
        try:
            response = ask(connection, path)
        except UNANSWERED as error:
            self.lost.append(f"{path}: {error!r}")
            connection.close()
            return
        if response.status != status:
            self.lost.append(f"{path}: {response.status} in place of {status}")

    def __enter__(self) -> Self:
        """Begin to send."""
        for thread in self._threads:
            thread.start()
        return self

    def end(self) -> None:
        """Send nothing more, and return when all is answered."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Send nothing more."""
        self.end()
