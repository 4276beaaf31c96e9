"""What becomes of a message: handled, tried again, or a dead letter with its bytes and the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.kafka.cluster import Broker, Service
from tests.support.commands import wait_until


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


def test_a_message_is_handled_exactly_once_without_failures(broker: Broker, service: Service) -> None:
    for number in range(1000, 1100):
        broker.order(number)
    wait_until(lambda: len(service.handled()) >= 100)
    assert sorted(service.handled()) == list(range(1000, 1100))


def test_a_malformed_message_is_a_dead_letter_with_its_bytes_and_the_reason(broker: Broker, service: Service) -> None:
    broken = b'{"number": "hunter2", "\xff'
    broker.send(broken, b"key", header=("trace", b"abc"))
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


def test_whatever_a_validator_raises_makes_a_dead_letter(broker: Broker, service: Service) -> None:
    broker.send(b'{"number": -98765432109}')
    _, headers = broker.dead_letter(b'{"number": -98765432109}')
    assert headers["dead-letter-reason"].startswith(b"KeyError in check, line ")
    assert "98765432109" not in service.log_file.read_text()


def test_the_request_id_of_a_message_is_in_the_log(broker: Broker, service: Service) -> None:
    broker.send(b'{"number": 3000}', header=("x-request-id", b"abc-3000"))
    wait_until(
        lambda: any(line.get("request_id") == "abc-3000" for line in service.events() if line["event"] == "message")
    )


def test_a_message_without_a_value_goes_to_its_own_handler(broker: Broker, service: Service) -> None:
    broker.send(None, b"2999")
    wait_until(lambda: 2999 in service.handled())


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_a_compressed_topic_is_read(broker: Broker, service: Service, codec: str) -> None:
    first = 2000 + 100 * ["gzip", "lz4", "snappy", "zstd"].index(codec)
    producer = Producer({"bootstrap.servers": broker.address, "compression.type": codec, "linger.ms": 100})
    for number in range(first, first + 20):
        producer.produce("orders", b'{"number": %d, "seconds": 0.0000000000000000000000000}' % number, b"same")
    producer.flush()
    wait_until(lambda: {*range(first, first + 20)} <= {*service.handled()})


def test_a_failing_message_is_tried_three_times_and_the_next_ones_are_handled(broker: Broker, service: Service) -> None:
    broker.order(1, fails=9)
    broker.order(2, fails=2)
    broker.order(3)
    wait_until(lambda: {2, 3} <= set(service.handled()))
    _, headers = broker.dead_letter(b'{"number": 1, "fails": 9}')
    assert headers["dead-letter-reason"] == b"RuntimeError('no stock for 1')"
    tries = [line for line in service.events() if line["event"] == "the handler failed"]
    assert [line["attempt"] for line in tries if "no stock for 1" in line["exception"]] == [1, 2, 3]
    assert 1 not in service.handled()


def test_a_message_that_exceeds_the_handler_timeout_fails(broker: Broker, service: Service) -> None:
    broker.order(4, seconds=60)
    broker.order(5, seconds=0.5)
    wait_until(lambda: 5 in service.handled())
    _, headers = broker.dead_letter(b'{"number": 4, "seconds": 60}')
    assert headers["dead-letter-reason"] == b"TimeoutError()"


def test_a_worker_whose_consumer_has_ended_is_replaced(broker: Broker, service: Service) -> None:
    broker.order(3999)
    wait_until(lambda: 3999 in service.handled())
    before = service.consumers()
    broker.order(4000, ends=True)
    wait_until(lambda: any(line["level"] == "critical" for line in service.events()))
    broker.order(4001)
    wait_until(lambda: 4001 in service.handled())
    assert len(service.consumers() - before) == 1


def test_a_message_in_progress_is_finished_before_the_stop(broker: Broker, service: Service) -> None:
    service.stop()
    service.handler_timeout = 30
    service.start()
    broker.order(6, seconds=6)  # longer than DRAIN_SECONDS and what is left for the lifespan
    broker.producer.flush()
    wait_until(lambda: any(line.get("number") == 6 for line in service.events()))
    service.stop()
    assert 6 in service.handled()
    service.start()
    broker.order(7)
    wait_until(lambda: {6, 7} <= set(service.handled()))
    assert service.handled().count(6) == 1
