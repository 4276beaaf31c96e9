"""Released versions of the template, and services that were made from them."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import commit, edit, run
from tests.support.template import NEWEST, Copy
from tests.support.template import copy as copied
from tests.update.github import GitHub
from tests.update.releases import publish
from tests.update.versions import first_and_last, versions


@pytest.fixture(scope="session")
def released(template: Path) -> list[str]:
    """The tags of the first and the last release of each minor version, oldest first, set in the template's clone."""
    tags = versions(template)
    for tag, revision in tags.items():
        run("git", "tag", "--force", tag, revision, cwd=template)
    chosen = first_and_last(tags)
    assert chosen[:4] == ["v0.1.0", "v0.2.0", "v0.3.0", "v0.3.1"]
    return chosen


@pytest.fixture
def copy(template: Path, tmp_path: Path) -> Copy:
    """Return a function that makes a committed service from a version of the template."""

    def copy(version: str, name: str = "service", template: Path = template, **answers: Any) -> Path:
        repository = copied(template, tmp_path / name, answers, version)
        commit(repository)
        return repository

    return copy


@pytest.fixture(scope="session")
def base(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template under test without its past, which every update would clone."""
    base = tmp_path_factory.mktemp("base") / "template"
    base.mkdir()
    for name in ("copier.yml", "extensions", "template"):
        run("cp", "--archive", template / name, base)
    commit(base)
    run("git", "tag", NEWEST, cwd=base)
    run("git", "gc", "--quiet", cwd=base)
    return base


@pytest.fixture(scope="session")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the template renders from its default answers."""
    return copied(base, tmp_path_factory.mktemp("original") / "service", {})


@pytest.fixture
def published(base: Path, tmp_path: Path) -> Path:
    """A template of its own: the one under test, then a version that changes a line of .gitignore."""
    published = shutil.copytree(base, tmp_path / "template")
    publish(published, 2)
    return published


@pytest.fixture
def service(base: Path, original: Path, published: Path, tmp_path: Path) -> Path:
    """A service of the version before."""
    service = shutil.copytree(original, tmp_path / "service")
    edit(service / ".copier-answers.yml", str(base), str(published))
    commit(service)
    return service


@pytest.fixture
def github(tmp_path: Path) -> GitHub:
    """A `gh` without GitHub."""
    folder = tmp_path / "github"
    folder.mkdir()
    (folder / "state.json").write_text('{"releases": [], "pulls": []}')
    (folder / "gh").write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("gh.py")} "$@"\n')
    (folder / "gh").chmod(0o755)
    return GitHub(folder)
