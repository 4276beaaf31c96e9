"""The image in a container like one on Fargate, seen by a client and in the log. Kept by the template."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPMessage
from typing import Any
from urllib.parse import quote

from . import engine
from .task import APP, CPUS, ENVIRONMENT, HEALTH_PATH, MEMORY, PLATFORM, PORT, STOP_TIMEOUT

IMAGE = os.environ["CONTRACT_IMAGE"]  # as it is deployed
PROBE = os.environ["CONTRACT_PROBE"]  # the same with the routes of probe.py
BROKEN = os.environ["CONTRACT_BROKEN"]  # the same with a main.py that cannot be imported

# These tests run as the service `api` of Compose: the service under test gets the same networks and variables.
RUNNER = engine.get(f"/containers/{os.environ['CONTRACT_RUNNER']}/json")
NETWORKS = list(RUNNER["NetworkSettings"]["Networks"])
OF_THE_RUNNER = {"DRAIN_SECONDS", *(name for name in os.environ if name.startswith(("CONTRACT_", "PYTEST_")))}
OF_ITS_IMAGE = engine.get(f"/images/{RUNNER['Image']}/json")["Config"]["Env"]
OF_COMPOSE = dict(variable.split("=", 1) for variable in RUNNER["Config"]["Env"] if variable not in OF_ITS_IMAGE)
NEEDED = {name: value for name, value in OF_COMPOSE.items() if name not in OF_THE_RUNNER}

ENGINE_CPUS: int = engine.get("/info")["NCPU"]  # a container cannot have more

UNANSWERED = (OSError, HTTPException)  # a client that gets no whole answer raises one of these


@dataclass
class Response:
    """An HTTP response that has been read."""

    status: int
    headers: HTTPMessage
    body: bytes

    def json(self) -> Any:
        """Return the body's content."""
        return json.loads(self.body)


def ask(
    connection: HTTPConnection,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request on a connection and return the response; raise one of UNANSWERED if none comes."""
    connection.request(method, path, body, {"Host": f"127.0.0.1:{PORT}", **(headers or {})})  # as the health check does
    response = connection.getresponse()
    return Response(response.status, response.headers, response.read())


class Container:
    """A container that has been started and not yet removed; times are in seconds."""

    def __init__(self, id: str) -> None:
        """Take the container with this id."""
        self.id = id

    def state(self) -> dict[str, Any]:
        """Return Docker's .State: Status, ExitCode, Health and so on."""
        state: dict[str, Any] = engine.get(f"/containers/{self.id}/json")["State"]
        return state

    @cached_property
    def address(self) -> str:
        """Where it is on the network that it shares with these tests."""
        networks = engine.get(f"/containers/{self.id}/json")["NetworkSettings"]["Networks"]
        return str(networks[NETWORKS[0]]["IPAddress"])

    def connect(self, timeout: float = 60) -> HTTPConnection:
        """Return a new connection, open from its first request on."""
        return HTTPConnection(self.address, PORT, timeout=timeout)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Response:
        """Send a request on a connection of its own; `headers` are named like X_Request_ID."""
        connection = self.connect()
        try:
            return ask(connection, path, method, body, {name.replace("_", "-"): text for name, text in headers.items()})
        finally:
            connection.close()

    def wait_until_serving(self, timeout: float = 60) -> None:
        """Return when the health endpoint answers 200; raise if the container exits, or if it takes too long."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with suppress(*UNANSWERED):
                if self.ask(HEALTH_PATH).status == 200:
                    return
            assert self.state()["Status"] == "running", "exited"
            time.sleep(0.1)
        raise AssertionError(f"not serving after {timeout} s")

    def wait_until_exited(self, timeout: float) -> int:
        """Return the exit code; raise if the container still runs after that time."""
        end = time.monotonic() + timeout
        while (state := self.state())["Status"] != "exited":
            assert time.monotonic() < end, f"still running after {timeout} s"
            time.sleep(0.1)
        return int(state["ExitCode"])

    def kill_worker(self) -> None:
        """Have the worker that answers next kill itself."""
        with suppress(*UNANSWERED):
            self.ask("/contract/kill")

    def stop(self) -> float:
        """Stop it as ECS does, SIGTERM and later SIGKILL, and return how long that took."""
        started = time.monotonic()
        engine.request("POST", f"/containers/{self.id}/stop?t={STOP_TIMEOUT}")
        return time.monotonic() - started

    def output(self) -> tuple[str, str]:
        """Return the texts of stdout and stderr."""
        return engine.log(self.id, "stdout"), engine.log(self.id, "stderr")

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a line that is not one JSON object, on either stream, is an error."""
        lines = []
        for text in "".join(self.output()).rstrip("\n").split("\n"):
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            assert isinstance(line, dict), f"not one JSON object: {text!r}"
            lines.append(line)
        return lines

    def events(self) -> list[str]:
        """Return the messages of the log."""
        return [line["event"] for line in self.log()]

    def logged(self, is_meant: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first line of the log that is meant, whichever worker writes it; raise if none comes."""
        end = time.monotonic() + 10
        while not (lines := [line for line in self.log() if is_meant(line)]):
            assert time.monotonic() < end, "no such line in the log"
            time.sleep(0.1)
        return lines[0]


@contextmanager
def started(
    image: str,
    environment: Mapping[str, str] = {},
    *,
    cpus: float = CPUS,
    memory: int = MEMORY,
    hardened: bool = True,
) -> Iterator[Container]:
    """Run an image as Fargate does, `environment` added to the manifest's; removed at the end, its log checked."""
    command = engine.get(f"/images/{quote(image, safe='')}/json")["Config"]["Cmd"]
    assert APP in command
    description = {
        "Image": image,
        "Cmd": ["probe:app" if argument == APP and image == PROBE else argument for argument in command],
        "Env": [f"{name}={value}" for name, value in {**NEEDED, **ENVIRONMENT, **environment}.items()],
        "User": "1000:1000" if hardened else "0:0",
        "HostConfig": {
            "Init": hardened,
            "ReadonlyRootfs": hardened,
            "Tmpfs": {"/tmp": ""},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "NanoCpus": int(min(cpus, ENGINE_CPUS) * 1e9),
            "Memory": memory * 2**20,
            "MemorySwap": memory * 2**20,
            "NetworkMode": NETWORKS[0],
        },
        "NetworkingConfig": {"EndpointsConfig": {name: {} for name in NETWORKS}},
    }
    created = json.loads(engine.request("POST", f"/containers/create?platform={quote(PLATFORM, safe='')}", description))
    container = Container(created["Id"])
    try:
        engine.request("POST", f"/containers/{container.id}/start")
        yield container
        assert container.log(), "nothing was logged"
    finally:
        for text in container.output():
            print("\n".join(text.splitlines()[-20:]))  # shown by pytest when the test fails
        engine.request("DELETE", f"/containers/{container.id}?force=1&v=1")


@contextmanager
def serving(environment: Mapping[str, str] = {}, *, memory: int = MEMORY, hardened: bool = True) -> Iterator[Container]:
    """Run the image with the routes of probe.py as `started` does, and wait until it is healthy."""
    with started(PROBE, environment, memory=memory, hardened=hardened) as container:
        container.wait_until_serving()
        yield container
