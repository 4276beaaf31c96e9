"""Against a collector on loopback, and in a process of its own: OpenTelemetry can be set up once in a process."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SERVICE = """
from fastapi.testclient import TestClient
from my_service.ops.app import create_app
from my_service.ops.settings import OpsSettings

app = create_app(OpsSettings(environment="test"), telemetry={"exclude": lambda scope: scope["path"] == "/things/quiet"})
app.get("/things/{thing}")(lambda thing: thing)
with TestClient(app) as client:
    for path in ("/health", "/things/quiet", "/things/loud"):
        client.get(path).raise_for_status()
"""


def received(**environment: str) -> bytes:
    """Run the service and return all that it sends to the collector about requests."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                bodies.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        variables = {"PYTHONPATH": "src", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment}
        subprocess.run([sys.executable, "-c", SERVICE], env={**os.environ, **variables}, check=True)
        server.shutdown()
    return b"".join(bodies)


def test_spans_are_sent_when_they_are_asked_for_but_none_of_health_and_of_what_the_service_excludes() -> None:
    spans = received(FASTAPI_OTEL_AUTO_CONFIGURE="true")
    assert b"GET /things/{thing}" in spans
    assert b"/things/loud" in spans
    assert b"/health" not in spans
    assert b"/things/quiet" not in spans
    assert received() == b""
