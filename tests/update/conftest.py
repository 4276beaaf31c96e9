"""Released versions of the template, and services that were made from them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest

from tests import project
from tests.project import NEWEST, commit, run

Copy = Callable[..., Path]


def versions(template: Path) -> dict[str, str]:
    """Return the tags of released versions with their commits: those that changed the version in pyproject.toml."""
    log = run("git", "log", "--reverse", "--format=%H", "-G^version = ", "--", "pyproject.toml", cwd=template).stdout
    found = {}
    for revision in log.split():
        text = run("git", "show", f"{revision}:pyproject.toml", cwd=template).stdout
        if version := re.search(r'^version = "(.*)"$', text, re.MULTILINE):
            found[f"v{version[1]}"] = revision
    return found


@pytest.fixture(scope="session")
def released(template: Path) -> list[str]:
    """The tags of the released versions, oldest first, set in the clone of the template."""
    tags = versions(template)
    for tag, revision in tags.items():
        run("git", "tag", "--force", tag, revision, cwd=template)
    return list(tags)


def update(repository: Path, version: str = NEWEST, **answers: Any) -> None:
    """Run `copier update` as a user does, without trust, with the answers that are there."""
    copier.run_update(repository, answers, vcs_ref=version, defaults=True, overwrite=True, quiet=True, unsafe=False)


def conflicts(repository: Path) -> str:
    rejected = [path.name for path in repository.rglob("*.rej")]
    return run("git", "ls-files", "--unmerged", cwd=repository).stdout + "\n".join(rejected)


@pytest.fixture
def copy(template: Path, tmp_path: Path) -> Copy:
    """Return a function that makes a committed service from a version of the template."""

    def copy(version: str, name: str = "service", **answers: Any) -> Path:
        repository = project.copy(template, tmp_path / name, answers, version)
        commit(repository)
        return repository

    return copy
