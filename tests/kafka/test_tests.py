"""The tests of a service consume none of the developer's messages, and publish nothing."""

from pathlib import Path

from confluent_kafka import OFFSET_INVALID, Consumer, TopicPartition

from tests.kafka.cluster import Broker
from tests.support.commands import run

TEST = '''\
"""Under test"""

import time

import pytest
from fastapi.testclient import TestClient
from my_service.events import Order
from my_service.main import app
from my_service.ops.kafka import publish


def test_it_starts(client: TestClient) -> None:
    time.sleep(3)  # a consumer would have handled the message by now
    with pytest.raises(RuntimeError, match="KAFKA_BROKERS is not set"):
        client.portal.call(publish, app, "orders", Order(number=1))
'''


def test_the_tests_of_a_service_leave_kafka_alone(repository: Path, broker: Broker, tmp_path: Path) -> None:
    broker.order(1)
    broker.producer.flush()
    test, handled = repository / "tests/test_ours.py", tmp_path / "handled"
    test.write_text(TEST)
    environment = {"KAFKA_BROKERS": broker.address, "HANDLED": str(handled), "PYTHONPATH": "src"}
    run(".venv/bin/python", "-m", "pytest", "--no-cov", str(test), cwd=repository, check=True, **environment)
    assert not handled.read_text()
    reader = Consumer({"bootstrap.servers": broker.address, "group.id": "my-service-local", "log_level": 0})
    (committed,) = reader.committed([TopicPartition("orders", 0)], timeout=10)
    reader.close()
    assert committed.offset == OFFSET_INVALID
    test.unlink()
