"""Whatever is killed, frozen or away: no message is lost, the service stays healthy, and it stops in time."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.cluster import DEAD_LETTERS, Broker, Service
from tests.support.commands import wait_until
from tests.support.gunicorn import STOP_TIMEOUT

MESSAGES = 10_000
HITS = 10


def test_no_message_is_lost(broker: Broker, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    hurry = threading.Event()

    def feed() -> None:
        for number in range(MESSAGES):
            broker.order(number, seconds=0.002)  # so that a kill can fall into a handler
            if not hurry.is_set():
                time.sleep(0.01)

    def handle_more() -> None:
        before = len(service.handled())
        wait_until(lambda: len(service.handled()) >= before + 50)

    def again() -> int:
        """Return how many messages have been handled that had been handled before."""
        return sum(times - 1 for times in Counter(service.handled()).values())

    def stop() -> None:
        assert service.stop() < STOP_TIMEOUT

    def freeze() -> None:
        broker.freeze()
        time.sleep(20)
        assert service.is_healthy()
        broker.thaw()

    feeder = threading.Thread(target=feed)
    feeder.start()
    service.start()
    handle_more()
    report = []
    hits: list[tuple[str, Callable[[], None]]] = [("SIGTERM", stop), ("SIGKILL", service.kill)]
    for name, hit in hits:
        before = again()
        for _ in range(HITS):
            hit()
            service.start()
            handle_more()
        report.append(f"{again() - before} by {HITS} {name}")
    before = again()
    freeze()
    hurry.set()
    feeder.join()
    broker.producer.flush(30)
    wait_until(lambda: len(set(service.handled())) == MESSAGES)
    report.append(f"{again() - before} by a broker frozen for 20 s")
    with capsys.disabled():
        print(f"\nkafka: {MESSAGES} messages, 0 lost, handled again: {', '.join(report)}")


def test_a_service_starts_without_kafka_and_catches_up_when_it_comes(broker: Broker, service: Service) -> None:
    for number in range(100):
        broker.order(number)
    broker.producer.flush()
    broker.leave()
    service.start()
    time.sleep(3)
    assert service.is_healthy()
    assert service.handled() == []
    assert any(line["event"] == "Kafka is away" for line in service.events())
    broker.come_back()
    wait_until(lambda: sorted(service.handled()) == list(range(100)))


def test_a_service_continues_after_kafka_has_been_away(broker: Broker, service: Service) -> None:
    service.start()
    broker.order(1)
    wait_until(lambda: service.handled() == [1])
    broker.leave()
    time.sleep(5)
    assert service.is_healthy()
    broker.come_back()
    broker.order(2)
    wait_until(lambda: 2 in service.handled())


def test_a_dead_letter_that_cannot_be_written_holds_up_its_partition_alone(broker: Broker, service: Service) -> None:
    broker.refuse(DEAD_LETTERS)
    broker.send(b'{"number": "stuck"}', partition=0)
    broker.send(b'{"number": 0}', partition=0)
    service.start()
    wait_until(lambda: "no dead letter can be written" in [line["event"] for line in service.events()])
    for partition in (1, 2, 3):
        broker.send(b'{"number": %d}' % partition, partition=partition)
    wait_until(lambda: sorted(service.handled()) == [1, 2, 3])
    broker.accept(DEAD_LETTERS)
    wait_until(lambda: 0 in service.handled())
    broker.dead_letter(b'{"number": "stuck"}')


@pytest.mark.parametrize("outage", [Broker.leave, Broker.freeze])
@pytest.mark.parametrize("consuming", [False, True])
def test_a_service_stops_in_time_without_kafka(
    broker: Broker, service: Service, outage: Callable[[Broker], None], consuming: bool
) -> None:
    if consuming:
        service.start()
        broker.order(1)
        wait_until(lambda: service.handled() == [1])
    outage(broker)
    if not consuming:
        service.start()
    time.sleep(2)
    assert service.stop() < 8  # DRAIN_SECONDS is 1, and the lifespan has FLUSH, 5 seconds
    assert "stopped" in [line["event"] for line in service.events()]


def test_workers_share_the_partitions_and_take_over_those_of_a_killed_one(
    repository: Path, broker: Broker, tmp_path: Path
) -> None:
    with Service.with_brokers(broker.address, repository, tmp_path, workers=2) as service:
        service.start()
        for number in range(100):
            broker.order(number)
        wait_until(lambda: set(service.handled()) == set(range(100)))
        consumers = service.consumers()
        assert len(consumers) == 2
        os.kill(consumers.pop(), signal.SIGKILL)
        for number in range(100, 200):
            broker.order(number)
        wait_until(lambda: set(service.handled()) == set(range(200)))
