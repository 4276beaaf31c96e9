"""The template changes, a user changes what was made from it, then updates: nothing of the user's is lost.

Lost is a line that is neither in the tree nor in a file that an update names when it refuses. FUZZ_UPDATES is how many
histories are tried.
"""

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.commands import commit, run, tree
from tests.support.template import NEWEST, QUESTIONS, copy
from tests.update.script import load, template_update
from tests.update.versions import seeds

HISTORIES = int(os.environ.get("FUZZ_UPDATES", "6"))
OLDER, NEWER = "v9999.1.0", "v9999.2.0"
TOOLS = ".copier-answers.yml"
ANSWERS: dict[str, st.SearchStrategy[Any]] = {
    "port": st.integers(1024, 65535),
    "health_path": st.sampled_from(["/up", "/internal/health"]),
    "log_retention_days": st.sampled_from([1, 3653]),
    "python_version": st.sampled_from(["3.11", "3.15"]),
    "deploy": st.sampled_from(["cloudformation", "none"]),
    "ci": st.just("none"),
    "kafka": st.just(True),
    "telemetry": st.just(True),
    "runtime": st.just("minimal"),
    "service_name": st.just("orders"),
    "package_name": st.just("orders"),
}
REFUSALS = re.compile(r"which you edited|holds lines of yours|aiokafka has no wheel")  # the second up to 0.5
Change = tuple[str, str, int]  # what, to which file, at which line
KINDS = ["replace line", "insert line", "delete line", "delete file", "rename file", "add file"]
ENGINE = "scripts/template-update.py"  # up to 0.4
SHARED = "added.txt"  # a name that the template and the user may both hit on


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
            text = config.read_text().replace("[/README.md,", f'[/README.md, "{kept}",')
            config.write_text(text.replace("    /README.md\n", f"    /README.md\n    {kept}\n"))
        else:
            edit(path, kind, at, f"# template {version} {number}")
    commit(template)
    run("git", "tag", version, cwd=template)


def change_service(service: Path, changes: list[Change]) -> None:
    """Make the user's changes; each line that is written is unlike any other."""
    for number, (kind, file, at) in enumerate(changes):
        path, mine = service / file, f"# mine {number}"
        if kind == "add file" and path.parent.is_dir():
            (service / SHARED if at % 2 else path.with_name(f"mine_{number}.py")).write_text(f"{mine}\nthe same\n")
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
        "answers": {name: draw(ANSWERS[name]) for name in draw(st.sets(st.sampled_from(sorted(ANSWERS)), max_size=3))},
        "stopped": draw(st.one_of(st.none(), st.integers(1, 35))),  # at which command
        "fails": draw(st.booleans()),  # the command, and without a word; or it is interrupted
    }


def mine(tree: dict[str, str]) -> set[str]:
    return {line for text in tree.values() for line in re.findall("# mine [0-9]+", text)}


def check(story: dict[str, Any], service: Path, rendered: Collection[str], seed_once: set[str], script: Any) -> str:
    """Update a committed service, check that nothing of the user's is lost, and return how it ended."""
    before = tree(service)
    changed = [f"{name}={str(answer).lower()}" for name, answer in story["answers"].items()]
    code, said = template_update(service, *changed, module=script)
    after = tree(service)
    if said.endswith("Nothing is changed."):
        assert REFUSALS.search(said), said
        assert after == before
        return "refused"
    assert mine(before) <= mine(after), said
    if not {"service_name", "package_name"} & story["answers"].keys():
        added = {path for path in before.keys() - rendered if "/mine_" in f"/{path}"}  # what is moved is updated there
        for path in added | seed_once:
            assert after.get(path) == before.get(path), path
        assert not (rendered - before.keys()) & after.keys(), "what the user deleted is back"
    assert not [path for path in after if path.endswith(".rej")]
    recorded = yaml.safe_load(after[TOOLS])
    expected = yaml.safe_load(before[TOOLS]) | story["answers"] | {"_commit": NEWER}
    assert expected.items() <= recorded.items()
    assert recorded.keys() - expected.keys() <= QUESTIONS.keys() - ANSWERS.keys(), "only new questions are answered"
    return "conflict" if code else "merged"


class Stopping:
    """Runs the script's commands; at one of them it fails or is interrupted."""

    def __init__(self, script: Any, at: int, fails: bool) -> None:
        self.run, self.left, self.fails = script.run, at, fails

    def __call__(self, *command: Any, **how: Any) -> str:
        self.left -= 1
        if self.left == 0 and self.fails:
            return str(self.run("false"))
        if self.left == 0 and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
            raise KeyboardInterrupt
        return str(self.run(*command, **how))


