"""Released versions of the template, and services that were made from them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest

from tests.project import run

NEWEST = "v9999.0.0"
Copy = Callable[..., Path]


def versions(template: Path) -> dict[str, str]:
    """Return each released version and its commit: the commits that changed the version in pyproject.toml."""
    log = run("git", "log", "--reverse", "--format=%H", "-G^version = ", "--", "pyproject.toml", cwd=template).stdout
    found = {}
    for commit in log.split():
        text = run("git", "show", f"{commit}:pyproject.toml", cwd=template).stdout
        if version := re.search(r'^version = "(.*)"$', text, re.MULTILINE):
            found[version[1]] = commit
    return found


@pytest.fixture(scope="session")
def released(template: Path) -> list[str]:
    """The tags of the released versions, oldest first, set in the clone of the template."""
    for version, commit in versions(template).items():
        run("git", "tag", "--force", f"v{version}", commit, cwd=template)
    return [f"v{version}" for version in versions(template)]


def commit(repository: Path) -> None:
    if not (repository / ".git").exists():
        run("git", "init", "--quiet", cwd=repository)
    run("git", "add", "--all", cwd=repository)
    run("git", "commit", "--quiet", "--allow-empty", "--message", "Saved", cwd=repository)


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
        repository = tmp_path / name
        copier.run_copy(str(template), repository, answers, vcs_ref=version, defaults=True, quiet=True, unsafe=False)
        commit(repository)
        return repository

    return copy
