"""The template's own release workflow: what it runs is run here, on a Git repository with an origin."""

import re
from pathlib import Path

import pytest

from tests.support.commands import commit, run
from tests.support.template import ROOT
from tests.update.github import GitHub, run_step

WORKFLOW = ROOT / ".github/workflows/release.yml"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with an origin and what a release is made of: version 0.2.0, not released yet."""
    run("git", "init", "--quiet", "--bare", tmp_path / "origin")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.2.0"\n\n[tool.uv]\n')
    (repository / "CHANGELOG.md").write_text(
        "# Changelog\n\nNewest first.\n\n## 0.2.0 - 2026-12-01\n\nNew.\n\n### Before updating\n\nNothing.\n\n"
        "## 0.1.0 - 2026-11-24\n\nOld.\n"
    )
    commit(repository)
    run("git", "remote", "add", "origin", tmp_path / "origin", cwd=repository)
    run("git", "push", "--quiet", "origin", "main", cwd=repository)
    return repository


def test_a_new_version_is_tagged_and_released_once(repository: Path, github: GitHub) -> None:
    assert run_step(WORKFLOW, "Is the version new?", repository, github).outputs == {"version": "0.2.0"}
    head = run("git", "rev-parse", "HEAD", cwd=repository).stdout.strip()
    environment = {"VERSION": "0.2.0", "GITHUB_SHA": head}
    assert run_step(WORKFLOW, "Release", repository, github, **environment).returncode == 0
    (release,) = github.state["releases"]
    assert (release["tag"], release["title"]) == ("v0.2.0", "v0.2.0")
    assert release["notes"].strip() == "New.\n\n### Before updating\n\nNothing."

    run("git", "fetch", "--quiet", "--tags", cwd=repository)
    assert run("git", "rev-parse", "v0.2.0", cwd=repository).stdout.strip() == head
    commit(repository, "No new version")
    assert run_step(WORKFLOW, "Is the version new?", repository, github).outputs == {}
    later = run_step(WORKFLOW, "Release", repository, github, VERSION="0.2.0", GITHUB_SHA="main")
    assert later.returncode != 0
    assert run("git", "ls-remote", "origin", "v0.2.0", cwd=repository).stdout.split()[0] == head


def test_a_version_without_a_changelog_section_is_not_released(repository: Path, github: GitHub) -> None:
    done = run_step(WORKFLOW, "Release", repository, github, VERSION="0.3.0", GITHUB_SHA="main")
    assert done.returncode == 1
    assert done.stdout == "CHANGELOG.md has no section 0.3.0.\n"
    assert github.state["releases"] == []


def test_the_release_workflow_passes_its_linters() -> None:
    run("actionlint", WORKFLOW)
    run("zizmor", "--offline", "--pedantic", "--no-ignores", WORKFLOW)
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW)


def test_the_release_workflow_pins_the_same_checkout_as_the_services(default: Path) -> None:
    pins = [set(re.findall("uses: .*", file.read_text())) for file in (WORKFLOW, default / ".github/workflows/ci.yml")]
    assert len(pins[0]) == 1
    assert pins[0] < pins[1]
    assert WORKFLOW.read_text().count("persist-credentials: false") == 2
