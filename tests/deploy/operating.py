"""A rendered repository whose commands run against an account."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.account import Account, serve
from tests.support.commands import commit


@dataclass
class Operated:
    """A service, the account where it runs, and the programs that ask this account."""

    path: Path
    account: Account
    programs: Path

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ops/deployment, as the Makefile does."""
        return subprocess.run(
            [sys.executable, "ops/deployment", *arguments],
            cwd=self.path,
            env=self.environment | env,
            text=True,
            capture_output=True,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on until it is stopped."""
        command = [sys.executable, "ops/deployment", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.path, env=self.environment, text=True, stdout=pipe, stderr=pipe)

    def stop(self, process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> tuple[str, str]:
        """Stop it, and return what it said."""
        process.send_signal(how)
        return process.communicate(timeout=60)

    @property
    def environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if name not in ("ECS_CLUSTER", "ECS_SERVICE")}
        return mine | {"PATH": f"{self.programs}:{os.environ['PATH']}"}


def operate(rendered: Path, folder: Path, account: Account, real: str = "/nowhere/aws") -> Operated:
    """Copy a rendered repository, and let its commands ask the account."""
    path = Path(shutil.copytree(rendered, folder / "my-service"))
    (path / "deploy").mkdir(exist_ok=True)
    (path / "deploy/stage.parameters").write_text("# Where stage is\nClusterName=main\n")
    commit(path)
    serve(account, folder / "bin", real)
    return Operated(path, account, folder / "bin")
