"""A Kafka cluster, a service that consumes from it, and how both are disturbed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.conftest import Render
from tests.project import PYTHON, run, wait_until

HERE = Path(__file__).parent
DEAD_LETTERS = "my-service-local-dead-letters"
STOP_TIMEOUT = 30  # seconds from SIGTERM to SIGKILL on ECS


class Broker:
    """A cluster of one broker, in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, HERE / "broker.py"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        self.producer = Producer({"bootstrap.servers": self.address, "log_level": 0})

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Broker"]:
        """Run a cluster."""
        broker = cls()
        yield broker
        broker.thaw()
        broker.process.terminate()
        broker.process.wait()

    def leave(self) -> None:
        """Let it end its connections and refuse new ones."""
        self.process.send_signal(signal.SIGUSR1)

    def come_back(self) -> None:
        self.process.send_signal(signal.SIGUSR2)

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def send(self, value: bytes | None, key: bytes | None = None, **headers: bytes) -> None:
        """Send a message to the topic orders."""
        self.producer.produce("orders", value, key, headers=list(headers.items()))
        self.producer.poll(0)

    def order(self, number: int, **more: float) -> None:
        """Send an order, which is handled as the service's events.py says."""
        self.send(json.dumps({"number": number, **more}).encode(), str(number).encode())

    def dead_letter(self, value: bytes | None) -> tuple[Message, dict[str, Any]]:
        """Return the dead letter with this value, and its headers; raise if there is none in time."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "reader", "log_level": 0})
        partitions = self.producer.list_topics(DEAD_LETTERS).topics[DEAD_LETTERS].partitions
        consumer.assign([TopicPartition(DEAD_LETTERS, number, 0) for number in partitions])
        deadline = time.monotonic() + 30
        with closing(consumer):
            while time.monotonic() < deadline:
                message = consumer.poll(0.2)
                if message is not None and not message.error() and message.value() == value:
                    return message, dict(message.headers() or [])
        raise AssertionError(f"no dead letter holds {value!r}")


class Service:
    """The rendered service under Gunicorn, as the container starts it."""

    def __init__(self, brokers: str, repository: Path, folder: Path, workers: int) -> None:
        self.brokers = brokers
        self.repository = repository
        self.workers = workers
        self.handled_file = folder / "handled"
        self.log_file = folder / "log"
        self.handled_file.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @classmethod
    @contextmanager
    def with_brokers(cls, brokers: str, repository: Path, folder: Path, workers: int = 1) -> Iterator["Service"]:
        """Have a service that has not been started; what it logs is kept in the folder."""
        service = cls(brokers, repository, folder, workers)
        yield service
        print(service.log_file.read_text())  # shown by pytest when the test fails
        service.kill()

    def start(self) -> None:
        """Start it and return when it is healthy."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": "src",
            "KAFKA_BROKERS": self.brokers,
            "KAFKA_SESSION_TIMEOUT": "2",
            "KAFKA_HANDLER_TIMEOUT": "1",
            "DRAIN_SECONDS": "1",
            "WEB_CONCURRENCY": str(self.workers),
            "HANDLED": str(self.handled_file),
        }
        command = (".venv/bin/gunicorn", "--bind", f"127.0.0.1:{self.port}", "my_service.main:app")
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.repository, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.is_healthy, 20)

    def is_healthy(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def stop(self) -> float:
        """Stop it as ECS does and return how long that took; it must end by itself, and well."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(STOP_TIMEOUT) == 0
        return time.monotonic() - started

    def kill(self) -> None:
        """Kill all its processes."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def handled(self) -> list[int]:
        """Return the numbers of the orders that have been handled, by this and earlier processes."""
        return [int(line.split()[0]) for line in self.handled_file.read_text().splitlines()]

    def consumers(self) -> set[int]:
        """Return the process ids of those who have handled orders."""
        return {int(line.split()[1]) for line in self.handled_file.read_text().splitlines()}

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a line that is not one JSON object is an error."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


@pytest.fixture(scope="session")
def repository(render: Render) -> Path:
    """A rendered repository for the Python of these tests, with its dependencies and our event flow."""
    path = render(kafka=True, python_version=PYTHON)
    (path / "src/my_service/events.py").write_text((HERE / "events.py").read_text())
    run("uv", "lock", "--quiet", cwd=path)
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker.running() as broker:
        yield broker


@pytest.fixture
def service(repository: Path, broker: Broker, tmp_path: Path) -> Iterator[Service]:
    """A service that has not been started."""
    with Service.with_brokers(broker.address, repository, tmp_path) as service:
        yield service
