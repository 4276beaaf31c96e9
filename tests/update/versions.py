"""Released versions of the template, and updates between them."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import copier
import yaml

from tests.support.commands import run
from tests.support.template import NEWEST, ROOT


def show(template: Path, version: str, path: str) -> str:
    """Return a file as it is in a version."""
    return run("git", "show", f"{version}:{path}", cwd=template).stdout


def versions(template: Path) -> dict[str, str]:
    """Return the tags of released versions with their commits: those that changed the version in pyproject.toml."""
    log = run("git", "log", "--reverse", "--format=%H", "-G^version = ", "--", "pyproject.toml", cwd=template).stdout
    found = {}
    for revision in log.split():
        if version := re.search(r'^version = "(.*)"$', show(template, revision, "pyproject.toml"), re.MULTILINE):
            found[f"v{version[1]}"] = revision
    return found


@cache
def config(template: Path, version: str) -> dict[str, Any]:
    """Return the copier.yml of a version."""
    found: dict[str, Any] = yaml.safe_load(show(template, version, "copier.yml"))
    return found


def first_and_last(tags: Iterable[str]) -> list[str]:
    """Return the first and the last release of each minor version: the tests do not grow with each fix."""
    minors: dict[str, list[str]] = {}
    for tag in tags:
        minors.setdefault(tag.rpartition(".")[0], []).append(tag)
    return [tag for releases in minors.values() for tag in dict.fromkeys((releases[0], releases[-1]))]


def update(repository: Path, version: str = NEWEST, **answers: Any) -> None:
    """Run `copier update` as a user does, without trust, with the answers that are there."""
    copier.run_update(repository, answers, vcs_ref=version, defaults=True, overwrite=True, quiet=True, unsafe=False)


def conflicts(repository: Path) -> str:
    rejected = [path.name for path in repository.rglob("*.rej")]
    return run("git", "ls-files", "--unmerged", cwd=repository).stdout + "\n".join(rejected)


def seeds(paths: Iterable[str], package: str, template: Path = ROOT) -> set[str]:
    """Return those of the paths that no update looks at: seed-once files, and what the template once had."""
    (excluded,) = yaml.safe_load((template / "copier.yml").read_text())["_exclude"]
    patterns = [line.replace("src/*", f"src/{package}") for line in excluded.split() if line[0] == "/"]
    return {
        path
        for path in paths
        if any(Path(f"/{path}").match(line) or f"/{path}".startswith(line.removesuffix("**")) for line in patterns)
    }
