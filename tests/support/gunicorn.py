"""A rendered service under Gunicorn, as the container starts it, but on this machine."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

STOP_TIMEOUT = 30  # seconds from SIGTERM to SIGKILL on ECS


class Gunicorn:
    """The processes of one service, in a group of their own."""

    process: subprocess.Popen[bytes]

    def launch(self, app: str, port: int, repository: Path, log_file: Path, environment: dict[str, str]) -> None:
        """Start the service; it may not answer yet."""
        command = (".venv/bin/gunicorn", "--bind", f"127.0.0.1:{port}", app)
        with log_file.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=repository, env=environment, stdout=log, stderr=log, start_new_session=True
            )

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
