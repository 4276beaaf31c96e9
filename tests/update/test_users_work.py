"""The template changes, a user changes what was made from it, then updates: nothing of the user's is lost.

Lost is a line that is neither in the tree nor in a file that an update names when it refuses. FUZZ_UPDATES is how many
histories are tried.
"""

import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.commands import commit, run, tree
from tests.support.template import copy
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
REFUSALS = re.compile(r"goes, and holds lines of yours|aiokafka has no wheel")
Change = tuple[str, str, int]  # what, to which file, at which line
KINDS = ["replace line", "insert line", "delete line", "delete file", "rename file", "add file"]
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
        "answers": {name: draw(ANSWERS[name]) for name in draw(st.sets(st.sampled_from(sorted(ANSWERS)), max_size=3))},
        "interrupted": draw(st.one_of(st.none(), st.integers(1, 40))),  # at which command
    }


def mine(tree: dict[str, str]) -> set[str]:
    return {line for text in tree.values() for line in re.findall("# mine [0-9]+", text)}


class Interrupting:
    """Runs the script's commands and is interrupted at one of them."""

    def __init__(self, script: Any, at: int) -> None:
        self.run, self.left = script.run, at

    def __call__(self, *command: Any, **how: Any) -> str:
        self.left -= 1
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
        print(f"\r{outcomes.total() - outcomes['interrupted']} of {HISTORIES} histories", end="", flush=True)
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

        if story["interrupted"]:
            script = load()
            vars(script)["run"] = Interrupting(script, story["interrupted"])
            _, said = template_update(service, *changed, module=script)
            if "Interrupted" in said:
                outcomes["interrupted"] += 1
                assert tree(service) == before
                assert run("git", "status", "--porcelain", cwd=service).stdout == ""
            else:
                run("git", "reset", "--quiet", "--hard", cwd=service)
        code, said = template_update(service, *changed)
        after = tree(service)
        if said.endswith("Nothing is changed."):
            outcomes["refused"] += 1
            assert REFUSALS.search(said), said
            assert after == before
            return

        outcomes["conflict" if code else "merged"] += 1
        assert mine(before) <= mine(after), said
        if not {"service_name", "package_name"} & story["answers"].keys():
            added = {path for path in before.keys() - rendered if "/mine_" in path}  # what is moved is updated there
            for path in added | seed_once:
                assert after.get(path) == before.get(path), path
            assert not (rendered - before.keys()) & after.keys(), "what the user deleted is back"
        assert not [path for path in after if path.endswith(".rej")]
        recorded = yaml.safe_load(after[TOOLS])
        assert recorded == yaml.safe_load(before[TOOLS]) | story["answers"] | {"_commit": NEWER}

    history()
    print("\rhistories:", dict(outcomes))
