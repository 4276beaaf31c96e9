"""A Kafka cluster, a service that consumes from it, and how both are disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.support.commands import free_port, wait_until
from tests.support.gunicorn import Gunicorn

HERE = Path(__file__).parent
DEAD_LETTERS = "my-service-local-dead-letters"


class Broker:
    """A cluster of one broker, in a process of its own."""

    def __init__(self) -> None:
        command = (sys.executable, HERE / "broker.py")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        self.producer = Producer({"bootstrap.servers": self.address, "log_level": 0})

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Broker"]:
        """Run a cluster."""
        broker = cls()
        try:
            yield broker
        finally:
            broker.thaw()
            broker.process.communicate()  # the end of its input is its end

    def leave(self) -> None:
        """Let it end its connections and refuse new ones."""
        self._command("down")

    def come_back(self) -> None:
        self._command("up")

    def refuse(self, topic: str) -> None:
        """Let it authorize nobody for a topic."""
        self._command(f"refuse {topic}")

    def accept(self, topic: str) -> None:
        self._command(f"accept {topic}")

    def _command(self, line: str) -> None:
        assert self.process.stdin
        print(line, file=self.process.stdin, flush=True)

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def send(
        self,
        value: bytes | None,
        key: bytes | None = None,
        partition: int = -1,
        header: tuple[str, bytes] | None = None,
    ) -> None:
        """Send a message to the topic orders; its key chooses the partition if none is given."""
        self.producer.produce("orders", value, key, partition, headers=[header] if header else [])
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


class Service(Gunicorn):
    """The rendered service under Gunicorn, as the container starts it."""

    def __init__(self, brokers: str, repository: Path, folder: Path, workers: int) -> None:
        self.brokers = brokers
        self.repository = repository
        self.workers = workers
        self.handler_timeout = 1
        self.handled_file = folder / "handled"
        self.log_file = folder / "log"
        self.handled_file.touch()
        self.port = free_port()

    @classmethod
    @contextmanager
    def with_brokers(cls, brokers: str, repository: Path, folder: Path, workers: int = 1) -> Iterator["Service"]:
        """Have a service that has not been started; what it logs is kept in the folder."""
        service = cls(brokers, repository, folder, workers)
        try:
            yield service
        finally:
            print(service.log_file.read_text())  # shown by pytest when the test fails
            service.kill()

    def start(self) -> None:
        """Start it and return when it is healthy."""
        # librdkafka's mock waits a second less than this for all members to join, and starts over when one is late.
        session_timeout = 2 * self.workers
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": "src",
            "KAFKA_BROKERS": self.brokers,
            "KAFKA_SESSION_TIMEOUT": str(session_timeout),
            "KAFKA_HANDLER_TIMEOUT": str(self.handler_timeout),
            "DRAIN_SECONDS": "1",
            "WEB_CONCURRENCY": str(self.workers),
            "HANDLED": str(self.handled_file),
        }
        self.launch("my_service.main:app", self.port, self.repository, self.log_file, environment)
        wait_until(self.is_healthy, 20)

    def is_healthy(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def handled(self) -> list[int]:
        """Return the numbers of the orders that have been handled, by this and earlier processes."""
        return [int(line.split()[0]) for line in self.handled_file.read_text().splitlines()]

    def consumers(self) -> set[int]:
        """Return the process ids of those who have handled orders."""
        return {int(line.split()[1]) for line in self.handled_file.read_text().splitlines()}
