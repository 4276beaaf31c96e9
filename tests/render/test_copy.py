"""What `copier copy` promises before anything is built."""

import re
import sys
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import yaml

from tests.support.commands import commit, run, tree
from tests.support.template import ANSWERS, COPIER_YML, EXAMPLES, NEWEST, QUESTIONS, ROOT, copy

SETTINGS = {"subdirectory", "min_copier_version", "envops", "skip_if_exists", "exclude"} | {
    f"message_{when}_{what}" for when in ("before", "after") for what in ("copy", "update")
}
KEYS = {"type", "help", "placeholder", "default", "choices", "validator", "ask", "when"}


def test_copy_needs_nothing_but_copier_and_no_trust(template: Path, tmp_path: Path) -> None:
    pins = yaml.safe_load((ROOT / "extensions/versions.yml").read_text())
    copier = ("uvx", "--isolated", f"copier@{pins['copier']}", "copy", "--defaults", "--vcs-ref", NEWEST, template)
    printed = run(*copier, tmp_path / "the first").stdout
    assert f'cd "{tmp_path / "the first"}"' in printed
    copy(template, tmp_path / "second", {})
    assert tree(tmp_path / "the first") == tree(tmp_path / "second")


def test_answers_are_recorded_and_computed_values_are_not(default: Path) -> None:
    recorded = yaml.safe_load((default / ".copier-answers.yml").read_text())
    asked = {name for name, spec in QUESTIONS.items() if spec.get("when") is not False}
    assert recorded.keys() - {"_commit", "_src_path"} == asked
    assert recorded["aws_account_id"] == "123456789012"
    assert {name: recorded[name] for name in EXAMPLES} == EXAMPLES, (
        "--defaults does not take what a terminal shows in grey"
    )


def test_an_account_id_keeps_its_leading_zeros(repositories: Callable[[str], Path]) -> None:
    recorded = yaml.safe_load((repositories("long") / ".copier-answers.yml").read_text())
    assert recorded["aws_account_id"] == "012345670123"


def test_copier_yml_has_no_key_that_copier_would_ignore() -> None:
    assert {name[1:] for name in COPIER_YML if name[0] == "_"} <= SETTINGS
    for name, spec in QUESTIONS.items():
        assert spec.keys() <= KEYS, name


def test_copier_yml_names_what_owners_keep_the_same_each_time(repositories: Callable[[str], Path]) -> None:
    kept = COPIER_YML["_skip_if_exists"]
    (excluded,) = COPIER_YML["_exclude"]
    ignored, added = (re.findall(rf"^{sign}(/.*)$", excluded, re.MULTILINE) for sign in ("", "!"))
    assert ignored[: len(kept)] == kept
    assert [path for path in added if not any(fnmatch(path, pattern) for pattern in kept)] == []
    rendered = {f"/{path}" for name in ANSWERS for path in tree(repositories(name))}
    gone = ignored[len(kept) :]
    assert [path for path in rendered if any(fnmatch(path, pattern) for pattern in gone)] == [], "they are not gone"


def test_every_question_says_what_it_asks_and_what_it_changes() -> None:
    for name, spec in QUESTIONS.items():
        assert {"type", "default"} <= spec.keys(), name
        if spec.get("when") is not False:
            question, effect = spec["help"].strip().split("\n")
            assert question.endswith("?"), name
            assert effect.endswith("."), name
            assert max(len(question), len(effect)) < 80, name


def test_every_document_names_the_same_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"Version {version};" in (ROOT / "README.md").read_text()
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version


def test_every_changelog_section_says_what_to_do_before_updating() -> None:
    for section in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        assert re.search(r"\n### Before updating\n\n\S", section), section


MESSAGES = {
    "copy": ("A FastAPI service on AWS ECS", "git init --initial-branch=main && make up"),
    "update": ("CHANGELOG.md", "make conflicts"),
}


def test_copiers_messages_are_short_and_name_the_next_step(template: Path, tmp_path: Path) -> None:
    copier = (sys.executable, "-m", "copier")
    said = {"copy": run(*copier, "copy", "--defaults", "--vcs-ref", NEWEST, template, tmp_path / "new").stdout}
    commit(tmp_path / "new")
    said["update"] = run(*copier, "update", "--defaults", "--vcs-ref", NEWEST, cwd=tmp_path / "new").stdout
    for what, texts in MESSAGES.items():
        for when, text in zip(("before", "after"), texts, strict=True):
            assert text in said[what]
            message = COPIER_YML[f"_message_{when}_{what}"]
            assert message.count("\n") <= 3
            assert message.split("\n")[0] in said[what].replace("my-service", "{{ service_name }}")


def test_without_kafka_no_file_mentions_it(default: Path) -> None:
    spoken = [path for path, text in tree(default).items() if "kafka" in text.lower() or "kafka" in path]
    assert spoken == [".copier-answers.yml"]


def test_without_a_database_nothing_speaks_of_it(default: Path) -> None:
    words = re.compile(r"postgres|sqlalchemy|alembic|psycopg|migrat|squawk|\brds\b", re.IGNORECASE)
    spoken = [path for path, text in tree(default).items() if words.search(text) or words.search(path)]
    assert spoken == []
