"""Released versions of the template, and services that were made from them."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests import project
from tests.project import GITHUB_SHELL, NEWEST, ROOT, commit, run

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


def seeds(paths: Iterable[str], package: str, template: Path = ROOT) -> set[str]:
    """Return those of the paths that no update looks at: seed-once files, and what the template once had."""
    (excluded,) = yaml.safe_load((template / "copier.yml").read_text())["_exclude"]
    patterns = [line.replace("src/*", f"src/{package}") for line in excluded.split() if line[0] == "/"]
    return {
        path
        for path in paths
        if any(Path(f"/{path}").match(line) or f"/{path}".startswith(line.removesuffix("**")) for line in patterns)
    }


@pytest.fixture
def copy(template: Path, tmp_path: Path) -> Copy:
    """Return a function that makes a committed service from a version of the template."""

    def copy(version: str, name: str = "service", template: Path = template, **answers: Any) -> Path:
        repository = project.copy(template, tmp_path / name, answers, version)
        commit(repository)
        return repository

    return copy


@dataclass
class GitHub:
    """A folder with the stand-in for `gh` and what it remembers."""

    folder: Path

    @property
    def state(self) -> dict[str, list[dict[str, Any]]]:
        state: dict[str, list[dict[str, Any]]] = json.loads((self.folder / "state.json").read_text())
        return state


@pytest.fixture
def github(tmp_path: Path) -> GitHub:
    """A `gh` without GitHub."""
    folder = tmp_path / "github"
    folder.mkdir()
    (folder / "state.json").write_text('{"releases": [], "pulls": []}')
    (folder / "gh").write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("gh.py")} "$@"\n')
    (folder / "gh").chmod(0o755)
    return GitHub(folder)


@dataclass
class Step:
    """What a step of a workflow did."""

    returncode: int
    stdout: str
    outputs: dict[str, str]


def run_step(workflow: Path, name: str, repository: Path, github: GitHub, **env: str) -> Step:
    """Run the named step of a workflow as GitHub does; `env` replaces what the step takes from GitHub."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    (step,) = [step for job in jobs for step in job["steps"] if step.get("name") == name]
    given = {key: value for key, value in step.get("env", {}).items() if "${{" not in str(value)}
    if "GH_TOKEN" in step.get("env", {}):
        given["GH_TOKEN"] = "secret"
    missing = step.get("env", {}).keys() - given.keys() - env.keys()
    assert not missing, f"the step needs {missing}"
    output = github.folder / "output"
    output.write_text("")
    environment = {"GH_STATE": str(github.folder / "state.json"), "GITHUB_OUTPUT": str(output)}
    environment |= {"RUNNER_TEMP": tempfile.mkdtemp(dir=github.folder), "PATH": f"{github.folder}:{os.environ['PATH']}"}
    done = run(*GITHUB_SHELL, step["run"], cwd=repository, check=False, **environment | given | env)
    return Step(done.returncode, done.stdout, dict(line.split("=", 1) for line in output.read_text().splitlines()))
