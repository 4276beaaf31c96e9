"""The image in a container like one on Fargate, seen by a client and in the log. Kept by the template."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPMessage
from typing import Any

import docker
import docker.models.containers

from .task import APP, CPUS, ENVIRONMENT, HEALTH_PATH, MEMORY, PLATFORM, PORT, STOP_TIMEOUT

ENGINE = docker.DockerClient()
IMAGE = os.environ["CONTRACT_IMAGE"]  # as it is deployed
PROBE = os.environ["CONTRACT_PROBE"]  # the same with the routes of probe.py

# These tests run as the service `api` of Compose: the service under test gets the same networks and variables.
RUNNER = ENGINE.containers.get(os.environ["CONTRACT_RUNNER"]).attrs
NETWORKS = list(RUNNER["NetworkSettings"]["Networks"])
OF_THE_RUNNER = ("DRAIN_SECONDS=", "CONTRACT_", "PYTEST_")
OF_ITS_IMAGE = ENGINE.images.get(RUNNER["Image"]).attrs["Config"]["Env"]
NEEDED = [
    variable
    for variable in RUNNER["Config"]["Env"]
    if variable not in OF_ITS_IMAGE and not variable.startswith(OF_THE_RUNNER)
]

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
    headers: Mapping[str, str] = {},
) -> Response:
    """Send a request on a connection and return the response; raise one of UNANSWERED if none comes."""
    connection.request(method, path, body, {"Host": f"127.0.0.1:{PORT}", **headers})  # as the health check does
    response = connection.getresponse()
    return Response(response.status, response.headers, response.read())


def wait_until(is_true: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Return when it is true; raise if it is not in time."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"{otherwise} after {seconds:g} s"
        time.sleep(0.1)


class Container:
    """A container that has been started and not yet removed; times are in seconds."""

    def __init__(self, container: docker.models.containers.Container) -> None:
        """Take the container as Docker's own library has it."""
        self.docker = container

    def state(self) -> dict[str, Any]:
        """Return Docker's .State: Status, ExitCode, Health and so on."""
        self.docker.reload()
        state: dict[str, Any] = self.docker.attrs["State"]
        return state

    @cached_property
    def address(self) -> str:
        """Where it is on the network that it shares with these tests."""
        self.docker.reload()
        return str(self.docker.attrs["NetworkSettings"]["Networks"][NETWORKS[0]]["IPAddress"])

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

    def wait_until_serving(self) -> None:
        """Return when the health endpoint answers 200, where the deployment says that it is."""

        def is_serving() -> bool:
            with suppress(*UNANSWERED):
                if self.ask(HEALTH_PATH).status == 200:
                    return True
            assert self.state()["Status"] == "running", "it has ended"
            return False

        wait_until(is_serving, 60, f"nothing answers GET {HEALTH_PATH} on port {PORT} with 200")

    def stop(self) -> float:
        """Stop it as ECS does, SIGTERM and later SIGKILL, and return how long that took."""
        started = time.monotonic()
        self.docker.stop(timeout=STOP_TIMEOUT)
        return time.monotonic() - started

    def output(self) -> tuple[str, str]:
        """Return the texts of stdout and stderr."""
        return self.docker.logs(stderr=False).decode(), self.docker.logs(stdout=False).decode()

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a line that is not one JSON object, on either stream, is an error."""
        lines = []
        for text in "".join(self.output()).encode().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            assert isinstance(line, dict), f"a line of the log is not one JSON object: {text.decode()!r}"
            lines.append(line)
        return lines

    def events(self) -> list[str]:
        """Return the messages of the log."""
        return [line["event"] for line in self.log()]


@contextmanager
def started(
    image: str,
    environment: Mapping[str, str] = {},
    *,
    cpus: float = CPUS,
    memory: int = MEMORY,
    hardened: bool = True,
    command: Sequence[str] = (),
) -> Iterator[Container]:
    """Run an image as Fargate does, `environment` added to the manifest's; removed at the end, its log checked.

    `command` is another than the image's own.
    """
    if not command:
        command = ENGINE.images.get(image).attrs["Config"]["Cmd"]
        assert APP in command
    container = ENGINE.containers.create(
        image,
        ["probe:app" if argument == APP and image == PROBE else argument for argument in command],
        environment=[*NEEDED, *(f"{name}={value}" for name, value in {**ENVIRONMENT, **environment}.items())],
        user="1000:1000" if hardened else "0:0",
        init=hardened,
        read_only=hardened,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        nano_cpus=int(min(cpus, ENGINE.info()["NCPU"]) * 1e9),  # it cannot have more than there are
        mem_limit=f"{memory}m",
        memswap_limit=f"{memory}m",
        network=NETWORKS[0],
        networking_config={name: ENGINE.api.create_endpoint_config() for name in NETWORKS},
        platform=PLATFORM,
    )
    running = Container(container)
    try:
        container.start()
        yield running
        wait_until(lambda: bool(running.log()), 10, "nothing is logged")  # the engine copies its lines later
    finally:
        for text in running.output():
            print("\n".join(text.splitlines()[-20:]))  # shown by pytest when the test fails
        container.remove(force=True, v=True)


@contextmanager
def serving(environment: Mapping[str, str] = {}, *, memory: int = MEMORY, hardened: bool = True) -> Iterator[Container]:
    """Run the image with the routes of probe.py as `started` does, and wait until it is healthy."""
    with started(PROBE, environment, memory=memory, hardened=hardened) as container:
        container.wait_until_serving()
        yield container
