"""The image in a container like one on Fargate, and what a client and the log show of it. Kept by the template."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPMessage
from pathlib import Path
from typing import Any

from .task import CPUS, ENVIRONMENT, HEALTH_PATH, MEMORY, PLATFORM, PORT, STOP_TIMEOUT

# Yours, if the service does not start without: one NAME=VALUE a line.
OWN_ENVIRONMENT = Path(__file__).parents[1] / "contract.env"

UNANSWERED = (OSError, HTTPException)  # what a client raises that gets no whole answer


def docker(*arguments: str, stdin: str | None = None) -> str:
    """Return what a docker command prints; if it fails, raise with the reason."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


@cache
def engine_cpus() -> int:
    """Return how many CPUs there are; a container cannot have more."""
    count: int = json.loads(docker("info", "--format=json"))["NCPU"]
    return count


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
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Response(response.status, response.headers, response.read())


class Container:
    """A container that has been started and not yet removed; times are in seconds."""

    def __init__(self, id: str) -> None:
        """Take the container with this id."""
        self.id = id
        self.port = 0

    def state(self) -> dict[str, Any]:
        """Return Docker's .State: Status, ExitCode, Health and so on."""
        state: dict[str, Any] = json.loads(docker("inspect", self.id))[0]["State"]
        return state

    def connect(self, timeout: float = 60) -> HTTPConnection:
        """Return a new connection, open from its first request on."""
        if not self.port:
            self.port = int(docker("port", self.id, f"{PORT}/tcp").splitlines()[0].rpartition(":")[2])
        return HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Response:
        """Send a request on a connection of its own; `headers` are named like X_Request_ID."""
        connection = self.connect()
        try:
            return ask(connection, path, method, body, {name.replace("_", "-"): text for name, text in headers.items()})
        finally:
            connection.close()

    def wait_until_serving(self, timeout: float = 60) -> None:
        """Return when the health endpoint answers 200; raise if it does not in time."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                if self.ask(HEALTH_PATH).status == 200:
                    return
            except (*UNANSWERED, RuntimeError):  # RuntimeError: it has ended, so no port is published
                if self.state()["Status"] == "exited":
                    break
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
        """Kill the worker that answers next."""
        pid = self.ask("/contract/pid").json()
        docker("exec", self.id, "python", "-c", f"import os; os.kill({pid}, 9)")

    def stop(self) -> float:
        """Stop it as ECS does, SIGTERM and later SIGKILL, and return how long that took."""
        started = time.monotonic()
        docker("stop", "-t", str(STOP_TIMEOUT), self.id)
        return time.monotonic() - started

    def output(self) -> tuple[str, str]:
        """Return what has been written to stdout and to stderr."""
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

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


HARDENED = ["--init", "--read-only", "--user=1000:1000"]


@contextmanager
def started(
    image: str,
    environment: Mapping[str, str] = {},
    *,
    cpus: float = CPUS,
    memory: int = MEMORY,
    hardening: Sequence[str] = HARDENED,
) -> Iterator[Container]:
    """Run an image as Fargate does, `environment` added to the manifest's; removed at the end, its log checked."""
    own = [f"--env-file={OWN_ENVIRONMENT}"] if OWN_ENVIRONMENT.exists() else []
    container = Container(
        docker(
            "run",
            "--detach",
            *hardening,
            "--tmpfs=/tmp",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            f"--platform={PLATFORM}",
            f"--cpus={min(cpus, engine_cpus())}",
            f"--memory={memory}m",
            f"--memory-swap={memory}m",
            f"--publish=127.0.0.1::{PORT}",
            *own,
            *(f"--env={name}={value}" for name, value in {**ENVIRONMENT, **environment}.items()),
            image,
        )
    )
    try:
        yield container
        assert container.log(), "nothing was logged"
    finally:
        for text in container.output():
            print("\n".join(text.splitlines()[-20:]))  # shown by pytest when the test fails
        docker("rm", "--force", "--volumes", container.id)


@contextmanager
def serving(
    image: str, environment: Mapping[str, str] = {}, *, memory: int = MEMORY, hardening: Sequence[str] = HARDENED
) -> Iterator[Container]:
    """Run an image as `started` does, and wait until it is healthy."""
    with started(image, environment, memory=memory, hardening=hardening) as container:
        container.wait_until_serving()
        yield container
