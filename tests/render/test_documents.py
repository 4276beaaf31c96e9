"""The documents of this repository and the rendered README say what is true."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.commands import run
from tests.support.documents import FENCE, blocks
from tests.support.template import ASKED, COMPUTED, DEFAULTS, QUESTIONS, ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: Path) -> list[str]:
    """Return the links to files and headings that are not there."""
    dead = []
    for link in ("".join(found) for found in LINK.findall(document.read_text())):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_has_a_dead_link(document: Path) -> None:
    assert dead_links(document) == []


def test_the_rendered_readme_has_no_dead_link(rendered: Path) -> None:
    assert dead_links(rendered / "README.md") == []


@pytest.mark.parametrize(("name", "has_worker"), [("default", False), ("short", True)])
def test_what_the_readme_gives_the_service_the_worker_has_too(
    repositories: Callable[[str], Path], name: str, has_worker: bool
) -> None:
    (example,) = blocks((repositories(name) / "README.md").read_text(), "yaml")
    services = yaml.safe_load(example)["services"]
    assert services.get("worker") == (services["api"] if has_worker else None)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        '# A b, c\n[1](b.md) [2](#a-b-c) [3](#d) [4](a.md#e) <img src="f.png"> [5](https://example.com)\n'
    )
    assert dead_links(document) == ["b.md", "#d", "a.md#e", "f.png"]


def test_every_answer_that_a_document_changes_exists() -> None:
    for document in DOCUMENTS:
        for answers in re.findall(r"ANSWERS=(\S+?[\"'])", document.read_text()):
            assert set(re.findall(r"([a-z]\w*)=", answers)) <= QUESTIONS.keys(), document


def test_the_gitlab_pipeline_passes_its_schema(tmp_path: Path) -> None:
    (pipeline,) = blocks((ROOT / "docs/building.md").read_text(), "yaml")
    (tmp_path / ".gitlab-ci.yml").write_text(pipeline)
    run("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", tmp_path / ".gitlab-ci.yml")


def test_the_nightly_workflow_is_clean_and_uses_what_the_others_use(default: Path, tmp_path: Path) -> None:
    (workflow,) = (block for block in blocks((ROOT / "docs/workers.md").read_text(), "yaml") if "schedule:" in block)
    (tmp_path / "nightly.yml").write_text(workflow)
    run("actionlint", tmp_path / "nightly.yml")
    run("zizmor", "--offline", "--pedantic", "--no-ignores", tmp_path / "nightly.yml")
    ours = (default / ".github/workflows/release.yml").read_text()
    assert all(action in ours for action in re.findall(r"uses: (.*)", workflow))


def test_the_tables_of_questions_are_complete_and_say_the_defaults() -> None:
    asked, knobs = (
        dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / document).read_text(), re.MULTILINE))
        for document in ("README.md", "docs/questions.md")
    )
    assert list(asked) == ASKED
    assert knobs.keys() == QUESTIONS.keys() - COMPUTED - set(ASKED)
    for name, default in (asked | knobs).items():
        fixed = str(DEFAULTS[name])
        fixed = fixed.lower() if QUESTIONS[name]["type"] == "bool" else fixed
        if default.startswith("`"):
            assert default.strip("`") == fixed
        else:
            assert not fixed or "{" in fixed or name == "description", f"the default of {name} is {fixed}"


def test_every_message_of_the_rendered_commands_has_a_cure(rendered: Path) -> None:
    cures = (ROOT / "docs/troubleshooting.md").read_text()
    programs = [path for path in (rendered / "ops").rglob("*") if path.is_file()]
    development = [rendered / "Makefile", *(path for path in programs if path.parent.name == "development")]
    messages = [message for file in development for message in re.findall(r'echo "(.*? .*?)" >&2', file.read_text())]
    for program in programs:
        messages += re.findall(r'^.*\bfail "(.*)"', program.read_text(), re.MULTILINE)
        if program.parent.name == "deployment":
            # `said` and `failed` are beginnings that the caller gives.
            said = re.findall(r"""(?:sys\.exit\(|AwsError\(|since, )f?(["'])(.*?)\1\)""", program.read_text())
            own = [text for _, text in said if not text.startswith(("{said}", "{failed}"))]
            messages += [re.sub(r"\{.*?\}", "$NAME", text) for text in own]
    assert messages
    for message in messages:
        # Without what differs from one service to another.
        phrase = next(part.strip() for part in re.split(r"\$\S+|\d\S*|[:.;,]", message) if " " in part.strip())
        assert phrase in cures, message
