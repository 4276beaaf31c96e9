"""Against librdkafka's mock of a Kafka cluster, which speaks the real protocol."""

import asyncio
import base64
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import CorruptRecordException, MessageSizeTooLargeError, TopicAuthorizationFailedError
from aiokafka.protocol.group import JoinGroupRequest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from my_service import events
from my_service.ops import broker, consumer
from my_service.ops.app import create_app
from my_service.ops.broker import MskToken, connection
from my_service.ops.kafka import KafkaAwayError, Subscription, publish, with_kafka
from my_service.ops.logging import request_id
from my_service.ops.messages import Messages
from my_service.ops.settings import OpsSettings
from opentelemetry import trace
from pydantic import BaseModel, ValidationError, model_validator

from tests.ops.log_lines import LogLines

BROKER = Path(__file__).with_name("broker.py")
AWAY = "127.0.0.1:9"
Cluster = subprocess.Popen[str]

TRACE = 0x0AF7651916CD43DD8448EB211C80319C


class Number(BaseModel):
    value: int

    @model_validator(mode="after")
    def check(self) -> Self:
        """Fail as a validator's own code may, and not as pydantic expects it to."""
        if self.value < 0:
            raise KeyError(self.value)
        return self


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with subprocess.Popen(
        [sys.executable, BROKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        yield cluster
        cluster.terminate()


@pytest.fixture(scope="module")
def brokers(cluster: Cluster) -> str:
    """The address of the cluster."""
    assert cluster.stdout
    address = cluster.stdout.readline().strip()
    assert address, "the broker does not start"
    return address


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    app.state.draining = False
    return app


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits, and let a busy machine close what is open."""
    for module, grace in ((consumer, "HANDLER_GRACE"), (consumer, "CONSUMER_GRACE"), (broker, "PRODUCER_GRACE")):
        monkeypatch.setattr(module, grace, 30)
    for module in (broker, consumer):
        monkeypatch.setattr(module, "pause", pause)


def settings(brokers: str = "", service_name: str = "example", **more: Any) -> OpsSettings:
    """Return settings; a test that consumes has a consumer group, hence a name, of its own."""
    return OpsSettings(
        environment="test", service_name=service_name, kafka_brokers=brokers, kafka_session_timeout=6, **more
    )


def tell(cluster: Cluster, command: str) -> None:
    """Have the cluster do what broker.py knows."""
    assert cluster.stdin
    print(command, file=cluster.stdin, flush=True)


async def pause(_attempt: int) -> None:
    await asyncio.sleep(0.05)


async def nothing(*_: Any) -> None:
    """Handle a message by doing nothing."""


async def no_handler(_number: Number, _app: FastAPI) -> None:
    raise AssertionError


async def send(app: FastAPI, topic: str, value: int, partition: int) -> None:
    """Send a number to a partition."""
    await app.state.producer.client.send_and_wait(topic, b'{"value": %d}' % value, partition=partition)


async def until(is_true: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not true after 30 s")


async def read(brokers: str, topic: str, count: int) -> list[ConsumerRecord]:
    """Return that many messages of a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


def test_a_message_is_handled_or_a_dead_letter(app: FastAPI, brokers: str) -> None:
    handled: list[int] = []
    tries: list[int] = []

    async def handle(number: Number, given: FastAPI) -> None:
        assert given is app
        tries.append(number.value)
        if number.value == 2:
            raise RuntimeError("not 2")
        if number.value == 3:
            await asyncio.sleep(60)
        if number.value == 4:
            raise asyncio.CancelledError  # by what it called, not by the stop
        handled.append(number.value)

    async def run() -> None:
        subscribed = [Subscription("numbers", Number, handle)]
        async with with_kafka(None, settings(brokers, kafka_handler_timeout=1), subscribed)(app):
            for value in (1, 2, 3, 4):
                await publish(app, "numbers", Number(value=value), key="same")
            await app.state.producer.send("numbers", b'{"value": "many"}', b"same", [("trace", b"abc")])
            await app.state.producer.send("numbers", b'{"value": -6789}', b"same", [("binary", b"\xff")])
            await publish(app, "numbers", Number(value=5), key="same")
            await until(lambda: 5 in handled)
        assert handled == [1, 5]
        assert [tries.count(value) for value in (1, 2, 3, 4, 5)] == [1, 3, 3, 3, 1]

        letters = await read(brokers, "example-test-dead-letters", 5)
        assert [letter.value for letter in letters[:3]] == [b'{"value":%d}' % value for value in (2, 3, 4)]
        assert letters[3].value == b'{"value": "many"}'
        reasons = [dict(letter.headers)["dead-letter-reason"].decode() for letter in letters]
        assert reasons[:3] == ["RuntimeError('not 2')", "TimeoutError()", "CancelledError()"]
        assert reasons[3].startswith("value: Input should be a valid integer")
        assert "many" not in reasons[3]
        assert dict(letters[3].headers)["trace"] == b"abc"
        assert dict(letters[3].headers)["dead-letter-topic"] == b"numbers"
        assert reasons[4].startswith("KeyError in check, line ")
        assert "6789" not in reasons[4]
        assert dict(letters[4].headers)["binary"] == b"\xff"

    asyncio.run(run())


def test_the_drain_ends_the_consumer_after_the_message_at_hand(app: FastAPI, brokers: str) -> None:
    handled: list[int] = []

    async def handle(number: Number, _app: FastAPI) -> None:
        app.state.draining = True
        await asyncio.sleep(0.2)
        handled.append(number.value)

    async def run() -> None:
        subscribed = [Subscription("drain", Number, handle)]
        async with with_kafka(None, settings(brokers, "drain"), subscribed)(app):
            for value in (1, 2):
                await publish(app, "drain", Number(value=value), key="same")
            await until(lambda: handled == [1])
            await asyncio.sleep(0.5)
        assert handled == [1]
        app.state.draining = False
        async with with_kafka(None, settings(brokers, "drain"), subscribed)(app):
            await until(lambda: handled == [1, 2])

    asyncio.run(run())


def test_the_stop_lets_a_consumer_leave_its_group(
    app: FastAPI, cluster: Cluster, brokers: str, log_lines: LogLines
) -> None:
    async def handle(_number: Number, _app: FastAPI) -> None:
        app.state.draining = True

    async def run() -> None:
        async with with_kafka(None, settings(brokers, "leave"), [Subscription("leave", Number, handle)])(app):
            await publish(app, "leave", Number(value=1))
            await until(lambda: app.state.draining)
            tell(cluster, "slow 1000")
            await asyncio.sleep(1.75)  # now the drain is noticed, the offset is committed, and the group is being left
        tell(cluster, "slow 0")
        assert "LeaveGroup request succeeded" in [line["event"] for line in log_lines()]

    asyncio.run(run())


def test_a_consumer_that_fails_starts_again_and_waits_anew_after_a_success(
    app: FastAPI, brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    handled: list[int] = []
    getmany = AIOKafkaConsumer.getmany
    failing = True

    async def fail(self: AIOKafkaConsumer, *partitions: TopicPartition, **options: Any) -> Any:
        if failing:
            raise RuntimeError("lost")
        return await getmany(self, *partitions, **options)

    async def note(attempt: int) -> None:
        nonlocal failing
        attempts.append(attempt)
        failing = attempt < 2
        await pause(attempt)

    async def handle(number: Number, _app: FastAPI) -> None:
        nonlocal failing
        handled.append(number.value)
        failing = True

    async def run() -> None:
        monkeypatch.setattr(AIOKafkaConsumer, "getmany", fail)
        monkeypatch.setattr(consumer, "pause", note)
        async with with_kafka(None, settings(brokers, "anew"), [Subscription("anew", Number, handle)])(app):
            await publish(app, "anew", Number(value=1))
            await until(lambda: len(attempts) > 3)
        assert attempts[:4] == [0, 1, 2, 0]

    asyncio.run(run())


def test_a_dead_letter_that_cannot_be_written_holds_up_its_partition_alone(app: FastAPI, brokers: str) -> None:
    handled: list[int] = []
    refused = 0

    async def handle(number: Number, _app: FastAPI) -> None:
        handled.append(number.value)

    async def run() -> None:
        async with with_kafka(None, settings(brokers, "stuck"), [Subscription("stuck", Number, handle)])(app):
            write = app.state.producer.send

            async def refuse(topic: str, *message: Any) -> None:
                nonlocal refused
                refused += 1
                raise TopicAuthorizationFailedError(topic)

            app.state.producer.send = refuse
            await send(app, "stuck", -1, 0)
            await until(lambda: refused > 0)
            for value, partition in ((10, 0), (11, 1), (12, 2)):
                await send(app, "stuck", value, partition)
            await until(lambda: len(handled) == 2)
            assert sorted(handled) == [11, 12]
            app.state.producer.send = write
            await until(lambda: 10 in handled)
        (letter,) = await read(brokers, "stuck-test-dead-letters", 1)
        assert letter.value == b'{"value": -1}'

    asyncio.run(run())


def test_a_message_whose_dead_letter_cannot_be_written_comes_again(app: FastAPI, brokers: str) -> None:
    async def run() -> None:
        refused = asyncio.Event()
        subscribed = [Subscription("unwritten", Number, no_handler)]
        async with with_kafka(None, settings(brokers, "unwritten"), subscribed)(app):

            async def refuse(topic: str, *message: Any) -> None:
                refused.set()
                raise TopicAuthorizationFailedError(topic)

            app.state.producer.send = refuse
            await send(app, "unwritten", -1, 0)
            await refused.wait()
        async with with_kafka(None, settings(brokers, "unwritten"), subscribed)(app):
            (letter,) = await read(brokers, "unwritten-test-dead-letters", 1)
        assert letter.value == b'{"value": -1}'

    asyncio.run(run())


def test_a_dead_letter_that_cannot_be_written_holds_up_no_rebalance(
    app: FastAPI, brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        waiting = asyncio.Event()

        class Refusing:
            async def send(self, topic: str, *message: Any) -> None:
                raise TopicAuthorizationFailedError(topic)

        async def wait(_attempt: int) -> None:
            waiting.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(consumer, "pause", wait)
        member = consumer.Consumer(app, settings(brokers, "moved"), [Subscription("moved", Number, no_handler)])
        running = asyncio.create_task(member.run())
        producer = app.state.producer = broker.Producer(settings(brokers, "moved"))
        await producer.connecting
        await send(app, "moved", -1, 0)
        app.state.producer = Refusing()
        await waiting.wait()
        async with asyncio.timeout(20):
            await member.on_partitions_revoked(set())
        await member.stop(running)
        await producer.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("handler", "rebalance"), [(30, 60), (600, 630)])
def test_a_rebalance_waits_for_the_longest_handler(
    app: FastAPI, brokers: str, monkeypatch: pytest.MonkeyPatch, handler: int, rebalance: int
) -> None:
    name = f"patient{handler}"
    asked: list[int] = []
    build = JoinGroupRequest.build

    def note(self: JoinGroupRequest, version: Any) -> Any:
        sent = build(self, version)
        asked.append(sent.rebalance_timeout)
        return sent

    async def run() -> None:
        monkeypatch.setattr(JoinGroupRequest, "build", note)
        subscribed = [Subscription(name, Number, nothing)]
        async with with_kafka(None, settings(brokers, name, kafka_handler_timeout=handler), subscribed)(app):
            await until(lambda: bool(asked))

    asyncio.run(run())
    assert {*asked} == {rebalance * 1000}


def test_a_partition_that_cannot_be_read_holds_up_no_other(
    app: FastAPI, brokers: str, log_lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[int] = []
    getone = AIOKafkaConsumer.getone
    damaged = True

    async def fail(self: AIOKafkaConsumer, *partitions: TopicPartition) -> Any:
        if damaged and partitions == (TopicPartition("damaged", 0),):
            raise CorruptRecordException
        return await getone(self, *partitions)

    async def handle(number: Number, _app: FastAPI) -> None:
        handled.append(number.value)

    async def run() -> None:
        nonlocal damaged
        monkeypatch.setattr(AIOKafkaConsumer, "getone", fail)
        async with with_kafka(None, settings(brokers, "damaged"), [Subscription("damaged", Number, handle)])(app):
            for partition in (1, 2, 0):
                await send(app, "damaged", partition, partition)
            await until(lambda: len(handled) == 2)
            assert sorted(handled) == [1, 2]
            damaged = False
            await until(lambda: 0 in handled)

    asyncio.run(run())
    failures = {line["event"] for line in log_lines() if line["level"] == "error"}
    assert failures == {"a partition cannot be read"}  # and nothing has started again


@pytest.mark.parametrize(("began", "is_handled"), [(0, True), (-100, False)])
def test_a_message_in_progress_gets_the_time_that_no_request_needs(
    app: FastAPI, brokers: str, monkeypatch: pytest.MonkeyPatch, began: float, is_handled: bool
) -> None:
    name = f"at-hand{began}"
    handled: list[int] = []
    monkeypatch.setattr(consumer, "HANDLER_GRACE", 0.1)

    async def handle(number: Number, _app: FastAPI) -> None:
        app.state.drain_began = time.monotonic() + began
        app.state.draining = True
        await asyncio.sleep(2)
        handled.append(number.value)

    async def run() -> None:
        async with with_kafka(None, settings(brokers, name), [Subscription(name, Number, handle)])(app):
            await publish(app, name, Number(value=1))
            await until(lambda: app.state.draining)
        assert handled == ([1] if is_handled else [])

    asyncio.run(run())


def test_a_worker_whose_consumer_has_ended_is_replaced(
    app: FastAPI, brokers: str, log_lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminated: list[int] = []

    async def cancelled(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        before = signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
        try:
            monkeypatch.setattr(AIOKafkaConsumer, "getmany", cancelled)
            subscribed = [Subscription("ended", Number, lambda *_: asyncio.sleep(0))]
            async with with_kafka(None, settings(brokers, "ended"), subscribed)(app):
                await until(lambda: terminated == [signal.SIGTERM])
        finally:
            signal.signal(signal.SIGTERM, before)

    asyncio.run(run())
    (line,) = [line for line in log_lines() if line["level"] == "critical"]
    assert line["event"] == "the consumer has ended, and the worker is replaced"


def test_the_request_id_and_the_trace_travel_with_messages(app: FastAPI, brokers: str) -> None:
    seen: list[tuple[Any, int]] = []

    async def handle(number: Number, _app: FastAPI) -> None:
        seen.append((structlog.contextvars.get_contextvars().get("request_id"), trace_id()))
        if number.value == 1:
            await publish(app, "travel", Number(value=2), key="same")
        structlog.contextvars.bind_contextvars(request_id="bound")

    def trace_id() -> int:
        return trace.get_current_span().get_span_context().trace_id

    async def run() -> None:
        subscribed = [Subscription("travel", Number, handle)]
        async with with_kafka(None, settings(brokers, "travel"), subscribed)(app):
            span = trace.NonRecordingSpan(trace.SpanContext(TRACE, 1, is_remote=False))
            request_id.set("abc")
            with trace.use_span(span):
                await publish(app, "travel", Number(value=1), key="same")
            await until(lambda: len(seen) == 2)
            # Nothing could have sent this id to the log as a request.
            await app.state.producer.send("travel", b'{"value": 3}', b"same", [("x-request-id", b'a"b\n')])
            await until(lambda: len(seen) == 3)
        assert seen == [("abc", TRACE), ("abc", TRACE), (None, 0)]

    asyncio.run(run())


def test_a_message_too_large_for_a_dead_letter_leaves_one_without_its_value(app: FastAPI) -> None:
    sent: list[bytes | None] = []

    class Full:
        async def send(self, topic: str, value: bytes | None, key: bytes | None, headers: Any) -> None:
            sent.append(value)
            if len(sent) == 1:
                raise TimeoutError
            if value:
                raise MessageSizeTooLargeError

    async def run() -> None:
        app.state.producer = Full()
        subscription = Subscription("large", Number, lambda *_: asyncio.sleep(0))
        record = ConsumerRecord("large", 0, 7, 0, 0, None, b"large", None, 0, 5, ())
        await Messages(app, [subscription], 30, "dead-letters").handle(record, pause)

    asyncio.run(run())
    assert sent == [b"large", b"large", None]


def test_a_handler_with_a_third_parameter_gets_the_message_itself(app: FastAPI, brokers: str) -> None:
    seen: list[ConsumerRecord] = []

    async def handle(number: Number, _app: FastAPI, message: ConsumerRecord, times: int = 1) -> None:
        seen.extend(times * [message])

    async def run() -> None:
        before = time.time() * 1000
        async with with_kafka(None, settings(brokers, "third"), [Subscription("third", Number, handle)])(app):
            await app.state.producer.send("third", b'{"value": 1}', b"key", [("name", b"Ada")])
            await until(lambda: bool(seen))
        assert (seen[0].key, dict(seen[0].headers)["name"]) == (b"key", b"Ada")
        assert before - 1000 <= seen[0].timestamp <= time.time() * 1000 + 1000

    asyncio.run(run())


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_a_message_without_a_value_is_handled_or_skipped(app: FastAPI, is_asked_for: bool, log_lines: LogLines) -> None:
    gone: list[bytes] = []

    async def delete(message: ConsumerRecord, given: FastAPI) -> None:
        assert given is app
        gone.append(message.key)

    subscription = Subscription("gone", Number, no_handler, delete if is_asked_for else None)
    record = ConsumerRecord("gone", 0, 7, 0, 0, b"Ada", None, None, 0, 0, ())
    asyncio.run(Messages(app, [subscription], 30, "dead-letters").handle(record, pause))
    assert gone == ([b"Ada"] if is_asked_for else [])
    (line,) = log_lines()
    assert line["dead_letter"] is None


def test_two_handlers_of_one_topic_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        events, "SUBSCRIPTIONS", [Subscription("two", Number, nothing), Subscription("two", Number, nothing)]
    )
    with pytest.raises(ValueError, match="two of SUBSCRIPTIONS have the topic two"):
        create_app(OpsSettings(environment="test"))


def test_who_cannot_publish_is_answered_with_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(events, "SUBSCRIPTIONS", [])
    app = create_app(settings(AWAY))

    @app.post("/numbers")
    async def number() -> None:
        await publish(app, "numbers", Number(value=1))

    with TestClient(app) as client:
        refused = client.post("/numbers")
    assert refused.status_code == 503
    assert refused.json()["detail"] == "Kafka is not available."
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("tls", [True, False])
def test_any_cluster_is_logged_in_to(tls: bool) -> None:
    chosen = connection(settings("kafka:9092", kafka_tls=tls, kafka_user="Ada", kafka_password="secret"))
    assert chosen["security_protocol"] == ("SASL_SSL" if tls else "SASL_PLAINTEXT")
    assert (chosen["sasl_mechanism"], chosen["sasl_plain_username"]) == ("SCRAM-SHA-512", "Ada")
    assert ("ssl_context" in chosen) == tls
    assert connection(settings("kafka:9092", kafka_tls=tls))["security_protocol"] == ("SSL" if tls else "PLAINTEXT")
    with pytest.raises(ValidationError, match="two ways to log in"):
        settings("kafka:9092", kafka_user="Ada", use_msk_iam=True)


def test_messages_of_failed_transactions_can_be_left_out(monkeypatch: pytest.MonkeyPatch, app: FastAPI) -> None:
    made: list[Any] = []

    class Client(AIOKafkaConsumer):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            made.append(options["isolation_level"])
            raise TimeoutError

    async def run() -> None:
        monkeypatch.setattr(consumer, "AIOKafkaConsumer", Client)
        for level in ("read_committed", "read_uncommitted"):
            chosen = settings(AWAY, kafka_isolation_level=level)
            async with with_kafka(None, chosen, [Subscription("levels", Number, nothing)])(app):
                await until(lambda level=level: level in made)  # type: ignore[misc]

    asyncio.run(run())
    assert set(made) == {"read_committed", "read_uncommitted"}


def test_a_service_starts_and_stops_without_kafka(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "CONNECT_SECONDS", 0.2)

    async def handle(number: Number, _app: FastAPI) -> None:
        raise AssertionError

    async def run() -> None:
        started = time.monotonic()
        async with with_kafka(None, settings(AWAY), [Subscription("numbers", Number, handle)])(app):
            assert time.monotonic() - started < 1
            with pytest.raises(TimeoutError):
                await publish(app, "numbers", Number(value=1))
        assert time.monotonic() - started < 5

    asyncio.run(run())


def test_nothing_is_published_where_no_kafka_is_set(app: FastAPI) -> None:
    async def run() -> None:
        async with with_kafka(None, settings(), [])(app):
            with pytest.raises(RuntimeError, match="KAFKA_BROKERS is not set"):
                await publish(app, "numbers", Number(value=1))

    asyncio.run(run())


def test_kafka_brokers_must_be_set_outside_development() -> None:
    with pytest.raises(ValidationError, match="KAFKA_BROKERS must be set"):
        OpsSettings(environment="prod", kafka_brokers="")
    with pytest.raises(ValidationError):
        OpsSettings(kafka_brokers="kafka")


def test_msk_is_logged_in_to_by_role_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    threads = []
    sign = MskToken.sign

    def watched(self: MskToken) -> str:
        threads.append(threading.current_thread())
        return sign(self)

    monkeypatch.setattr(MskToken, "sign", watched)
    options = connection(settings("b-1.example:9098", use_msk_iam=True, aws_region="eu-west-1"))
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "OAUTHBEARER")
    token = asyncio.run(options["sasl_oauth_token_provider"].token())
    url = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    assert url.startswith("https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect")
    assert "AKIAEXAMPLE" in url
    assert threads != [threading.main_thread()]
    assert len(threads) == 1


def test_credentials_that_are_away_for_a_while_end_no_client(
    app: FastAPI, brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[int] = []

    def has_credentials(has: bool) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE") if has else monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    async def ask_for_a_token(self: AIOKafkaConnection) -> None:
        await self.authenticator_oauth().step(None)  # the cluster knows no login

    def without_tls(chosen: OpsSettings) -> dict[str, Any]:
        return connection(chosen) | {"security_protocol": "SASL_PLAINTEXT", "ssl_context": None}

    async def handle(number: Number, _app: FastAPI) -> None:
        handled.append(number.value)

    async def run() -> None:
        subscribed = [Subscription("blip", Number, handle)]
        async with with_kafka(None, settings(brokers, "blip", use_msk_iam=True), subscribed)(app):
            await publish(app, "blip", Number(value=1))
            await until(lambda: handled == [1])
            has_credentials(False)
            for each in app.state.producer.client.client._conns.values():
                each.close()  # as when it has been idle
            monkeypatch.setattr(broker, "PUBLISH_SECONDS", 2)
            with pytest.raises(KafkaAwayError):
                await publish(app, "blip", Number(value=2))
            has_credentials(True)
            monkeypatch.setattr(broker, "PUBLISH_SECONDS", 30)
            await publish(app, "blip", Number(value=3))
            await until(lambda: 3 in handled)

    has_credentials(True)
    monkeypatch.setattr(AIOKafkaConnection, "_do_sasl_handshake", ask_for_a_token)
    for module in (broker, consumer):
        monkeypatch.setattr(module, "connection", without_tls)
    asyncio.run(run())
