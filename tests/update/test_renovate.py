"""Renovate's own check of its configuration, where npm can get it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.project import run

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


@pytest.mark.parametrize("ci", ["github", "none"])
def test_renovate_accepts_its_configuration(render: Render, validator: Path, ci: str) -> None:
    file = render(ci=ci) / "renovate.json"
    run(validator, "--strict", "--no-global", file)
    # Where Dependabot is, it has the rest.
    assert (json.loads(file.read_text()).get("enabledManagers") == ["copier"]) == (ci == "github")


def test_renovate_refuses_a_mistake(validator: Path, tmp_path: Path) -> None:
    (tmp_path / "renovate.json").write_text('{"enabledManagers": ["copyer"]}')
    refused = run(validator, "--strict", "--no-global", tmp_path / "renovate.json", check=False)
    assert refused.returncode != 0
