"""What becomes of a message: handled, tried again, or a dead letter with its bytes and the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.conftest import Broker, Service
from tests.project import wait_until


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker.running() as broker:
        yield broker


@pytest.fixture(scope="module")
def service(repository: Path, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A started service."""
    with Service.with_brokers(broker.address, repository, tmp_path_factory.mktemp("service")) as service:
        service.start()
        yield service


def test_a_message_is_handled_once(broker: Broker, service: Service) -> None:
    for number in range(1000, 1100):
        broker.order(number)
    wait_until(lambda: len(service.handled()) >= 100)
    assert sorted(service.handled()) == list(range(1000, 1100))


def test_a_malformed_message_is_a_dead_letter_with_its_bytes_and_the_reason(broker: Broker, service: Service) -> None:
    broken = b'{"number": "hunter2", "\xff'
    broker.send(broken, b"key", trace=b"abc")
    letter, headers = broker.dead_letter(broken)
    assert letter.key() == b"key"
    assert headers["trace"] == b"abc"
    assert headers["dead-letter-topic"] == b"orders"
    assert headers["dead-letter-partition"].isdigit()
    assert headers["dead-letter-offset"].isdigit()
    assert b"Invalid JSON" in headers["dead-letter-reason"]


def test_a_rejected_value_is_in_no_reason_and_in_no_log(broker: Broker, service: Service) -> None:
    broker.send(b'{"number": "hunter3"}')
    _, headers = broker.dead_letter(b'{"number": "hunter3"}')
    assert headers["dead-letter-reason"].startswith(b"number: Input should be a valid integer")
    assert b"hunter3" not in headers["dead-letter-reason"]
    assert "hunter3" not in service.log_file.read_text()


def test_a_message_without_a_value_is_a_dead_letter(broker: Broker, service: Service) -> None:
    broker.send(None, b"tombstone")
    letter, _ = broker.dead_letter(None)
    assert letter.key() == b"tombstone"


def test_a_failing_message_is_tried_three_times_and_the_next_ones_are_handled(broker: Broker, service: Service) -> None:
    broker.order(1, fails=9)
    broker.order(2, fails=2)
    broker.order(3)
    wait_until(lambda: {2, 3} <= set(service.handled()))
    _, headers = broker.dead_letter(b'{"number": 1, "fails": 9}')
    assert headers["dead-letter-reason"] == b"RuntimeError('no stock for 1')"
    tries = [line for line in service.log() if line["event"] == "the handler failed"]
    assert [line["attempt"] for line in tries if "no stock for 1" in line["exception"]] == [1, 2, 3]
    assert 1 not in service.handled()


def test_a_slow_message_is_a_failing_one(broker: Broker, service: Service) -> None:
    broker.order(4, seconds=60)
    broker.order(5, seconds=0.5)
    wait_until(lambda: 5 in service.handled())
    _, headers = broker.dead_letter(b'{"number": 4, "seconds": 60}')
    assert headers["dead-letter-reason"] == b"TimeoutError()"


def test_a_message_at_hand_is_finished_before_the_stop(broker: Broker, service: Service) -> None:
    broker.order(6, seconds=0.9)
    broker.producer.flush()
    service.stop()
    service.start()
    broker.order(7)
    wait_until(lambda: {6, 7} <= set(service.handled()))
    assert service.handled().count(6) == 1
