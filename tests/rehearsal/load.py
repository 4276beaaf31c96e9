"""Clients that send all the time, and count."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread

# What these clients ask for without a pause. With fewer, a task that ends may have no such request.
SLOW = ["/sleep/3"] * 12
TIMEOUT = 70  # seconds; longer than the load balancer waits


class Load:
    """Clients that send this many requests a second, and others whose requests take seconds."""

    def __init__(self, port: int, rate: float, path: str) -> None:
        self.port = port
        self.sent = 0
        self.lost: list[str] = []
        self.began = time.monotonic()
        self._ended = Event()
        clients = max(4, round(rate / 5))
        pause = clients / rate
        self._threads = [
            Thread(target=self._send, args=(path, pause, pause * number / clients, bool(number % 3)))
            for number in range(clients)
        ]
        self._threads += [Thread(target=self._send, args=(slow, 0.0, 0.0, True)) for slow in SLOW]

    def _send(self, path: str, pause: float, first: float, keep: bool) -> None:
        """Send one request after the other, on one connection or each on its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        at = time.monotonic() + first
        while not self._ended.wait(max(0.0, at - time.monotonic())):
            at = max(at + pause, time.monotonic())
            self.sent += 1
            if reason := self._ask(connection, path):
                self.lost.append(f"{time.monotonic() - self.began:.1f} s: {path}: {reason}")
                connection.close()
                self._ended.wait(0.1)  # before the next try
            if not keep:
                connection.close()
        connection.close()

    def _ask(self, connection: HTTPConnection, path: str) -> str:
        """Send a request and return why there is no good answer, or nothing."""
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException) as error:
            return repr(error)
        return "" if response.status == 200 else str(response.status)

    @classmethod
    @contextmanager
    def on(cls, port: int, rate: float, path: str) -> Iterator["Load"]:
        """Send to this port until the block ends, and wait for the last answers."""
        load = cls(port, rate, path)
        for thread in load._threads:
            thread.start()
        try:
            yield load
        finally:
            load._ended.set()
            for thread in load._threads:
                thread.join()
