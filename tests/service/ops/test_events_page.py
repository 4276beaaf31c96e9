"""The examples of docs/events.md."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from my_service import events
from my_service.ops import broker
from my_service.ops.app import create_app
from my_service.ops.database import Session, get_sessions
from my_service.ops.settings import OpsSettings
from my_service.settings import get_settings
from sqlalchemy import func, select, text

from tests.ops import prices
from tests.ops.log_lines import LogLines
from tests.ops.outbox import Waiting, send_later
from tests.ops.sending import sending
from tests.ops.test_kafka import Cluster, Number, brokers, cluster, read, settings, tell, until

__all__ = ["brokers", "cluster"]  # fixtures


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with get_sessions(app).begin() as session:
        await session.run_sync(lambda sync: Waiting.metadata.create_all(sync.connection()))
    async with asynccontextmanager(sending)(app):
        yield


@pytest.fixture(autouse=True)
def its_own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(events, "SUBSCRIPTIONS", [])
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_an_event_is_sent_if_and_only_if_its_transaction_is_committed(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, brokers: str, own_database: OpsSettings
) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", brokers)
    monkeypatch.setattr(broker, "PUBLISH_SECONDS", 2)
    app = create_app(settings(brokers, "outbox"), lifespan)

    @app.post("/numbers/{value}")
    async def save(value: int, session: Session) -> None:
        send_later(session, "outbox", Number(value=value), key="same")
        await session.flush()
        if value % 2:
            raise HTTPException(422, "only even numbers are saved")

    @app.get("/waiting")
    async def waiting(session: Session) -> int:
        return await session.scalar(select(func.count()).select_from(Waiting)) or 0

    with TestClient(app) as client:
        assert [client.post(f"/numbers/{value}").status_code for value in (1, 2, 3, 4)] == [422, 200, 422, 200]
        asyncio.run(until(lambda: client.get("/waiting").json() == 0))
        tell(cluster, "down")
        assert client.post("/numbers/6").status_code == 200
        assert client.get("/waiting").json() == 1
        tell(cluster, "up")
        asyncio.run(until(lambda: client.get("/waiting").json() == 0))
    sent = asyncio.run(read(brokers, "outbox", 3))
    assert [json.loads(message.value)["value"] for message in sent] == [2, 4, 6]
    assert {message.key for message in sent} == {b"same"}


def test_an_event_that_is_refused_holds_up_those_after_it_until_it_is_removed(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, brokers: str, own_database: OpsSettings, log_lines: LogLines
) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", brokers)
    app = create_app(settings(brokers, "refused"), lifespan)

    @app.post("/events")
    async def save(session: Session) -> None:
        for number, topic in enumerate(("ordered", "forbidden", "ordered")):
            send_later(session, topic, Number(value=number), key="same")

    @app.post("/repair")
    async def repair(session: Session, id: int) -> None:
        await session.execute(text("DELETE FROM outbox WHERE id = :id"), {"id": id})

    @app.get("/waiting")
    async def waiting(session: Session) -> int:
        return await session.scalar(select(func.count()).select_from(Waiting)) or 0

    refused: list[int] = []

    def is_refused_again() -> bool:
        refused.extend(line["id"] for line in log_lines() if line["event"] == "an event and those after it wait")
        return len(refused) > 2

    tell(cluster, "refuse forbidden")
    with TestClient(app) as client:
        assert client.post("/events").status_code == 200
        asyncio.run(until(is_refused_again))
        assert client.get("/waiting").json() == 2
        assert client.post(f"/repair?id={refused[0]}").status_code == 200
        asyncio.run(until(lambda: client.get("/waiting").json() == 0))
    sent = asyncio.run(read(brokers, "ordered", 2))
    assert [json.loads(message.value)["value"] for message in sent] == [0, 2]


def test_no_event_is_looked_for_in_the_tests_of_a_service(log_lines: LogLines) -> None:
    app = create_app(settings(), lifespan)

    @app.post("/events")
    async def save(session: Session) -> None:
        send_later(session, "nowhere", Number(value=1))

    with TestClient(app) as client:
        assert client.post("/events").status_code == 200
        time.sleep(1.5)
    assert not [line for line in log_lines() if "wait" in line["event"]]


def test_an_event_arrives_with_its_headers_and_a_deletion_with_its_key(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, brokers: str
) -> None:
    monkeypatch.setattr(events, "SUBSCRIPTIONS", prices.SUBSCRIPTIONS)
    app = create_app(settings(brokers, "prices"))
    app.include_router(prices.router)
    with TestClient(app) as client:
        assert client.put("/prices/tea", json={"cents": 350}).status_code == 202
        asyncio.run(until(lambda: prices.PRICES == {"tea": 350}))
        assert client.delete("/prices/tea").status_code == 202
        asyncio.run(until(lambda: prices.PRICES == {}))
    sent = asyncio.run(read(brokers, "prices", 2))
    assert [dict(message.headers).get("source") for message in sent] == [b"shop", None]
