"""The template changes, a user changes what was made from it, then updates: nothing of the user's is lost.

FUZZ_UPDATES sets how many histories are tried.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import project
from tests.project import COPIER_YML, commit, run, tree
from tests.update.conftest import seeds, update

HISTORIES = int(os.environ.get("FUZZ_UPDATES", "200"))
TOOLS = ".copier-answers.yml"
ANSWERS = {"port": st.integers(1024, 65535), "health_path": st.sampled_from(["/up", "/internal/health"])} | {
    name: st.sampled_from(COPIER_YML[name]["choices"]) for name in ("python_version", "log_retention_days")
}
Change = tuple[str, str, int]  # what, to which file, at which line
KINDS = ["replace line", "insert line", "delete line", "delete file", "rename file", "add file"]
SHARED = "added.txt"  # a name that the template and the user may both hit on


@pytest.fixture(scope="module")
def base(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template under test without its past, which an update would clone each time."""
    base = tmp_path_factory.mktemp("base") / "template"
    shutil.copytree(template, base, ignore=shutil.ignore_patterns(".git", "tests", "docs", "benchmarks"))
    commit(base)
    run("git", "tag", "v1.0.0", cwd=base)
    run("git", "gc", "--quiet", cwd=base)
    return base


@pytest.fixture(scope="module")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the template renders from its default answers."""
    return project.copy(base, tmp_path_factory.mktemp("original") / "service", {}, "v1.0.0")


def sources(base: Path) -> dict[str, str]:
    """Return where in the template each rendered file comes from."""
    names = {"deploy": "fsd", "ci": "github", "service_name": "my-service", "package_name": "my_service"}
    found = {}
    for path in tree(base / "template"):
        rendered = jinja2.Template(path.removesuffix(".jinja")).render(names, _copier_conf={"answers_file": TOOLS})
        if all(rendered.split("/")) and rendered != TOOLS:
            found[rendered] = path
    return found


def edit(path: Path, kind: str, at: int, line: str) -> None:
    """Change a line near `at`; a tag of Jinja's stays, since without it nothing can be rendered."""
    lines = path.read_text().split("\n")
    at = min(at, len(lines) - 1)
    if kind == "insert line":
        lines.insert(at, line)
    elif "{%" not in lines[at]:
        lines[at : at + 1] = [] if kind == "delete line" else [line]
    path.write_text("\n".join(lines))


def change_template(template: Path, source: dict[str, str], changes: list[Change], version: str) -> None:
    """Make a version of the template. A file that goes is left to the services: see CONTRIBUTING.md."""
    for number, (kind, file, at) in enumerate(changes):
        path = template / "template" / source[file]
        if kind == "add file":
            (template / "template" / SHARED).write_text(f"# template {version} {number}\nthe same\n")
        elif not path.exists():
            continue
        elif kind in ("delete file", "rename file"):
            if kind == "rename file":
                shutil.copy(path, path.with_name(f"renamed-{number}-{path.name}"))
            path.unlink()
            config = template / "copier.yml"
            kept = "/" + file.replace("src/my_service/", "src/*/")
            config.write_text(config.read_text().replace("    /README.md\n", f"    /README.md\n    {kept}\n"))
        else:
            edit(path, kind, at, f"# template {version} {number}")
    commit(template)
    run("git", "tag", version, cwd=template)


def change_service(service: Path, changes: list[Change]) -> None:
    """Make the user's changes; each line that is written is unlike any other."""
    for number, (kind, file, at) in enumerate(changes):
        path, mine = service / file, f"# mine {number}"
        if kind == "add file":
            (service / (SHARED if at % 2 else f"src/my_service/mine_{number}.py")).write_text(f"{mine}\nthe same\n")
        elif not path.exists():
            continue
        elif kind == "delete file":
            path.unlink()
        elif kind == "rename file":
            path.rename(path.with_name(f"mine-{number}-{path.name}"))
        else:
            edit(path, kind, at, mine)


@st.composite
def histories(draw: st.DrawFn, files: list[str]) -> dict[str, Any]:
    """Two versions of the template, a user's changes between them, and answers that the update changes.

    All of it happens to three files at most, so that the two sides meet.
    """
    few = st.sampled_from([draw(st.sampled_from(files)) for _ in range(3)])
    changes = st.lists(st.tuples(st.sampled_from(KINDS), few, st.integers(0, 12)), min_size=1, max_size=5)
    return {
        "older template": draw(st.one_of(st.just([]), changes)),
        "user": draw(changes),
        "newer template": draw(changes),
        "answers": draw(st.fixed_dictionaries({}, optional=ANSWERS)),
    }


def mine(text: str) -> list[str]:
    return re.findall("^# mine .*$", text, re.MULTILINE)


def test_nothing_of_a_users_is_lost(base: Path, original: Path, memory: Path) -> None:
    source = sources(base)
    assert source.keys() == tree(original).keys() - {TOOLS}
    seed_once = seeds(source, "my_service")

    @settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories(sorted(source)))
    def history(story: dict[str, Any]) -> None:
        template, service = memory / "template", memory / "service"
        shutil.rmtree(template, ignore_errors=True)
        shutil.rmtree(service, ignore_errors=True)
        shutil.copytree(base, template)
        change_template(template, source, story["older template"], "v1.1.0")
        project.copy(template, service, {}, "v1.1.0")
        rendered = tree(service).keys()
        change_service(service, story["user"])
        commit(service)
        before = tree(service)
        change_template(template, source, story["newer template"], "v1.2.0")
        update(service, "v1.2.0", **story["answers"])
        after = tree(service)

        for path, text in before.items():
            assert set(mine(text)) <= set(mine(after.get(path, ""))), path
        for path in before.keys() - rendered - {SHARED} | seed_once:
            assert after.get(path) == before.get(path), path
        assert not (rendered - before.keys()) & after.keys(), "what the user deleted is back"
        assert not [path for path in after if path.endswith(".rej")]
        recorded = yaml.safe_load(after[TOOLS])
        was = yaml.safe_load(before[TOOLS])
        assert recorded == was | story["answers"] | {"_commit": "v1.2.0"}

    history()


def test_a_conflict_is_shown_and_cannot_be_committed_unnoticed(base: Path, tmp_path: Path) -> None:
    template = shutil.copytree(base, tmp_path / "template")
    service = project.copy(template, tmp_path / "service", {}, "v1.0.0")
    change: list[Change] = [("replace line", ".gitignore", 3)]
    change_service(service, change)
    commit(service)
    change_template(template, sources(base), change, "v1.1.0")
    update(service, "v1.1.0")
    text = (service / ".gitignore").read_text()
    assert "<<<<<<<" in text
    assert "# mine 0" in text
    assert "# template v1.1.0 0" in text
    refused = run("make", "conflicts", cwd=service, check=False)
    assert refused.returncode != 0
    assert "Resolve these conflicts first." in refused.stdout
