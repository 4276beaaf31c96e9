"""A user edits, adds, deletes and renames, then updates: nothing of it is lost.

FUZZ_UPDATES sets how many histories are tried.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.project import NEWEST, commit, run, tree
from tests.update.conftest import Copy, update

HISTORIES = int(os.environ.get("FUZZ_UPDATES", "60"))
SEEDS = {"README.md", ".env.example", "tests/conftest.py", "tests/test_hello.py"} | {
    f"src/my_service/{file}"
    for file in ("__init__.py", "main.py", "settings.py", "routers/hello.py", "routers/__init__.py")
}
TOOLS = {".copier-answers.yml"}


@pytest.fixture(scope="module")
def changed_template(template: Path) -> str:
    """A version of the template in which every rendered file has new lines in its middle and at its end."""
    run("git", "checkout", "--quiet", "-B", "changed", NEWEST, cwd=template)
    for path in (template / "template").rglob("*"):
        if path.is_file() and "answers_file" not in path.name and path.read_text().strip():
            comment = "<!-- new -->" if ".md" in path.name else "// new" if ".json" in path.name else "# new"
            lines = path.read_text().split("\n")
            middle = len(lines) // 2
            path.write_text("\n".join([*lines[:middle], comment, *lines[middle:], comment]) + "\n")
    run("git", "commit", "--quiet", "--all", "--message", "Changed", cwd=template)
    run("git", "tag", "--force", "v9999.1.0", cwd=template)
    run("git", "checkout", "--quiet", "--detach", NEWEST, cwd=template)
    return "v9999.1.0"


@st.composite
def edits(draw: st.DrawFn, files: list[str]) -> tuple[str, str, int]:
    """A change by the user: what, where, at which line."""
    kind = draw(st.sampled_from(["insert", "replace", "delete line", "delete file", "rename file", "add file"]))
    return kind, draw(st.sampled_from(files)), draw(st.integers(0, 200))


def apply(repository: Path, kind: str, file: str, at: int, number: int) -> None:
    """Make a change; each line that is written is unlike any other."""
    path = repository / file
    mine = f"# mine {number}"
    if kind == "add file":
        (repository / "src/my_service" / f"mine_{number}.py").write_text(mine + "\n")
    elif not path.exists():
        return
    elif kind == "delete file":
        path.unlink()
    elif kind == "rename file":
        path.rename(path.with_name(f"mine-{number}-{path.name}"))
    else:
        lines = path.read_text().split("\n")
        at = min(at, len(lines) - 1)
        lines[at : at + (kind != "insert")] = [] if kind == "delete line" else [mine]
        path.write_text("\n".join(lines))


def test_no_line_of_a_users_is_lost(copy: Copy, changed_template: str, tmp_path: Path) -> None:
    service = copy(NEWEST)
    files = sorted(set(tree(service)) - TOOLS)
    port = st.one_of(st.none(), st.integers(1024, 65535))

    @settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(edits(files), min_size=1, max_size=8), port)
    def history(changes: list[tuple[str, str, int]], port: int | None) -> None:
        repository = tmp_path / "history"
        shutil.rmtree(repository, ignore_errors=True)
        shutil.copytree(service, repository)
        for number, change in enumerate(changes):
            apply(repository, *change, number)
        commit(repository)
        before = tree(repository)
        update(repository, changed_template, **({} if port is None else {"port": port}))
        after = tree(repository)

        def lines_of(texts: dict[str, str]) -> set[str]:
            return {line for text in texts.values() for line in text.split("\n") if line.startswith("# mine")}

        assert lines_of(before) <= lines_of(after)
        for path in SEEDS:
            assert after.get(path) == before.get(path), path
        for path in before.keys() - set(files) - TOOLS:
            assert after[path] == before[path], path
        recorded: dict[str, Any] = yaml.safe_load(after[".copier-answers.yml"])
        assert recorded["port"] == (port or 8000)
        assert recorded["service_name"] == "my-service"

    history()


def test_a_conflict_is_shown_and_cannot_be_committed_unnoticed(copy: Copy, changed_template: str) -> None:
    service = copy(NEWEST)
    gitignore = service / ".gitignore"
    lines = gitignore.read_text().split("\n")
    middle = len(lines) // 2
    gitignore.write_text("\n".join([*lines[:middle], "# mine", *lines[middle:]]))
    commit(service)
    update(service, changed_template)
    text = gitignore.read_text()
    assert "<<<<<<<" in text
    assert "# mine" in text
    assert "# new" in text
    refused = run("make", "conflicts", cwd=service, check=False)
    assert refused.returncode != 0
    assert "Resolve these conflicts first." in refused.stdout
