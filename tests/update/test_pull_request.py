"""Once a week a workflow opens a pull request with what `make template-update` does."""

import os
import re
import shutil
from base64 import b64encode
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

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


BOT = "41898282+github-actions[bot]@users.noreply.github.com"


def work_on_the_branch(checkout: Path, github: GitHub) -> None:
    """Commit a file of a person's to the branch of the weekly update."""
    weekly(checkout, github)
    (checkout / "mine.txt").write_text("mine\n")
    commit(checkout)


def push_and_check_that_it_is_left_alone(checkout: Path, published: Path, github: GitHub) -> None:
    """Push the branch, and check that the next weekly update does not touch it."""
    run("git", "push", "--quiet", "origin", "template-update", cwd=checkout)
    publish(published, 3)
    assert LEFT_ALONE in weekly(checkout, github)
    assert on_branch(checkout, "mine.txt") == "mine\n"


def test_a_persons_commit_that_the_bot_has_rebased_is_left_alone(
    checkout: Path, published: Path, github: GitHub
) -> None:
    work_on_the_branch(checkout, github)
    run("git", "commit", "--quiet", "--amend", "--no-edit", cwd=checkout, GIT_COMMITTER_EMAIL=BOT)
    push_and_check_that_it_is_left_alone(checkout, published, github)


def test_a_branch_with_a_persons_commit_is_left_alone_without_a_pull_request_too(
    checkout: Path, published: Path, github: GitHub
) -> None:
    work_on_the_branch(checkout, github)
    (github.folder / "state.json").write_text('{"releases": [], "pulls": []}')
    # The newest commit is the workflow's own.
    run("git", "-c", f"user.email={BOT}", "commit", "--quiet", "--allow-empty", "--message", "Mine", cwd=checkout)
    push_and_check_that_it_is_left_alone(checkout, published, github)
    assert github.state["pulls"] == []


def test_a_closed_pull_request_comes_back_with_the_next_version(
    checkout: Path, published: Path, github: GitHub
) -> None:
    weekly(checkout, github)
    (pull,) = github.state["pulls"]
    github.save(pulls=[pull | {"state": "CLOSED"}])
    assert f"::notice::A pull request to {NEXT} was closed; the next version opens another." in weekly(checkout, github)
    assert len(github.state["pulls"]) == 1
    publish(published, 3)
    weekly(checkout, github)
    assert [pull["title"] for pull in github.state["pulls"]][1:] == [f"Update the template to {AFTER_NEXT}"]


def serve(folder: Path) -> ThreadingHTTPServer:
    """Serve a repository to whoever has the token."""
    given = "Basic " + b64encode(b"x:token").decode()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") == given:
                return super().do_GET()
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def give_token(github: GitHub) -> None:
    """Let `gh auth setup-git` do what the real one does, for every host."""
    really = (github.folder / "gh").read_text().removeprefix("#!/bin/sh\n")
    helper = "git config --global credential.helper '!f() { echo username=x; echo password=token; }; f'"
    (github.folder / "gh").write_text(f'#!/bin/sh\n[ "$*" != "auth setup-git" ] || exec {helper}\n{really}')


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, as on a runner: Git's own settings go there."""
    settings = shutil.copy(os.environ["GIT_CONFIG_GLOBAL"], tmp_path / "gitconfig")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    return tmp_path


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("prefix", ["", "git+"])
def test_a_private_template_is_read_by_the_token(
    checkout: Path, published: Path, tmp_path: Path, github: GitHub, prefix: str
) -> None:
    run("git", "clone", "--quiet", "--bare", published, tmp_path / "www/template.git")
    run("git", "update-server-info", cwd=tmp_path / "www/template.git")
    server = serve(tmp_path / "www")
    edit(
        checkout / ".copier-answers.yml",
        f"_src_path: {published}",
        f'_src_path: "{prefix}http://127.0.0.1:{server.server_port}/template.git" # ours',
    )
    commit(checkout)
    run("git", "push", "--quiet", cwd=checkout)
    give_token(github)
    weekly(checkout, github)
    server.shutdown()
    (pull,) = github.state["pulls"]
    assert pull["title"] == f"Update the template to {NEXT}"
    assert "\nNews 2.\n" in pull["body"]


@pytest.mark.parametrize(
    "address",
    [
        "git@example.test:org/name.git",
        "ssh://git@example.test/org/name.git",
        "git+ssh://me@example.test:2222/org/name.git",
    ],
)
def test_an_address_of_ssh_is_read_by_the_token(
    checkout: Path, github: GitHub, home: Path, address: str, published: Path
) -> None:
    edit(checkout / ".copier-answers.yml", f"_src_path: {published}", f"_src_path: {address}")
    commit(checkout)
    workflow = checkout / ".github/workflows/template-update.yml"
    done = run_step(workflow, "Open or refresh the pull request", checkout, github, GITHUB_REF_NAME="main")
    assert done.returncode != 0  # there is no such host
    asked = run("git", "ls-remote", "--get-url", address.removeprefix("git+"), cwd=home).stdout
    assert asked == "https://example.test/org/name.git\n"
    assert "Could not resolve host: example.test" in done.stdout


def test_a_template_without_tags_is_followed_by_its_commits(
    checkout: Path, published: Path, github: GitHub, tmp_path: Path
) -> None:
    untagged = tmp_path / "untagged"
    run("git", "clone", "--quiet", "--no-tags", published, untagged)
    first, last = run("git", "log", "--reverse", "--format=%h", cwd=untagged).stdout.split()
    answers = checkout / ".copier-answers.yml"
    edit(answers, f"_commit: {NEWEST}", f"_commit: {first}")
    edit(answers, f"_src_path: {published}", f"_src_path: {untagged}")
    commit(checkout)
    run("git", "push", "--quiet", cwd=checkout)
    weekly(checkout, github)
    (pull,) = github.state["pulls"]
    assert pull["title"].startswith(f"Update the template to {last[:6]}")
    assert "## 9999" not in pull["body"]  # nobody knows what of it is new


@pytest.mark.parametrize(("fork", "news"), [("v9999.2.0.post1", ["3"]), ("v9999.2.0rc1", ["3", "2"])])
def test_a_pull_request_lists_what_is_new_since_a_forks_version(
    checkout: Path, published: Path, github: GitHub, fork: str, news: list[str]
) -> None:
    commit(published)
    run("git", "tag", fork, cwd=published)
    template_update(checkout, version=fork)
    commit(checkout)
    run("git", "push", "--quiet", cwd=checkout)
    text = (published / "CHANGELOG.md").read_text()
    publish(published, 3)
    added = (published / "CHANGELOG.md").read_text().partition("## 9999.0.0")[0].removeprefix("# Changelog\n\n")
    (published / "CHANGELOG.md").write_text(text.replace("# Changelog\n\n", f"# Changelog\n\n{added}"))
    commit(published)
    run("git", "tag", "v9999.3.0.post1", cwd=published)
    assert f"_commit: {fork}\n" in (checkout / ".copier-answers.yml").read_text()
    weekly(checkout, github)
    (pull,) = github.state["pulls"]
    assert re.findall("^## 9999.(.).0", pull["body"], re.MULTILINE) == news


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
