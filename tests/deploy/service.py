"""A rendered repository whose make targets push and deploy."""

import importlib.machinery
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


def load_script(path: Path) -> ModuleType:
    """Return a script as a module, to call parts of it."""
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


@dataclass
class Service:
    """A rendered repository with a Git history."""

    path: Path
    name: str

    def make(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run make; stdout and stderr are apart, since a digest is on the one and progress on the other."""
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=self.path, env=os.environ | env, text=True, capture_output=True)
