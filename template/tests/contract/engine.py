"""The container engine, asked over its HTTP API. Kept by the template."""

import json
import socket
from http.client import HTTPConnection
from typing import Any


class EngineConnection(HTTPConnection):
    """A connection to the engine's socket, as tests/contract/run mounts it."""

    def connect(self) -> None:
        """Open the socket in place of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("/var/run/docker.sock")


def request(method: str, path: str, body: object = None) -> bytes:
    """Return the body of the engine's answer; raise with the reason if it refuses."""
    connection = EngineConnection("localhost", timeout=300)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise RuntimeError(f"{method} {path}: {json.loads(content)['message']}")
    return content


def get(path: str) -> Any:
    """Return the engine's answer to a GET, such as /containers/ID/json."""
    return json.loads(request("GET", path))


def log(container: str, stream: str) -> str:
    """Return the text of a container's stream, stdout or stderr."""
    frames = request("GET", f"/containers/{container}/logs?{stream}=1")
    text = b""
    while frames:  # each has a header of eight bytes, whose last four are the length of its content
        end = 8 + int.from_bytes(frames[4:8], "big")
        text += frames[8:end]
        frames = frames[end:]
    return text.decode()
