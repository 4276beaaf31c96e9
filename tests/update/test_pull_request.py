"""Once a week a workflow opens a pull request with what `make template-update` does."""

from pathlib import Path

import pytest

from tests.support.commands import commit, edit, run
from tests.support.template import NEWEST
from tests.update.github import GitHub, run_step
from tests.update.releases import AFTER_NEXT, NEXT, publish, tighten
from tests.update.script import template_update


@pytest.fixture
def checkout(service: Path, tmp_path: Path) -> Path:
    """A service with an origin, cloned as GitHub clones it."""
    run("git", "clone", "--quiet", "--bare", service, tmp_path / "origin")
    run("git", "clone", "--quiet", "--single-branch", (tmp_path / "origin").as_uri(), tmp_path / "checkout")
    return tmp_path / "checkout"


LEFT_ALONE = "::notice::Somebody has worked on the branch template-update; it is left alone"


def weekly(checkout: Path, github: GitHub) -> str:
    """Run the workflow on a fresh checkout of main, as GitHub does; return what it says."""
    run("git", "checkout", "--quiet", "--force", "main", cwd=checkout)
    run("git", "clean", "--quiet", "-d", "--force", cwd=checkout)
    workflow = checkout / ".github/workflows/template-update.yml"
    done = run_step(workflow, "Open or refresh the pull request", checkout, github, GITHUB_REF_NAME="main")
    assert done.returncode == 0, done.stdout
    return done.stdout


def on_branch(checkout: Path, path: str) -> str:
    return run("git", "--git-dir=../origin", "show", f"template-update:{path}", cwd=checkout).stdout


def test_one_pull_request_shows_what_is_new_until_somebody_works_on_it(
    checkout: Path, published: Path, github: GitHub
) -> None:
    weekly(checkout, github)
    (pull,) = github.state["pulls"]
    assert (pull["head"], pull["base"], pull["draft"]) == ("template-update", "main", False)
    assert pull["title"] == f"Update the template to {NEXT}"
    said = "Updated: look at git diff HEAD, run make lint test, commit."
    news = "## 9999.2.0\n\nNews 2.\n\n### Before updating\n\nNothing.\n\n"
    assert pull["body"] == f"The template's version {NEXT}, from {NEWEST}.\n\n{said}\n\n{news}"
    assert ".coverage2\n" in on_branch(checkout, ".gitignore")

    # A newer version, which is in conflict with main by now: the pull request is a draft, and shows it.
    run("git", "checkout", "--quiet", "main", cwd=checkout)
    edit(checkout / ".gitignore", ".coverage", ".coverage-of-mine")
    commit(checkout)
    run("git", "push", "--quiet", cwd=checkout)
    publish(published, 3)
    weekly(checkout, github)
    (pull,) = github.state["pulls"]
    assert pull["draft"]
    assert pull["title"] == f"Update the template to {AFTER_NEXT}"
    conflict = "++<<<<<<< HEAD\n +.coverage-of-mine\n++=======\n+ .coverage3\n++>>>>>>> template\n"
    assert all(text in pull["body"] for text in ("\nConflict: .gitignore\n", conflict, "\n## 9999.3.0\n"))
    assert "<<<<<<<" in on_branch(checkout, ".gitignore")
    assert run("git", "rev-list", "--count", "main..template-update", cwd=checkout).stdout == "1\n"

    # Somebody resolves it: from now on the branch is left alone.
    (checkout / ".gitignore").write_text("resolved\n")
    commit(checkout)
    run("git", "push", "--quiet", "origin", "template-update", cwd=checkout)
    publish(published, 4)
    assert LEFT_ALONE in weekly(checkout, github)
    assert on_branch(checkout, ".gitignore") == "resolved\n"


def test_a_branch_with_a_persons_commit_is_left_alone_without_a_pull_request_too(
    checkout: Path, published: Path, github: GitHub
) -> None:
    weekly(checkout, github)
    (checkout / "mine.txt").write_text("mine\n")
    commit(checkout)
    run("git", "push", "--quiet", "origin", "template-update", cwd=checkout)
    (github.folder / "state.json").write_text('{"releases": [], "pulls": []}')  # it is closed
    # The newest commit is the workflow's own.
    bot = "41898282+github-actions[bot]@users.noreply.github.com"
    run("git", "-c", f"user.email={bot}", "commit", "--quiet", "--allow-empty", "--message", "Mine", cwd=checkout)
    run("git", "push", "--quiet", "origin", "template-update", cwd=checkout)
    publish(published, 3)
    assert LEFT_ALONE in weekly(checkout, github)
    assert on_branch(checkout, "mine.txt") == "mine\n"
    assert github.state["pulls"] == []


def test_a_branch_of_the_workflow_alone_is_used_again(checkout: Path, published: Path, github: GitHub) -> None:
    weekly(checkout, github)
    (github.folder / "state.json").write_text('{"releases": [], "pulls": []}')
    publish(published, 3)
    weekly(checkout, github)
    assert [pull["title"] for pull in github.state["pulls"]] == [f"Update the template to {AFTER_NEXT}"]


def test_no_pull_request_is_opened_without_a_new_version(checkout: Path, github: GitHub) -> None:
    template_update(checkout)
    commit(checkout)
    assert weekly(checkout, github).endswith("This is the template's newest version.\n")
    assert github.state["pulls"] == []


def test_a_refused_update_fails_and_says_why(checkout: Path, published: Path, github: GitHub) -> None:
    tighten(published)
    workflow = checkout / ".github/workflows/template-update.yml"
    done = run_step(workflow, "Open or refresh the pull request", checkout, github, GITHUB_REF_NAME="main")
    assert done.returncode != 0
    assert "Validation error for question 'aws_account_id'" in done.stdout
    assert github.state["pulls"] == []
