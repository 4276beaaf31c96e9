"""What PostgreSQL's errors become, and the password that AWS takes."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient
from my_service import settings
from my_service.ops import iam, migrate
from my_service.ops.app import create_app
from my_service.ops.database import Session, is_away
from my_service.ops.settings import OpsSettings
from sqlalchemy import BigInteger, exc, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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
    monkeypatch.setattr(migrate, "upgrade", seen.append)
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
        with pytest.raises(exc.InvalidRequestError, match=r"request\.app\.state\.sessions\.begin\(\)"):
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


def test_settings_refuse_to_guess_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "broker.example:9098")
    with pytest.raises(ValueError, match="DATABASE_HOST must be set"):
        OpsSettings(environment="prod")
    with pytest.raises(ValueError, match="USE_RDS_IAM needs DATABASE_TLS"):
        OpsSettings(use_rds_iam=True, database_tls=False)
    assert OpsSettings(environment="prod", database_host="x").database_tls


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
