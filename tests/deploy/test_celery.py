"""Celery's worker as the service's own, as docs/workers.md says."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.commands import edit, run, wait_until
from tests.support.documents import blocks
from tests.support.template import PYTHON, ROOT, Render

LIBRARY_WITHOUT_TYPES = """
[[tool.mypy.overrides]]
module = ["celery.*"]
ignore_missing_imports = true

[[tool.mypy.overrides]]
module = ["my_service.worker"]
disallow_untyped_decorators = false
"""
# A queue that other processes reach, too.
FILES = """filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
"""


def test_celery_works_shows_that_it_lives_and_ends_by_a_stop(render: Render, tmp_path: Path) -> None:
    path = Path(shutil.copytree(render(worker=True, deploy="none", python_version=PYTHON), tmp_path / "celery"))
    (worker,) = [block for block in blocks((ROOT / "docs/workers.md").read_text(), "python") if "Celery(" in block]
    (path / "src/my_service/worker.py").write_text(worker.replace("PACKAGE", "my_service"))
    (path / "tests/test_worker.py").unlink()
    with (path / "pyproject.toml").open("a") as project:
        project.write(LIBRARY_WITHOUT_TYPES)
    run("uv", "add", "--quiet", "--python", sys.executable, "celery", cwd=path)
    for check in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "src")):
        run("uv", "run", "--quiet", *check, cwd=path)

    def is_alive() -> bool:
        program = "src/my_service/ops/healthcheck.py"
        return run(".venv/bin/python", program, "worker", cwd=path, check=False).returncode == 0

    edit(path / "src/my_service/worker.py", 'memory://")  # name yours\n', FILES)
    (path / "queue").mkdir()
    Path("/tmp/worker-alive").unlink(missing_ok=True)
    assert not is_alive()
    with (tmp_path / "log").open("w+") as log:
        command = (".venv/bin/python", "-m", "my_service.worker")
        celery = subprocess.Popen(
            command, cwd=path, env=os.environ | {"PYTHONPATH": "src"}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(is_alive)
            add = "from my_service.worker import add; add.delay(1, 2)"  # as a route does
            run(".venv/bin/python", "-c", add, cwd=path, PYTHONPATH="src")
            wait_until(lambda: " succeeded " in (tmp_path / "log").read_text())
            celery.send_signal(signal.SIGTERM)
            assert celery.wait(30) == 0
        finally:
            celery.kill()
            celery.wait()
            print((tmp_path / "log").read_text()[-3000:])
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines() if line[:1] == "{"]
    assert "started" in events
    assert events[-1] == "stopped"
