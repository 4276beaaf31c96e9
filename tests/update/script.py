"""A service's own `ops/update/template_update.py`, run inside the tests: to start Copier costs more than to update."""

import contextlib
import io
import os
import signal
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from copier._cli import CopierApp

from tests.support.template import ROOT


def load(script: Path = ROOT / "template/ops/update/template_update.py") -> ModuleType:
    """Return the script as a module that runs Copier in this process."""
    sys.dont_write_bytecode, was = True, sys.dont_write_bytecode
    loader = SourceFileLoader("template_update", str(script))
    spec = spec_from_loader("template_update", loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.dont_write_bytecode = was

    def copier(*arguments: str | Path) -> None:
        said = io.StringIO()
        with mock.patch.dict(os.environ, module.OVERRIDDEN), contextlib.redirect_stderr(said):
            try:
                _, status = CopierApp.run(["copier", *map(str, arguments)], exit=False)
            except ValueError as error:
                raise module.UpdateError(str(error)) from None
        if status:
            raise module.UpdateError(said.getvalue().strip())

    module.copier = copier  # type: ignore[attr-defined]
    return module


def template_update(service: Path, *changed: str, version: str = "", module: Any = None) -> tuple[int, str]:
    """Update a service; return the exit code and what is printed."""
    said = io.StringIO()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with contextlib.chdir(service), contextlib.redirect_stdout(said):
        result = (module or load()).main(".copier-answers.yml", version, *changed)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if isinstance(result, str):
        assert result.removesuffix("Nothing is changed.").strip(), "it gives no reason"
    return (1, said.getvalue() + result) if isinstance(result, str) else (result, said.getvalue())
