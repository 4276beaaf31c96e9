"""What rendering costs: a copy beside that of a template with one file, and the wait for each question."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.containers import ROOT, step
from tests.support.commands import commit
from tests.support.template import ASKED, EXAMPLES, first_line
from tests.support.terminal import terminal

ROUNDS = 9
COPY = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD"]


def templates(folder: Path) -> dict[str, Path]:
    """Return a clone of this template, without what is not committed, and two that show what Copier takes itself.

    The smallest one has a file, the other as many as this template renders, each a letter, and neither asks anything.
    """
    ours, smallest, letters = folder / "ours", folder / "smallest", folder / "letters"
    subprocess.run(["git", "clone", "--quiet", "--no-local", ROOT, ours], check=True)
    (smallest / "template").mkdir(parents=True)
    (smallest / "copier.yml").write_text("_subdirectory: template\n")
    (smallest / "template/README.md").write_text("A file.\n")
    commit(smallest)
    subprocess.run([*COPY, ours, letters / "template"], check=True)
    files = [path for path in (letters / "template").rglob("*") if path.is_file()]
    for path in files:
        path.write_text("a\n")
    shutil.copy(smallest / "copier.yml", letters)
    commit(letters)
    return {"one file": smallest, f"{len(files)} files of a letter": letters, "this template": ours}


def copies(sources: dict[str, Path], folder: Path) -> dict[str, list[float]]:
    """Return the milliseconds of copies of each, the default answers taken."""
    milliseconds: dict[str, list[float]] = {name: [] for name in sources}
    for number in range(ROUNDS):
        for name, source in sources.items():
            step(f"rendering: copy, round {number + 1} of {ROUNDS}: {name}")
            begun = time.monotonic()
            subprocess.run([*COPY, source, folder / f"{name}-{number}"], check=True)
            milliseconds[name].append((time.monotonic() - begun) * 1000)
    return milliseconds


def questions(source: Path, folder: Path) -> dict[str, float]:
    """Return the median milliseconds from the answer before it until each question but the first is on the screen."""
    seconds: dict[str, list[float]] = {name: [] for name in ASKED[1:]}
    for number in range(ROUNDS):
        step(f"rendering: questions, round {number + 1} of {ROUNDS}")
        with terminal("copier", "copy", "--vcs-ref=HEAD", source, f"asked-{number}", cwd=folder) as screen:
            for name in ASKED:
                begun = time.monotonic()
                screen.wait_for(first_line(name))
                if name in seconds:
                    seconds[name].append(time.monotonic() - begun)
                screen.type(EXAMPLES.get(name, "") + "\r")
    return {name: median(values) * 1000 for name, values in seconds.items()}


def measure() -> dict[str, dict[str, Any]]:
    """Return all of the above."""
    with tempfile.TemporaryDirectory() as name:
        sources = templates(Path(name))
        return {
            "copy_ms": copies(sources, Path(name)),
            "question_ms": questions(sources["this template"], Path(name)),
        }
