"""What PostgreSQL's errors become, and the password that AWS takes."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import psycopg
import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.testclient import TestClient
from my_service import settings
from my_service.ops import iam, migrate
from my_service.ops.app import create_app
from my_service.ops.database import Session, Sessions, create_engine, get_sessions, is_away
from my_service.ops.settings import OpsSettings
from sqlalchemy import BigInteger, Executable, ForeignKey, Insert, Text, exc, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.ops.log_lines import LogLines

SECRET = "hunter" + "2"  # tracebacks show the source


def failed(error: psycopg.Error, kind: type[exc.DBAPIError] = exc.DBAPIError, lost: bool = False) -> exc.DBAPIError:
    """Return SQLAlchemy's error for one of psycopg's."""
    return kind("SELECT 1", {}, error, connection_invalidated=lost)


@pytest.mark.parametrize(
    "error",
    [
        exc.TimeoutError("QueuePool limit of size 3 overflow 0 reached"),
        failed(psycopg.OperationalError("connection refused"), exc.OperationalError),
        failed(psycopg.errors.AdminShutdown("57P01")),
        failed(psycopg.errors.TooManyConnections("53300")),
        failed(psycopg.errors.QueryCanceled("57014")),
        failed(psycopg.errors.DeadlockDetected("40P01")),
        failed(psycopg.errors.ReadOnlySqlTransaction("25006"), lost=True),
    ],
)
def test_a_database_that_cannot_answer_is_away(error: exc.SQLAlchemyError) -> None:
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        exc.NoResultFound("No row was found"),
        failed(psycopg.errors.UniqueViolation("23505"), exc.IntegrityError),
        failed(psycopg.errors.UndefinedTable("42P01"), exc.ProgrammingError),
        failed(psycopg.errors.NumericValueOutOfRange("22003"), exc.DataError),
    ],
)
def test_a_wrong_statement_is_an_error_of_the_service(error: exc.SQLAlchemyError) -> None:
    assert not is_away(error)


@pytest.fixture
def app() -> FastAPI:
    """An application whose statements fail."""
    app = create_app(OpsSettings(environment="test"))

    @app.get("/wrong")
    async def wrong(session: Session) -> None:
        await session.execute(text("SELECT * FROM missing WHERE secret = :secret"), {"secret": SECRET})

    @app.get("/terminated")
    async def terminated(session: Session) -> None:
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    return app


def test_a_migration_needs_no_setting_of_the_services_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where a setting that a new version requires is not there yet."""

    class Demanding(OpsSettings):
        payments_url: str

    seen: list[OpsSettings] = []
    monkeypatch.setattr(settings, "Settings", Demanding)
    settings.get_settings.cache_clear()
    monkeypatch.setattr(migrate, "upgrade", lambda given, **_: seen.append(given))
    monkeypatch.setenv("MAX_TASKS", "77")
    assert migrate.main([]) == 0
    assert [each.max_tasks for each in seen] == [77]


def test_a_wrong_statement_is_500_and_its_values_are_not_logged(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/wrong").status_code == 500
    assert SECRET not in capsys.readouterr().out


def test_a_lost_connection_is_503_in_the_shape_of_all_errors(app: FastAPI) -> None:
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/terminated")
    assert response.status_code == 503
    assert response.json().keys() == {"detail", "request_id"}
    assert response.headers["retry-after"] == "1"


class Row(DeclarativeBase):
    """A table for what is never saved."""


class Thing(Row):
    """One of its rows."""

    __tablename__ = "things"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True, server_default="nobody")
    part_of: Mapped[int | None] = mapped_column(ForeignKey("things.id"))


async def add(session: AsyncSession) -> None:
    session.add(Thing(id=1))


@pytest.mark.parametrize(
    "use",
    [
        add,
        lambda session: session.execute(text("SELECT 1")),
        lambda session: session.scalar(text("SELECT 1")),
        lambda session: session.scalars(text("SELECT 1")),
        lambda session: session.stream(text("SELECT 1")),
        lambda session: session.get(Thing, 1),
        lambda session: session.commit(),
        lambda session: session.connection(),
        lambda session: session.begin().start(),
        lambda session: session.run_sync(lambda sync: sync.add(Thing(id=1))),
    ],
)
@pytest.mark.parametrize("of_the_route", [True, False])
def test_a_session_that_has_ended_says_what_to_use(
    app: FastAPI, use: Callable[[AsyncSession], Awaitable[object]], of_the_route: bool
) -> None:
    async def work(session: AsyncSession) -> None:
        with pytest.raises(exc.InvalidRequestError, match="take `sessions: Sessions`"):
            await use(session)
        ended.append(session)

    @app.post("/later")
    async def later(session: Session, tasks: BackgroundTasks) -> None:
        if not of_the_route:
            async with app.state.sessions.begin() as session:
                pass
        tasks.add_task(work, session)

    ended: list[AsyncSession] = []
    with TestClient(app) as client:
        assert client.post("/later").status_code == 200
    assert len(ended) == 1


