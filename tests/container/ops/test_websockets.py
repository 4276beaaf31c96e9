"""A WebSocket has an id and a line in the log, and a stop closes it."""

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from socket import socket

from ..container import serving

SERVICE_RESTART = 1012
TEXT, CLOSE = 1, 8
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    "X-Request-ID": "socket-1",
}


def send(client: socket, text: bytes) -> None:
    """Send a short text, under a mask of zeros, which leaves it as it is."""
    client.sendall(bytes([0x80 | TEXT, 0x80 | len(text)]) + bytes(4) + text)


def receive(response: HTTPResponse) -> tuple[int, bytes]:
    """Return the kind and the content of the next short frame, without pings."""
    kind, length = response.fp.read(2)
    return kind & 0x0F, response.fp.read(length)


def test_a_websocket_has_an_id_and_the_stop_closes_it() -> None:
    with serving({"DRAIN_SECONDS": "1"}) as container, ThreadPoolExecutor() as pool:
        connection = container.connect()
        connection.request("GET", "/contract/echo", headers=HANDSHAKE)
        response = connection.response_class(connection.sock, method="GET")
        response.begin()
        assert (response.status, response.headers["X-Request-ID"]) == (101, "socket-1")
        send(connection.sock, b"hello")
        assert receive(response) == (TEXT, b"hello")

        stop = pool.submit(container.stop)
        kind, content = receive(response)
        assert (kind, int.from_bytes(content[:2], "big")) == (CLOSE, SERVICE_RESTART)
        assert stop.result() < 10
        (line,) = [line for line in container.log() if line["event"] == "websocket"]
        assert (line["request_id"], line["path"], line["code"]) == ("socket-1", "/contract/echo", SERVICE_RESTART)
        assert container.state()["ExitCode"] == 0
        response.close()
        connection.close()
