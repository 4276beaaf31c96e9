"""Renovate's own check of its configuration, where npm can get it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.commands import run
from tests.support.template import Render

RENOVATE = "renovate@44.121.2"


def test_renovate_accepts_its_configuration_and_refuses_a_mistake(render: Render, tmp_path: Path) -> None:
    """By the Node.js of the development dependencies; no package's own script is run."""
    folder = tmp_path / "renovate"
    npm = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--omit=optional", "--no-audit", RENOVATE]
    done = subprocess.run(npm, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot get Renovate: {done.stderr.strip().splitlines()[-1]}")
    validate = (folder / "node_modules/.bin/renovate-config-validator", "--strict", "--no-global")
    run(*validate, render(ci="none") / "renovate.json")
    (tmp_path / "renovate.json").write_text('{"enabledManagers": ["copyer"]}')
    refused = run(*validate, tmp_path / "renovate.json", check=False)
    shutil.rmtree(folder)
    assert refused.returncode != 0


def test_bots_leave_the_pins_of_the_template_alone(render: Render) -> None:
    assert not (render() / "renovate.json").exists()
    (updates,) = yaml.safe_load((render() / ".github/dependabot.yml").read_text())["updates"]
    assert (updates["package-ecosystem"], updates["versioning-strategy"]) == ("uv", "lockfile-only")
    renovate = json.loads((render(ci="none") / "renovate.json").read_text())
    assert renovate["enabledManagers"] == ["copier", "pep621"]
    assert {"matchManagers": ["pep621"], "rangeStrategy": "update-lockfile"} in renovate["packageRules"]