@pytest.fixture
def things() -> Iterator[TestClient]:
    """A client of an application that saves things."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with get_sessions(app).begin() as session:
            await session.run_sync(lambda sync: Row.metadata.create_all(sync.connection()))
        yield

    app = create_app(OpsSettings(environment="test"), lifespan)

    @app.post("/things/{how}")
    async def save(how: str, id: int, name: str, session: Session, part_of: int | None = None) -> str:
        thing = Thing(id=id, name=name, part_of=part_of)
        if how == "nested":
            try:
                async with session.begin_nested():
                    session.add(thing)
            except exc.IntegrityError:
                session.add(Thing(id=id + 1))
            return "nested"
        if how == "unnamed":
            await session.execute(text("INSERT INTO things VALUES (:id, NULL)"), {"id": id})
        session.add(thing)
        if how == "begun":
            await session.commit()
            async with session.begin():
                await session.refresh(thing)
        elif how == "committed":
            await session.commit()
            await session.refresh(thing)
        elif how == "caught":
            with suppress(exc.IntegrityError):
                await session.flush()
        return thing.name

    @app.get("/things")
    async def count(session: Session) -> int:
        return await session.scalar(select(func.count()).select_from(Thing)) or 0

    @app.websocket("/things")
    async def talk(websocket: WebSocket, session: Session, sessions: Sessions) -> None:
        await websocket.accept()
        async with sessions.begin() as own:
            await websocket.send_json(await own.scalar(select(func.count()).select_from(Thing)))
        await websocket.send_json(await session.scalar(select(func.count()).select_from(Thing)))
        await websocket.close()

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("how", ["plain", "committed", "begun", "nested"])
def test_a_route_may_commit_and_go_on(things: TestClient, how: str) -> None:
    assert things.post(f"/things/{how}?id=1&name=Ada").status_code == 200
    assert things.get("/things").json() == 1


@pytest.mark.parametrize("how", ["plain", "committed", "caught"])
@pytest.mark.parametrize("conflict", ["id=2&name=Ada", "id=1&name=Grace", "id=2&name=Grace&part_of=9"])
def test_a_conflict_with_saved_data_is_409_and_repeats_no_value(
    things: TestClient, log_lines: LogLines, how: str, conflict: str
) -> None:
    assert things.post("/things/plain?id=1&name=Ada").status_code == 200
    log_lines()
    refused = things.post(f"/things/{how}?{conflict}")
    assert refused.status_code == 409
    assert refused.json().keys() == {"detail", "request_id"}
    assert refused.json()["detail"] == "The request conflicts with data that is saved."
    assert things.get("/things").json() == 1
    (warning,) = [line for line in log_lines() if line["level"] == "warning"]
    assert "Ada" not in str(warning)
    assert how == "caught" or warning["constraint"].startswith("things_")


def test_a_row_that_breaks_another_constraint_is_not_in_the_log(things: TestClient, log_lines: LogLines) -> None:
    log_lines()
    assert things.post("/things/unnamed?id=7321&name=Ada").status_code == 500
    said = str(log_lines())
    assert 'null value in column "name"' in said
    assert "7321" not in said


def test_after_a_conflict_in_a_savepoint_the_route_goes_on(things: TestClient) -> None:
    assert things.post("/things/plain?id=1&name=Ada").status_code == 200
    assert things.post("/things/nested?id=2&name=Ada").status_code == 200
    assert things.get("/things").json() == 2


def test_a_websocket_has_a_session_and_makes_others(things: TestClient) -> None:
    with things.websocket_connect("/things") as socket:
        assert [socket.receive_json(), socket.receive_json()] == [0, 0]


@pytest.mark.parametrize(
    "statement",
    [
        insert(Thing),
        update(Thing),
        text("UPDATE things SET name = :name WHERE id = :id"),
    ],
)
def test_the_first_statement_of_a_transaction_may_take_many_rows(
    own_database: OpsSettings, statement: Executable
) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with get_sessions(app).begin() as session:
            await session.run_sync(lambda sync: Row.metadata.create_all(sync.connection()))
            if not isinstance(statement, Insert):
                session.add_all([Thing(id=1, name="1"), Thing(id=2, name="2")])
        yield

    app = create_app(OpsSettings(environment="test"), lifespan)

    @app.post("/things")
    async def save(names: list[str], session: Session) -> list[str]:
        await session.execute(statement, [{"id": number, "name": name} for number, name in enumerate(names, 1)])
        limits = ("statement_timeout", "idle_in_transaction_session_timeout", "timezone")
        return [await session.scalar(text(f"SELECT current_setting('{limit}')")) for limit in limits]

    @app.get("/things")
    async def names(session: Session) -> list[str]:
        return [*await session.scalars(select(Thing.name).order_by(Thing.id))]

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/things", json=["Ada", "Ada"]).status_code == 409
        saved = client.post("/things", json=["Ada", "Grace"])
        assert (saved.status_code, saved.json()) == (200, ["5s", "1min", "UTC"])
        assert client.get("/things").json() == ["Ada", "Grace"]


def test_an_application_that_has_not_been_started_says_so(app: FastAPI) -> None:
    with pytest.raises(RuntimeError, match=r"app\.router\.lifespan_context\(app\)"):
        TestClient(app).get("/wrong")


def test_httpx_without_lifespan_has_the_database_by_the_documented_way(app: FastAPI) -> None:
    async def run() -> None:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://t") as client,
        ):
            assert (await client.get("/terminated")).status_code == 503

    asyncio.run(run())


def test_a_listener_waits_longer_than_a_statement_may_take() -> None:
    async def run() -> None:
        engine = create_engine(OpsSettings(database_statement_timeout=1))
        async with engine.connect() as connection, engine.connect() as other:
            for each in (connection, other):
                await each.execution_options(isolation_level="AUTOCOMMIT")
            listener: Any = (await connection.get_raw_connection()).driver_connection
            await listener.execute("LISTEN things")
            later = asyncio.create_task(asyncio.sleep(3, other))
            later.add_done_callback(lambda _: notified.set())
            notices = listener.notifies(stop_after=1)
            waiting = asyncio.create_task(anext(notices))
            await notified.wait()
            await other.execute(text("NOTIFY things, 'one'"))
            assert (await waiting).payload == "one"
            await notices.aclose()
        await engine.dispose()

    notified = asyncio.Event()
    asyncio.run(run())


def test_settings_refuse_to_guess_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "broker.example:9098")
    monkeypatch.delenv("DATABASE_HOST")  # that of the tests
    monkeypatch.delenv("DATABASE_TLS", raising=False)
    with pytest.raises(ValueError, match="DATABASE_HOST must be set"):
        OpsSettings(environment="prod")
    with pytest.raises(ValueError, match="DATABASE_LOG_SQL shows secrets"):
        OpsSettings(environment="prod", database_host="database", database_log_sql=True)
    with pytest.raises(ValueError, match="USE_RDS_IAM needs DATABASE_TLS"):
        OpsSettings(use_rds_iam=True, database_tls=False)
    assert OpsSettings(environment="prod", database_host="x").database_tls


def test_credentials_are_asked_for_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    role = {"AccessKeyId": "AKIDEXAMPLE", "Expiration": "2999-01-01T00:00:00Z"}

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/role" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(role).encode())

        def log_message(self, *_: object) -> None:
            pass

    for name in ("AWS_ACCESS_KEY_ID", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(iam, "_credentials", {})
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setattr(iam, "CREDENTIALS_HOST", f"http://127.0.0.1:{server.server_port}")
        try:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/none")
            with pytest.raises(OSError, match="404"):
                iam.credentials()
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/role")
            assert iam.credentials() == role
        finally:
            server.shutdown()


@pytest.mark.parametrize("session", [None, "a token/with+signs="])
def test_the_token_is_the_one_that_botocore_makes(session: str | None) -> None:
    auth = pytest.importorskip("botocore.auth")
    awsrequest = pytest.importorskip("botocore.awsrequest")
    credentials = pytest.importorskip("botocore.credentials")
    role: dict[str, Any] = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "wJalr/XUtn", "Token": session}
    host = "db.example.eu-central-1.rds.amazonaws.com:5432"
    signer = auth.SigV4QueryAuth(credentials.Credentials(*role.values()), "rds-db", "eu-central-1", expires=900)
    request = awsrequest.AWSRequest("GET", f"https://{host}/?Action=connect&DBUser=my_service")
    signer.add_auth(request)
    now = datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signed = iam.sign(host, "my_service", "eu-central-1", role, now)
    assert signed.startswith(f"{host}/?")
    assert parse_qs(urlsplit(f"https://{signed}").query) == parse_qs(urlsplit(request.url).query)
