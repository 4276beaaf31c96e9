"""GitHub without GitHub: a stand-in for `gh`, and the steps of a workflow."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.commands import GITHUB_SHELL, run


@dataclass
class GitHub:
    """A folder with the stand-in for `gh` and what it remembers."""

    folder: Path

    @property
    def state(self) -> dict[str, list[dict[str, Any]]]:
        state: dict[str, list[dict[str, Any]]] = json.loads((self.folder / "state.json").read_text())
        return state

    def save(self, **changed: list[dict[str, Any]]) -> None:
        (self.folder / "state.json").write_text(json.dumps(self.state | changed))


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
