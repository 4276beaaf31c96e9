"""The settings that every service has."""

import json
from typing import Any

import pytest
from my_service.ops import settings
from my_service.ops.settings import STOP_TIMEOUT, OpsSettings
from pydantic import SecretStr

KNOWN = {"database_host": "database", "kafka_brokers": "kafka:9092"}
NEEDED: dict[str, Any] = {name: value for name, value in KNOWN.items() if name in OpsSettings.model_fields}


def test_the_parts_of_a_stop_end_before_gunicorn_and_ecs_kill() -> None:
    own = OpsSettings()
    kafka = [getattr(settings, name, 0) for name in ("HANDLER_GRACE", "CONSUMER_GRACE", "PRODUCER_GRACE")]
    parts = [settings.ORDER, own.drain_seconds, own.in_flight_seconds, settings.ROLLBACK, *kafka]
    assert sum(parts) <= own.graceful_timeout < STOP_TIMEOUT


@pytest.mark.parametrize("environment", ["local", "uat", "qa", "pr-12", "a" * 16])
def test_an_environment_has_any_name(environment: str) -> None:
    assert OpsSettings(environment=environment, **NEEDED).environment == environment


@pytest.mark.parametrize("level", ["info", "Info", "INFO"])
def test_the_log_level_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    assert OpsSettings().log_level == "INFO"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "Staging"),
        ("ENVIRONMENT", "0"),
        ("ENVIRONMENT", "a" * 17),
        ("LOG_LEVEL", "loud"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "65"),
        ("TRUSTED_HOPS", "-1"),
        ("LIMIT_CONCURRENCY", "0"),
        ("LIMIT_CONCURRENCY", "10001"),
        ("MAX_BODY_SIZE", "-1"),
        ("BODY_MEMORY", "-1"),
        ("THREADS", "0"),
        ("THREADS", "1001"),
        ("KEEPALIVE", "0"),
        ("GRACEFUL_TIMEOUT", "30"),
        ("DRAIN_SECONDS", "25"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="1"):
        OpsSettings.load()
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert name in json.loads(output)["reason"].upper()


def test_an_invalid_json_setting_ends_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Settings(OpsSettings):
        origins: list[str]

    monkeypatch.setenv("ORIGINS", "hunter2")
    with pytest.raises(SystemExit):
        Settings.load()
    output = capsys.readouterr().out
    assert "origins" in json.loads(output)["reason"]
    assert "hunter2" not in output


def test_a_rejected_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Settings(OpsSettings):
        api_key: SecretStr
        port: int

    monkeypatch.setenv("API_KEY", "hunter2")
    monkeypatch.setenv("PORT", "hunter2")
    with pytest.raises(SystemExit):
        Settings.load()
    assert "hunter2" not in capsys.readouterr().out