def test_an_update_loses_nothing_that_a_user_wrote(base: Path, original: Path, memory: Path) -> None:
    source = sources(base)
    assert source.keys() == tree(original).keys() - {TOOLS}
    seed_once = seeds(source, "my_service")
    outcomes: Counter[str] = Counter()

    @settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories(sorted(source)))
    def history(story: dict[str, Any]) -> None:
        print(f"\r{outcomes.total() - outcomes['stopped']} of {HISTORIES} histories", end="", flush=True)
        template, service = memory / "template", memory / "service"
        shutil.rmtree(template, ignore_errors=True)
        shutil.rmtree(service, ignore_errors=True)
        shutil.copytree(base, template)
        change_template(template, source, story["older template"], OLDER)
        copy(template, service, {}, OLDER)
        rendered = tree(service).keys()
        change_service(service, story["user"])
        commit(service)
        before = tree(service)
        change_template(template, source, story["newer template"], NEWER)
        changed = [f"{name}={str(answer).lower()}" for name, answer in story["answers"].items()]

        if story["stopped"]:
            script = load()
            vars(script)["run"] = Stopping(script, story["stopped"], story["fails"])
            _, said = template_update(service, *changed, module=script)
            if "Interrupted" in said or "failed without a message" in said:
                outcomes["stopped"] += 1
                assert tree(service) == before
                assert run("git", "status", "--porcelain", cwd=service).stdout == ""
            else:
                run("git", "reset", "--quiet", "--hard", cwd=service)
        outcomes[check(story, service, rendered, seed_once, None)] += 1

    history()
    print("\rhistories:", dict(outcomes))


@pytest.fixture(scope="session")
def moving(template: Path, released: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template whose older version is the last with scripts/ and tests/ops/; the newer one is under test."""
    moving = tmp_path_factory.mktemp("moving") / "template"
    moving.mkdir()
    (last,) = [tag for tag in released if tag.startswith("v0.4.")][-1:]
    for version, revision in ((OLDER, last), (NEWER, NEWEST)):
        shutil.rmtree(moving / "template", ignore_errors=True)
        archive = f"git archive {revision} copier.yml extensions template | tar --extract --directory '{moving}'"
        run("bash", "-c", archive, cwd=template)
        commit(moving)
        run("git", "tag", version, cwd=moving)
    return moving


MOVED = {
    "tests/ops/test_settings.py": "ops/checks/test_settings.py",
    "Makefile": "Makefile",
    "deploy/service.yml": "deploy/service.yml",
}
LEFT = {"scripts/in-compose", "tests/contract/__init__.py", "tests/ops/__init__.py"}
ADDED = ("scripts/mine.sh", "tests/contract/test_mine.py", "tests/ops/test_mine.py", "tests/database/test_mine.py")


def test_the_move_to_ops_takes_edits_along_and_leaves_added_files(moving: Path, tmp_path: Path) -> None:
    service = copy(moving, tmp_path / "service", {"database": "postgres", "deploy": "cloudformation"}, OLDER)
    for number, path in enumerate(MOVED):
        text = (service / path).read_text()
        (service / path).write_text(f"{text}# mine {number}\n")
    for path in ADDED:
        (service / path).write_text("mine\n")
    commit(service)
    code, said = template_update(service, module=load(service / ENGINE))
    assert code == 0, said
    for number, path in enumerate(MOVED.values()):
        assert f"# mine {number}\n" in (service / path).read_text()
    assert all((service / path).read_text() == "mine\n" for path in ADDED)
    assert "Renamed: tests/ops/test_settings.py is ops/checks/test_settings.py now.\n" in said
    # What stays behind is named in the changelog.
    there = {path for path in MOVED.keys() - MOVED.values() if (service / path).exists()}
    left = {path for path in tree(service) if path.startswith(("scripts/", "tests/contract/", "tests/ops/"))}
    assert (there, left - set(ADDED)) == (set(), LEFT)


def test_the_move_to_ops_loses_nothing_that_a_user_wrote(moving: Path, memory: Path, tmp_path: Path) -> None:
    made = copy(moving, tmp_path / "made", {}, OLDER)
    rendered = tree(made).keys()
    files = sorted(rendered - {TOOLS})
    outcomes: Counter[str] = Counter()

    @settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories(files))
    def history(story: dict[str, Any]) -> None:
        print(f"\r{outcomes.total()} of {HISTORIES} moves", end="", flush=True)
        service = memory / "service"
        shutil.rmtree(service, ignore_errors=True)
        shutil.copytree(made, service)
        change_service(service, story["user"])
        commit(service)
        outcomes[check(story, service, rendered, seeds(rendered, "my_service"), load(made / ENGINE))] += 1

    history()
    print("\rmoves:", dict(outcomes))
