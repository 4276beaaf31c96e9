"""The load balancer: HAProxy passes the requests on; the target group of the file decides to whom."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from threading import Event, RLock, Thread
from typing import Any

from tests.support.commands import wait_until
from tests.support.containers import docker
from tests.support.template import DEFAULTS

LAG = 2  # seconds until each node of a load balancer knows that a target leaves
SLOTS = 100  # tasks in the life of one load balancer
ALGORITHMS = {"round_robin": "roundrobin", "least_outstanding_requests": "leastconn", "weighted_random": "random"}
DOCKERFILE = f"""\
FROM docker.io/library/python:{DEFAULTS["python_version"]}-slim-trixie
RUN apt-get update && apt-get install --yes --no-install-recommends haproxy
"""
# It sends no request again that a task has not answered.
CONFIGURATION = """\
global
  stats socket ipv4@0.0.0.0:9000 level admin
defaults
  mode http
  retries 0
  http-reuse always
  option forwardfor
  timeout connect 10s
  timeout client {idle}s
  timeout server {idle}s
  timeout http-keep-alive {idle}s
frontend listener
  bind :80
  default_backend tasks
backend tasks
  balance {algorithm}
  server-template task {slots} 127.0.0.1:1 disabled
"""


def attributes(properties: dict[str, Any], name: str) -> dict[str, str]:
    """Return the attributes of a load balancer or a target group."""
    return {each["Key"]: each["Value"] for each in properties.get(name, [])}


class Target:
    """A task as the load balancer sees it: initial, healthy, unhealthy or draining."""

    def __init__(self, slot: str, url: tuple[str, int], state: str) -> None:
        self.slot = slot
        self.url = url
        self.state = state
        self.left = Event()


class Balancer:
    """A load balancer with one target group."""

    def __init__(self, container: str, group: dict[str, Any]) -> None:
        self._container = container
        self.group = group
        self._targets: list[Target] = []
        self._serving: set[str] = set()
        self._slots = iter(range(1, SLOTS + 1))
        self._lock = RLock()
        self.port = self._published(80)
        self._admin = self._published(9000)

    @classmethod
    @contextmanager
    def running(cls, image: str, balancer: dict[str, Any], group: dict[str, Any]) -> Iterator["Balancer"]:
        """Start what the properties of a load balancer and of a target group say."""
        configuration = CONFIGURATION.format(
            idle=attributes(balancer, "LoadBalancerAttributes").get("idle_timeout.timeout_seconds", "60"),
            algorithm=ALGORITHMS[
                attributes(group, "TargetGroupAttributes").get("load_balancing.algorithm.type", "round_robin")
            ],
            slots=SLOTS,
        )
        script = 'echo "$CONFIGURATION" >/haproxy.cfg && exec haproxy -db -f /haproxy.cfg'
        publish = ("--publish=127.0.0.1::80", "--publish=127.0.0.1::9000")
        container = docker(
            "run", "--detach", *publish, f"--env=CONFIGURATION={configuration}", image, "sh", "-c", script
        )
        try:
            made = cls(container, group)
            wait_until(lambda: "task1" in made._tell("show servers state"))
            yield made
        finally:
            docker("rm", "--force", container)

    def _published(self, port: int) -> int:
        return int(docker("port", self._container, f"{port}/tcp").splitlines()[0].rpartition(":")[2])

    def _tell(self, command: str) -> str:
        """Send HAProxy a command and return its answer."""
        with socket.create_connection(("127.0.0.1", self._admin), timeout=10) as connection:
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(4096), b"")).decode()

    def register(self, address: str, url: tuple[str, int], state: str = "initial") -> Target:
        """Add a task by its address; the health checks go to the port of this machine where it is published."""
        target = Target(f"tasks/task{next(self._slots)}", url, state)
        with self._lock:
            host, _, port = address.rpartition(":")
            self._tell(f"set server {target.slot} addr {host} port {port}")
            self._targets.append(target)
        Thread(target=self._check, args=(target,), daemon=True).start()
        self.send_to_the_healthy()
        return target

    def deregister(self, target: Target) -> None:
        """Send a task no new request, wait for the deregistration delay, and end what still runs then."""
        delay = attributes(self.group, "TargetGroupAttributes")["deregistration_delay.timeout_seconds"]
        until = time.monotonic() + float(delay)
        target.left.set()
        time.sleep(LAG)
        with self._lock:
            self._targets.remove(target)
            self._serving.discard(target.slot)
            self._tell(f"set server {target.slot} state drain")
        self.send_to_the_healthy()
        time.sleep(max(0.0, until - time.monotonic()))
        self._tell(f"set server {target.slot} state maint; shutdown sessions server {target.slot}")

    def _check(self, target: Target) -> None:
        """Check the health of a target until it leaves; a new one has to pass one check."""
        passed = failed = 0
        while not target.left.wait(0 if not passed + failed else float(self.group["HealthCheckIntervalSeconds"])):
            if self.answers(target):
                passed, failed = passed + 1, 0
            else:
                passed, failed = 0, failed + 1
            if (target.state == "initial" and passed) or passed >= int(self.group["HealthyThresholdCount"]):
                target.state = "healthy"
            elif failed >= int(self.group["UnhealthyThresholdCount"]):
                target.state = "unhealthy"
            self.send_to_the_healthy()

    def answers(self, target: Target) -> bool:
        connection = HTTPConnection(*target.url, timeout=float(self.group["HealthCheckTimeoutSeconds"]))
        with suppress(OSError, HTTPException):
            connection.request("GET", self.group["HealthCheckPath"])
            status = str(connection.getresponse().status)
            connection.close()
            return bool(status == self.group.get("Matcher", {}).get("HttpCode", "200"))
        return False

    def send_to_the_healthy(self) -> None:
        """Choose who gets requests: where nobody is healthy, all do."""
        with self._lock:
            healthy = {target.slot for target in self._targets if target.state == "healthy"}
            wanted = healthy or {target.slot for target in self._targets}
            for slot in wanted - self._serving:
                self._tell(f"set server {slot} state ready")
            for slot in self._serving - wanted:
                self._tell(f"set server {slot} state drain")
            self._serving = wanted
