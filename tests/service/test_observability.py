"""docs/observability.md: its fields are in real lines, Sentry hears of a failure, and Prometheus adds up workers."""

import gzip
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import indent
from threading import Thread
from urllib.error import HTTPError

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.documents import blocks
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, ROOT, Render

DOCUMENT = (ROOT / "docs/observability.md").read_text()
MAIN = """\
app.include_router(metrics.router)
GREETED = Counter("greeted", "Greetings by worker.", ["worker"])


@app.get("/broken")
def broken() -> None:
    raise RuntimeError("boom")


@app.get("/greet")
def greet() -> int:
    GREETED.labels(os.getpid()).inc()
    return os.getpid()
"""


@pytest.fixture
def tracker() -> Iterator[tuple[str, list[bytes]]]:
    """Where a Sentry is, and what it gets."""
    got: list[bytes] = []

    class Sentry(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(gzip.decompress(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Sentry)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://key@127.0.0.1:{server.server_port}/1", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_documented_sentry_hears_of_failures_and_prometheus_of_all_workers(
    render: Render, tmp_path: Path, tracker: tuple[str, list[bytes]]
) -> None:
    port = free_port()
    dsn, got = tracker
    repository = render(python_version=PYTHON, port=port)
    setting, sentry, code = blocks(DOCUMENT, "python")
    settings = repository / "src/my_service/settings.py"
    edit(settings, "import lru_cache\n", "import lru_cache\n\nfrom pydantic import SecretStr\n")
    edit(settings, "class Settings(OpsSettings):\n", "class Settings(OpsSettings):\n" + indent(setting, "    "))
    (repository / "src/my_service/routers/metrics.py").write_text(code)
    main = repository / "src/my_service/main.py"
    edit(main, "from my_service.routers import hello", "from my_service.routers import hello, metrics")
    edit(main, "app = create_app(", f"{sentry}\n\napp = create_app(")
    edit(main, "    lifespan,\n", "    lifespan,\n    [metrics.without_scrapes],\n")
    edit(
        main,
        "from fastapi import FastAPI\n",
        "import os\n\nfrom fastapi import FastAPI\nfrom prometheus_client import Counter\n",
    )
    main.write_text(main.read_text() + MAIN)
    run("uv", "add", "--quiet", "--python", sys.executable, "prometheus-client", "sentry-sdk", cwd=repository)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())

    folder = tmp_path / "metrics"
    folder.mkdir()
    environment = {
        "PYTHONPATH": "src",
        "WEB_CONCURRENCY": "2",
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "SENTRY_DSN": dsn,
    }
    server = Gunicorn()
    server.launch("my_service.main:app", port, repository, tmp_path / "log", environment | {"DRAIN_SECONDS": "0"})
    try:
        wait_until(lambda: get("/health") != "")
        greeted: set[str] = set()

        def both_greet() -> bool:
            greeted.add(get("/greet"))
            return len(greeted) == 2

        wait_until(both_greet)
        scraped = get("/metrics")
        with pytest.raises(HTTPError, match="500"):
            get("/broken")
        wait_until(lambda: bool(got))
    finally:
        server.stop()
    assert all(f'greeted_total{{worker="{worker}"}}' in scraped for worker in greeted)
    logged = (tmp_path / "log").read_text()
    assert '"path":"/greet"' in logged
    assert '"/metrics"' not in logged
    (event,) = (event for event in got if b"RuntimeError" in event)
    assert b'"value":"boom"' in event
