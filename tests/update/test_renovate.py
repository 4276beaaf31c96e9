"""Renovate's own check of its configuration, where npm can get it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.commands import run

RENOVATE = "renovate@44.121.2"


@pytest.fixture
def configuration(repositories: Callable[[str], Path]) -> Path:
    """That of a service without GitHub Actions."""
    return repositories("old") / "renovate.json"


def test_renovate_accepts_its_configuration_and_refuses_a_mistake(configuration: Path, tmp_path: Path) -> None:
    """By the Node.js of the development dependencies; no package's own script is run."""
    folder = tmp_path / "renovate"
    npm = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--omit=optional", "--no-audit", RENOVATE]
    done = subprocess.run(npm, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot get Renovate: {done.stderr.strip().splitlines()[-1]}")
    validate = (folder / "node_modules/.bin/renovate-config-validator", "--strict", "--no-global")
    run(*validate, configuration)
    (tmp_path / "renovate.json").write_text('{"enabledManagers": ["copyer"]}')
    refused = run(*validate, tmp_path / "renovate.json", check=False)
    shutil.rmtree(folder)
    assert refused.returncode != 0


def test_bots_leave_pyproject_and_the_choice_of_a_python_alone(configuration: Path, default: Path) -> None:
    assert not (default / "renovate.json").exists()
    python, images, _actions = yaml.safe_load((default / ".github/dependabot.yml").read_text())["updates"]
    assert (python["package-ecosystem"], python["versioning-strategy"]) == ("uv", "lockfile-only")
    choices = ["version-update:semver-major", "version-update:semver-minor"]
    assert images["ignore"] == [{"dependency-name": "*", "update-types": choices}]
    renovate = json.loads(configuration.read_text())
    images = {"matchManagers": ["dockerfile", "docker-compose"], "matchUpdateTypes": ["major", "minor"]}
    assert images | {"enabled": False} in renovate["packageRules"]
    assert {"matchManagers": ["pep621"], "rangeStrategy": "update-lockfile"} in renovate["packageRules"]
