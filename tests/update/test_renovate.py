"""Renovate's own check of its configuration, where npm can get it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.commands import run
from tests.support.template import Render

RENOVATE = "renovate@44.121.2"


@pytest.fixture(scope="session")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Renovate's checker, run by the Node.js of the development dependencies; no package's own script is run."""
    folder = tmp_path_factory.mktemp("renovate")
    npm = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--omit=optional", "--no-audit", RENOVATE]
    done = subprocess.run(npm, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot get Renovate: {done.stderr.strip().splitlines()[-1]}")
    yield folder / "node_modules/.bin/renovate-config-validator"
    shutil.rmtree(folder)


def test_renovate_accepts_its_configuration(render: Render, validator: Path) -> None:
    file = render(ci="none") / "renovate.json"
    run(validator, "--strict", "--no-global", file)


def test_bots_leave_the_pins_of_the_template_alone(render: Render) -> None:
    assert not (render() / "renovate.json").exists()
    (updates,) = yaml.safe_load((render() / ".github/dependabot.yml").read_text())["updates"]
    assert (updates["package-ecosystem"], updates["versioning-strategy"]) == ("uv", "lockfile-only")
    renovate = json.loads((render(ci="none") / "renovate.json").read_text())
    assert renovate["enabledManagers"] == ["copier", "pep621"]
    assert {"matchManagers": ["pep621"], "rangeStrategy": "update-lockfile"} in renovate["packageRules"]


def test_renovate_refuses_a_mistake(validator: Path, tmp_path: Path) -> None:
    (tmp_path / "renovate.json").write_text('{"enabledManagers": ["copyer"]}')
    refused = run(validator, "--strict", "--no-global", tmp_path / "renovate.json", check=False)
    assert refused.returncode != 0
