"""`make template-update`, and the workflow that opens a pull request with what it does."""

import re
from pathlib import Path

import pytest
import yaml

from tests.project import NEWEST, commit, run
from tests.update.conftest import Copy, GitHub, Step, run_step

NEXT, AFTER_NEXT = "v9999.2.0", "v9999.3.0"
CHANGELOG = "# Changelog\n\n## 9999.{}.0\n\nNews {}.\n\n### Before updating\n\nNothing.\n\n## 9999.0.0\n\nOld.\n"


@pytest.fixture
def published(template: Path, tmp_path: Path) -> Path:
    """A template of its own: the one under test, then a version that changes a line of .gitignore."""
    clone = tmp_path / "template"
    run("git", "clone", "--quiet", template, clone)
    publish(clone, 2)
    return clone


def publish(template: Path, number: int) -> None:
    gitignore = template / "template/.gitignore"
    gitignore.write_text(re.sub(r"^\.coverage.*$", f".coverage{number}", gitignore.read_text(), flags=re.MULTILINE))
    (template / "CHANGELOG.md").write_text(CHANGELOG.format(number, number))
    commit(template)
    run("git", "tag", f"v9999.{number}.0", cwd=template)


@pytest.fixture
def service(copy: Copy, published: Path, tmp_path: Path) -> Path:
    """A service of the version before, with an origin."""
    service = copy(NEWEST, template=published)
    run("git", "init", "--quiet", "--bare", tmp_path / "origin")
    run("git", "remote", "add", "origin", tmp_path / "origin", cwd=service)
    run("git", "push", "--quiet", "--set-upstream", "origin", "main", cwd=service)
    return service


def version(service: Path) -> str:
    return str(yaml.safe_load((service / ".copier-answers.yml").read_text())["_commit"])


def edit(service: Path) -> None:
    """Change the line that the next version changes, too."""
    gitignore = service / ".gitignore"
    gitignore.write_text(gitignore.read_text().replace(".coverage", ".coverage-of-mine"))
    commit(service)
    run("git", "push", "--quiet", cwd=service)


def make(service: Path) -> tuple[int, list[str]]:
    done = run("make", "--no-print-directory", "template-update", cwd=service, check=False)
    return done.returncode, [
        line for line in done.stdout.splitlines() if not line.startswith(("uvx ", "make", "Installed"))
    ]


def test_it_updates_and_says_what_is_next(service: Path) -> None:
    status, said = make(service)
    assert (status, said[-1]) == (0, "Updated: look at git diff, run make lint test, commit.")
    assert version(service) == NEXT
    assert ".coverage2" in (service / ".gitignore").read_text()
    commit(service)
    assert make(service) == (0, ["This is the template's newest version."])


def test_it_lists_conflicts_and_fails(service: Path) -> None:
    edit(service)
    status, said = make(service)
    assert status != 0
    assert said[-2:] == [".gitignore", "Resolve these conflicts, then commit."]


def test_it_wants_a_clean_tree(service: Path) -> None:
    (service / "new.txt").touch()
    status, said = make(service)
    assert status != 0
    assert said == ["Commit your changes first: an update needs a clean tree."]
    assert version(service) == NEWEST


def test_it_says_what_is_removed(service: Path, published: Path) -> None:
    (published / "template/.pre-commit-config.yaml").unlink()
    publish(published, 3)
    _, said = make(service)
    file = ".pre-commit-config.yaml"
    assert f'Removed: {file}, which "git checkout HEAD -- {file}" brings back.' in said


def test_it_keeps_the_lock_file_fitting(copy: Copy, published: Path) -> None:
    service = copy(NEWEST, template=published, python_version="3.11")
    run("uv", "lock", "--quiet", cwd=service)
    commit(service)
    project = published / "template/pyproject.toml.jinja"
    project.write_text(project.read_text().replace('    "httpx2>=2",\n', '    "httpx2>=2",\n    "iniconfig>=2",\n'))
    publish(published, 3)
    assert make(service)[0] == 0
    run("uv", "lock", "--check", cwd=service)


def weekly(service: Path, github: GitHub) -> Step:
    """Run the workflow on a checkout of main, as GitHub does; return its last step."""
    run("git", "checkout", "--quiet", "--force", "main", cwd=service)
    run("git", "clean", "--quiet", "-d", "--force", cwd=service)
    workflow = service / ".github/workflows/template-update.yml"
    found = run_step(workflow, "Look for a new version", service, github)
    assert found.returncode == 0, found.stdout
    if not found.outputs:
        return found
    updated = run_step(workflow, "Update", service, github)
    assert updated.returncode == 0, updated.stdout
    last = run_step(workflow, "Open or refresh the pull request", service, github, GITHUB_REF_NAME="main")
    assert last.returncode == 0, last.stdout
    return last


def on_branch(service: Path, path: str) -> str:
    return run("git", "--git-dir=../origin", "show", f"template-update:{path}", cwd=service).stdout


def test_a_pull_request_shows_what_is_new(service: Path, github: GitHub) -> None:
    weekly(service, github)
    (pull,) = github.state["pulls"]
    assert (pull["head"], pull["base"], pull["draft"]) == ("template-update", "main", False)
    assert pull["title"] == f"Update the template to {NEXT}"
    news = "## 9999.2.0\n\nNews 2.\n\n### Before updating\n\nNothing.\n\n"
    assert pull["body"] == f"The template's version {NEXT}, from {NEWEST}.\n\n{news}"
    assert ".coverage2\n" in on_branch(service, ".gitignore")
    assert run("git", "ls-remote", "origin", "main", cwd=service).stdout[:40] == commit_of(service, "main")


def commit_of(service: Path, name: str) -> str:
    return run("git", "rev-parse", name, cwd=service).stdout.strip()


def test_it_is_refreshed_and_a_draft_while_there_are_conflicts(service: Path, published: Path, github: GitHub) -> None:
    weekly(service, github)
    run("git", "checkout", "--quiet", "main", cwd=service)
    edit(service)
    publish(published, 3)
    weekly(service, github)
    (pull,) = github.state["pulls"]
    assert pull["draft"]
    assert pull["title"] == f"Update the template to {AFTER_NEXT}"
    assert "Conflicts to resolve on this branch:\n\n- .gitignore\n\n## 9999.3.0" in pull["body"]
    assert "<<<<<<<" in on_branch(service, ".gitignore")
    assert run("git", "rev-list", "--count", "main..template-update", cwd=service).stdout == "1\n"


def test_somebodys_work_on_the_branch_is_left_alone(service: Path, published: Path, github: GitHub) -> None:
    edit(service)
    weekly(service, github)
    (service / ".gitignore").write_text("resolved\n")
    commit(service)
    run("git", "push", "--quiet", "origin", "template-update", cwd=service)
    publish(published, 3)
    assert "::notice::Somebody has worked on #1" in weekly(service, github).stdout
    assert on_branch(service, ".gitignore") == "resolved\n"


def test_without_news_nothing_is_opened(service: Path, github: GitHub) -> None:
    make(service)
    commit(service)
    assert weekly(service, github).outputs == {}
    assert github.state["pulls"] == []
