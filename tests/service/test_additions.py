"""A service with all that owners add to theirs: it is healthy, and a failure has one event, one span and one line."""

import json
import re
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.documents import blocks
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, ROOT, Render

IMPORTS = """\
import os
from pathlib import Path
from typing import Any

import sentry_sdk
from fastapi import Depends, FastAPI, Header
from fastapi.middleware.cors import CORSMiddleware
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from prometheus_fastapi_instrumentator import Instrumentator
from sentry_sdk.transport import Transport
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
"""

MAIN = '''

class Tracked(Transport):
    """Where Sentry sends its events."""

    def capture_envelope(self, envelope: Any) -> None:
        for event in filter(None, (item.get_event() for item in envelope.items)):
            errors = event.get("exception", {}).get("values") or [{"value": event.get("logentry")}]
            with Path(os.environ["TRACKED"]).open("a") as file:
                file.write(f"{[error['value'] for error in errors]}\\n")


class Keys(AuthenticationBackend):
    async def authenticate(self, conn: Any) -> Any:
        if conn.headers.get("x-api-key") != "key":
            raise AuthenticationError("no key")
        return AuthCredentials(), SimpleUser("Ada")


async def broken(mark: str) -> None:
    raise RuntimeError(mark)


sentry_sdk.init("http://key@127.0.0.1:9/1", transport=Tracked)
mounted = FastAPI(telemetry={"tracing": False})  # or it begins a trace of its own
for each in (app, mounted):
    each.get("/broken/{mark}")(broken)
app.mount("/mounted", mounted)
app.add_middleware(CORSMiddleware, allow_origins=["https://example.com"])
app.add_middleware(AuthenticationMiddleware, backend=Keys())
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["api.example.com"])
app.add_middleware(HTTPSRedirectMiddleware)
Instrumentator().instrument(app).expose(app)
provider = TracerProvider()
spans = Path(os.environ["SPANS"]).open("a")
exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
'''

PACKAGES = [
    "opentelemetry-instrumentation-fastapi",
    "opentelemetry-sdk",
    "prometheus-fastapi-instrumentator",
    "sentry-sdk",
]
ALLOWED = {
    "Host": "api.example.com",
    "X-API-Key": "key",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "192.0.2.7",
    "Origin": "https://example.com",
}


class Service(Gunicorn):
    """A running service with everything."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.port = free_port()
        self.tracked, self.spans = folder / "tracked", folder / "spans"
        files = {"TRACKED": str(self.tracked), "SPANS": str(self.spans)}
        environment = {"PYTHONPATH": "src", "DRAIN_SECONDS": "0", "TRUSTED_HOPS": "1", **files}
        self.launch("my_service.main:app", self.port, repository, folder / "log", environment)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Return the status, the headers and the body of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        answer = response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()
        connection.close()
        return *answer[:2], answer[2].decode()


@pytest.fixture(scope="module")
def service(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    repository = render(python_version=PYTHON)
    main = repository / "src/my_service/main.py"
    edit(main, "from fastapi import FastAPI\n", IMPORTS)
    edit(main, "    lifespan,\n", "    lifespan,\n    dependencies=[Depends(needs_key)],\n")
    edit(
        main,
        "app = create_app(",
        "def needs_key(x_api_key: str = Header()) -> str:\n    return x_api_key\n\n\napp = create_app(",
    )
    main.write_text(main.read_text() + MAIN)
    run("uv", "add", "--quiet", "--python", sys.executable, *PACKAGES, cwd=repository)
    service = Service(repository, tmp_path_factory.mktemp("service"))
    try:
        wait_until(lambda: service.get("/health")[0] == 200)
        yield service
    finally:
        service.kill()


def test_it_is_healthy_and_whoever_may_not_come_in_is_refused(service: Service) -> None:
    assert service.get("/health")[2] == '{"status":"healthy"}'
    assert service.get("/health/version")[0] == 200
    assert service.get("/hello/Ada", **ALLOWED)[0] == 200
    refusals = {"Host": 400, "X-API-Key": 400, "X-Forwarded-Proto": 307}
    for name, status in refusals.items():
        allowed = {key: value for key, value in ALLOWED.items() if key != name}
        refused, headers, _ = service.get("/hello/Ada", **allowed)
        assert refused == status
        assert headers["access-control-allow-origin"] == "https://example.com"


@pytest.mark.parametrize("prefix", ["", "/mounted"])
def test_an_exception_has_one_answer_one_event_one_span_and_one_line(service: Service, prefix: str) -> None:
    mark = f"mark{time.monotonic_ns()}"
    status, headers, body = service.get(f"{prefix}/broken/{mark}", **ALLOWED)
    assert status == 500
    assert json.loads(body) == {"detail": "Internal Server Error", "request_id": headers["x-request-id"]}
    assert headers["access-control-allow-origin"] == "https://example.com"
    wait_until(lambda: mark in service.log_file.read_text() and mark in service.tracked.read_text())
    (line,) = [event for event in service.events() if mark in str(event)]
    assert (line["event"], line["status"], line["client"]) == ("request", 500, "192.0.2.7")
    assert line["route"] == f"{prefix}/broken/{{mark}}"
    assert f"RuntimeError: {mark}" in line["exception"]
    assert [line for line in service.tracked.read_text().splitlines() if mark in line] == [f"['{mark}']"]
    spans: list[dict[str, Any]] = [json.loads(span) for span in service.spans.read_text().splitlines() if mark in span]
    (span,) = [span for span in spans if span["kind"] == "SpanKind.SERVER"]
    assert f"0x{line['trace_id']}" == span["context"]["trace_id"]
    assert any(event["name"] == "exception" for event in span["events"])


def test_the_documented_fields_and_queries_fit_real_lines(service: Service) -> None:
    service.get("/broken/fields", **ALLOWED)
    wait_until(lambda: "broken/fields" in service.log_file.read_text())
    logs = (ROOT / "docs/observability.md").read_text().partition("## Alarms")[0]
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", logs, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    queries = " ".join(blocks(logs, "text"))
    asked = {
        *", ".join(re.findall(r"fields (.*)", queries)).split(", "),
        *re.findall(r"(?:filter|by|and) (\w+)", queries),
    }
    lines = service.events()
    (request,) = [line for line in lines if line.get("path") == "/broken/fields"]
    assert request.keys() <= documented
    assert asked | documented <= set().union(*lines) | {"@timestamp", "aborted"}


def test_prometheus_counts_failures_and_the_log_is_as_always(service: Service) -> None:
    assert service.get("/broken/counted", **ALLOWED)[0] == 500
    status, _, metrics = service.get("/metrics", **ALLOWED)
    assert status == 200
    assert 'handler="/broken/{mark}",method="GET",status="5xx"' in metrics
    assert "Skipping" not in service.log_file.read_text()
