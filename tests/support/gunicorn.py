"""A rendered service under Gunicorn, as the container starts it, but on this machine."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

STOP_TIMEOUT = 30  # seconds from SIGTERM to SIGKILL on ECS


class Gunicorn:
    """The processes of one service, in a group of their own."""

    process: subprocess.Popen[bytes]
    log_file: Path

    def launch(self, app: str, port: int, repository: Path, log_file: Path, environment: dict[str, str]) -> None:
        """Start the service; it may not answer yet."""
        self.log_file = log_file
        command = (".venv/bin/python", "-m", "my_service.ops.gunicorn", "--bind", f"127.0.0.1:{port}", app)
        with log_file.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=repository, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a line that is not one JSON object is an error."""
        if self.process.poll() is None:
            time.sleep(0.2)  # the line of a request follows its answer
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def stop(self) -> float:
        """Stop it as ECS does and return how long that took; it must end by itself, and well."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(STOP_TIMEOUT) == 0
        return time.monotonic() - started

    def kill(self) -> None:
        """Kill all its processes."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
