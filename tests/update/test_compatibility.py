"""A new version accepts every question, answer and file of the last release; the changelog names each exception.

"Before updating" of a new version must name, in backquotes: `file` that is gone, or its `folder/`, with PACKAGE for the
service's; `question` that is gone; `question=answer` that is refused; `extensions/reserved.yml` if it has more names.
No file ever becomes a folder, or back.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import commit, run, tree
from tests.support.template import ANSWERS, NEWEST, QUESTIONS, ROOT, copy
from tests.update.versions import config, seeds, show

Answers = dict[str, Any]

LIMITS: list[Answers] = [
    {
        "service_name": "ab",
        "description": "a",
        "pack": "ab",
        "aws_account_id": "000000000000",
        "package_name": "a",
        "port": 1024,
        "health_path": "/a",
        "min_tasks": 1,
        "max_tasks": 1,
        "workers": 1,
        "deploy": "none",
        "stop_timeout": 2,
        "default_branch": "a",
        "base_image_registry": "a.b",
        "base_image": "a.b/c:d",
        "final_image": "a.b/c:d",
        "uv_image_registry": "a.b",
        "package_index_url": "https://a",
        "system_packages": "jq",
        "build_packages": "gc",
    },
    {
        "service_name": "a-1" * 13 + "z",
        "description": "\N{SNOWMAN}'{%" * 25,
        "pack": "a-1" * 13 + "z",
        "aws_account_id": "999999999999",
        "package_name": "a_1" * 13 + "z",
        "port": 65535,
        "health_path": "/a-_Z" * 20,
        "min_tasks": 5000,
        "max_tasks": 5000,
        "cpu": 16384,
        "memory": 122880,
        "workers": 64,
        "deploy": "none",
        "stop_timeout": 120,
        "default_branch": "a/b-c.d_" * 7 + "edge",
        "base_image_registry": "a-1.b.cd:65535/e/f-g_h.i",
        "base_image": "a-1.b.cd:65535/e/f-g__h.i:J_k.l-m@sha256:" + "0a" * 32,
        "final_image": "a-1.b.cd:65535/e/f-g__h.i:J_k.l-m@sha256:" + "0a" * 32,
        "uv_image_registry": "a-1.b.cd:65535/e/f-g_h.i",
        "package_index_url": "https://a-1.b.cd:65535/E/f-g_h.i~/",
        "system_packages": "a+.-" * 250,
        "build_packages": "a+.-" * 250,
    },
]


def questions(template: Path, version: str) -> dict[str, dict[str, Any]]:
    """Return the questions whose answers services have recorded."""
    found = config(template, version).items()
    return {name: spec for name, spec in found if name[0] != "_" and spec.get("when") is not False}


def reserved(template: Path, version: str) -> set[str]:
    """Return the names that a package may not have."""
    return {
        name for names in yaml.safe_load(show(template, version, "extensions/reserved.yml")).values() for name in names
    }


def candidates(template: Path, version: str) -> Iterator[Answers]:
    """Yield answers that services of a release may have: its tests' own, limits, and each choice once."""
    module = "tests/support/template.py"
    if run("git", "cat-file", "-e", f"{version}:{module}", cwd=template, check=False).returncode:
        module = "tests/project.py"  # up to 0.3.1
    tests: dict[str, Any] = {"__file__": str(ROOT / module)}
    exec(show(template, version, module), tests)
    yield from tests["ANSWERS"].values()
    yield from LIMITS
    every: dict[str, list[Any]] = {
        "aws_region": re.findall("- (.*)", show(template, version, "extensions/regions.yml"))
    }
    for name, spec in questions(template, version).items():
        if isinstance(choices := spec.get("choices"), list | dict):
            every[name] = list(choices.values() if isinstance(choices, dict) else choices)
    longest = max(map(len, every.values()))
    rows = zip(*(islice(cycle(values), longest) for values in every.values()), strict=True)
    yield from (dict(zip(every, row, strict=True)) for row in rows)
    sizes = yaml.safe_load(show(template, version, "extensions/fargate.yml"))
    yield from (
        {"cpu": cpu, "memory": memory, "workers": min(memory // 128, 64)}
        for cpu in sizes
        for memory in (sizes[cpu][0], sizes[cpu][-1])
    )


def only_questions(template: Path, version: str, folder: Path) -> Callable[[Answers], str]:
    """Return a function that says which question of a version refuses answers, if any; it renders next to nothing."""
    known = questions(template, version).keys()
    asked = folder / version
    (asked / "template").mkdir(parents=True)
    (asked / "template" / "empty").touch()
    archive = f"git archive {version} copier.yml extensions | tar --extract --directory '{asked}'"
    run("bash", "-c", archive, cwd=template)

    def refused(answers: Answers) -> str:
        new = folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            copy(asked, new, {name: answer for name, answer in answers.items() if name in known}, "HEAD")
        except ValueError as refusal:
            return str(re.findall(r"(?:question|choice for) '(\w+)'", str(refusal))[0])
        return ""

    return refused


@dataclass
class Held:
    """What services of a version have: questions, answers that it accepted, files that it made from some of them."""

    version: str
    questions: set[str]
    accepted: list[Answers]
    made: list[tuple[Answers, set[str]]]


def held(template: Path, version: str, folder: Path) -> Held:
    recorded = questions(template, version).keys()
    refused = only_questions(template, version, folder)
    known = [
        {name: answer for name, answer in row.items() if name in recorded} for row in candidates(template, version)
    ]
    accepted = [row for row in known if not refused(row)]
    made = []
    for number, row in enumerate(ANSWERS.values()):
        answers = {name: row[name] for name in row.keys() & recorded - {"service_name"}}
        if not refused(answers):
            made.append((answers, set(tree(copy(template, folder / f"{version}-{number}", answers, version)))))
    return Held(version, set(recorded), accepted, made)


def incompatible(old: Held, template: Path, new: str, folder: Path) -> set[str]:
    """Return what services have that a version refuses or takes away."""
    refused = only_questions(template, new, folder)
    found = old.questions - questions(template, new).keys()
    if reserved(template, new) - reserved(template, old.version):
        found.add("extensions/reserved.yml")
    for answers in old.accepted:
        if name := refused(answers):
            found.add(f"{name}={answers.get(name)}")
    for number, (answers, files) in enumerate(old.made):
        if not refused(answers):
            files_now = set(tree(copy(template, folder / f"{new}-{number}", answers, new)))
            turned = (files & folders(files_now)) | (files_now & folders(files))
            assert not turned, f"no service can be updated where a file becomes a folder, or back: {turned}"
            gone = files - files_now
            found |= gone - seeds(gone, "my_service", template)
    return found


def folders(files: set[str]) -> set[str]:
    """Return the folders of files."""
    return {parent.as_posix() for file in files for parent in Path(file).parents}


def announced(template: Path, old: str, new: str) -> set[str]:
    """Return what the changelog of the new version names before updating."""
    section = show(template, new, "CHANGELOG.md").split("\n## ")[1]
    if section.split()[0] == old.removeprefix("v"):
        return set()  # that version is released
    return set(re.findall("`(.*?)`", section.partition("### Before updating")[2].replace("PACKAGE", "my_service")))


@pytest.mark.parametrize(
    "back", [1, 2]
)  # of the last release, which may be the version under test, and of the one before
def test_no_answer_question_or_file_of_a_service_goes_unannounced(
    template: Path, released: list[str], tmp_path: Path, back: int
) -> None:
    old = released[-back]
    named = announced(template, old, NEWEST)
    folders = tuple(name for name in named if name.endswith("/"))
    found = incompatible(held(template, old, tmp_path), template, NEWEST, tmp_path)
    unnamed = {name for name in found - named if not name.startswith(folders)}
    assert not unnamed, 'name it in CHANGELOG.md under "Before updating"'


def test_every_question_accepts_the_limits_of_its_rule(template: Path, tmp_path: Path) -> None:
    refused = only_questions(template, NEWEST, tmp_path)
    assert [refused(limits) for limits in LIMITS] == ["", ""]
    # Every region and Python version is tried; ci, kafka and worker have no limits of their own.
    free = {name for name, spec in QUESTIONS.items() if "validator" in spec}
    assert free - {"aws_region", "ci", "kafka", "python_version", "worker"} <= LIMITS[0].keys() & LIMITS[1].keys()


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(template: Path) -> None:
        text = (template / file).read_text()
        assert re.search(old, text)
        (template / file).write_text(re.sub(old, new, text))

    return change


def rename_question(template: Path) -> None:
    for path in [template / "copier.yml", *template.rglob("*.jinja")]:
        path.write_text(re.sub(r"\bmax_tasks\b", "most_tasks", path.read_text()))


# What the changelog must name, and a change that takes it away.
BREAKS: dict[str, Callable[[Path], Any]] = {
    ".pre-commit-config.yaml": lambda template: (template / "template/.pre-commit-config.yaml").unlink(),
    "Dockerfile.dev": lambda template: (template / "template/Dockerfile.dev.jinja").rename(
        template / "template/dev.Dockerfile.jinja"
    ),
    "python_version=3.11": replace("copier.yml", '"3.11", ', ""),
    "port=1024": replace("extensions/rules.jinja", "1024, 65535", "1025, 65535"),
    "extensions/reserved.yml": replace("extensions/reserved.yml", "\n  - con\n", "\n  - con\n  - conx\n"),
    "aws_region=us-west-2": replace("extensions/regions.yml", " +- us-west-2\n", ""),
    "max_tasks": rename_question,
}


@pytest.mark.parametrize(("file", "becomes"), [("gunicorn.conf.py.jinja", "gunicorn.conf.py"), (".devcontainer", "")])
def test_no_file_becomes_a_folder_or_back(template: Path, tmp_path: Path, file: str, becomes: str) -> None:
    clone = tmp_path / "template"
    run("git", "clone", "--quiet", template, clone)
    if becomes:
        (clone / "template" / file).rename(clone / "template/moved")
        (clone / "template" / becomes).mkdir()
        (clone / "template/moved").rename(clone / "template" / becomes / file)
    else:
        shutil.rmtree(clone / "template" / file)
        (clone / "template" / file).touch()
    commit(clone)
    run("git", "tag", "v9999.1.0", cwd=clone)
    old = Held(NEWEST, set(), [], [({}, set(tree(copy(template, tmp_path / "old", {}))))])
    with pytest.raises(AssertionError, match=f"becomes a folder, or back: .*{becomes or file}"):
        incompatible(old, clone, "v9999.1.0", tmp_path / "work")


def test_each_breaking_change_must_be_in_the_changelog(template: Path, tmp_path: Path) -> None:
    clone = tmp_path / "template"
    run("git", "clone", "--quiet", template, clone)
    for make in BREAKS.values():
        make(clone)
    # A removed file that updates exclude is no break.
    (clone / "template/AGENTS.md.jinja").unlink()
    replace("copier.yml", r"(    /README.md\n)", r"\1    /AGENTS.md\n")(clone)
    commit(clone)
    run("git", "tag", "v9999.1.0", cwd=clone)
    newest = held(template, NEWEST, tmp_path / "newest")
    assert incompatible(newest, clone, "v9999.1.0", tmp_path / "work") == BREAKS.keys()
    for before, names in (("Nothing.", set()), *((f"- `{name}` goes.", {name}) for name in BREAKS)):
        entry = f"# Changelog\n\n## 9999.1.0\n\nNews.\n\n### Before updating\n\n{before}\n\n## 9999.0.0\n\n`x`\n"
        (clone / "CHANGELOG.md").write_text(entry)
        commit(clone)
        assert announced(clone, NEWEST, "HEAD") == names
