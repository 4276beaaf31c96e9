"""docs/prometheus.md: the metrics of two Gunicorn workers are added up, and no scrape is logged."""

import sys
import urllib.request
from pathlib import Path

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.documents import blocks
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, ROOT, Render

MAIN = """\
app.include_router(metrics.router)
GREETED = Counter("greeted", "Greetings by worker.", ["worker"])


@app.get("/greet")
def greet() -> int:
    GREETED.labels(os.getpid()).inc()
    return os.getpid()
"""


def test_a_scrape_has_the_numbers_of_all_workers_and_is_not_logged(render: Render, tmp_path: Path) -> None:
    port = free_port()
    repository = render(python_version=PYTHON, port=port)
    (code,) = blocks((ROOT / "docs/prometheus.md").read_text(), "python")
    (repository / "src/my_service/routers/metrics.py").write_text(code)
    main = repository / "src/my_service/main.py"
    edit(main, "from my_service.routers import hello", "from my_service.routers import hello, metrics")
    edit(main, "    lifespan,\n", "    lifespan,\n    [metrics.without_scrapes],\n")
    edit(
        main,
        "from fastapi import FastAPI\n",
        "import os\n\nfrom fastapi import FastAPI\nfrom prometheus_client import Counter\n",
    )
    main.write_text(main.read_text() + MAIN)
    run("uv", "add", "--quiet", "--python", sys.executable, "prometheus-client", cwd=repository)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())

    folder = tmp_path / "metrics"
    folder.mkdir()
    environment = {"PYTHONPATH": "src", "WEB_CONCURRENCY": "2", "PROMETHEUS_MULTIPROC_DIR": str(folder)}
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
    finally:
        server.stop()
    assert all(f'greeted_total{{worker="{worker}"}}' in scraped for worker in greeted)
    logged = (tmp_path / "log").read_text()
    assert '"path": "/greet"' in logged
    assert '"/metrics"' not in logged
