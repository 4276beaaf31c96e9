"""`make template-update` loses nothing of a user's, whatever the update meets."""

import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.commands import commit, edit, run, tree, wait_until
from tests.support.documents import blocks
from tests.support.template import NEWEST, PYTHON, ROOT, Copy
from tests.update.releases import NEXT, publish, tighten
from tests.update.script import template_update

DOCUMENT = (ROOT / "docs/updating.md").read_text()
UPDATED = "Updated: look at git diff HEAD, run make lint test, commit."


def version(service: Path) -> str:
    return str(yaml.safe_load((service / ".copier-answers.yml").read_text())["_commit"])


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def status(service: Path) -> str:
    return run("git", "status", "--porcelain", "--untracked-files=all", cwd=service).stdout


def refused(service: Path, *changed: str, version: str = "") -> str:
    """Update; return why that is refused, and check that it changes nothing."""
    before = tree(service), status(service), run("git", "stash", "list", cwd=service).stdout
    code, said = template_update(service, *changed, version=version)
    assert code == 1
    assert said.endswith("\nNothing is changed.")
    assert (tree(service), status(service), run("git", "stash", "list", cwd=service).stdout) == before
    return said.removesuffix("\nNothing is changed.")


def make(service: Path, *arguments: str) -> tuple[int, str]:
    command = ("make", "--no-print-directory", "template-update", *arguments)
    done = run(*command, cwd=service, check=False, LC_ALL="C")  # which knows no letter but ASCII's
    return done.returncode, done.stdout


def test_make_template_update_updates_and_names_the_next_step(service: Path) -> None:
    code, said = make(service, "ANSWERS=port=9000 description='Zwei Wörter'")
    assert (code, said.splitlines()[-1]) == (0, UPDATED)
    assert version(service) == NEXT
    assert ".coverage2" in (service / ".gitignore").read_text()
    answers = yaml.safe_load((service / ".copier-answers.yml").read_text())
    assert (answers["port"], answers["description"]) == (9000, "Zwei Wörter")
    assert "EXPOSE 9000" in (service / "Dockerfile").read_text()
    run("git", "restore", "--staged", "--worktree", ".", cwd=service)
    assert status(service) == ""


def test_template_update_says_that_there_is_no_new_version(service: Path) -> None:
    assert template_update(service)[0] == 0
    commit(service)
    assert template_update(service) == (0, "This is the template's newest version.\n")


def test_template_update_goes_to_a_named_version(service: Path, published: Path) -> None:
    publish(published, 3)
    template_update(service, version=NEXT)
    assert version(service) == NEXT


def test_an_update_to_an_older_version_is_refused(service: Path) -> None:
    assert template_update(service)[0] == 0
    commit(service)
    said = refused(service, version=NEWEST)
    assert said == f"{NEWEST} is too old for this service, which has {NEXT}: name a newer version by TO."


def test_a_service_of_an_unreleased_commit_waits_for_its_release(service: Path, published: Path) -> None:
    append(published / "template/Makefile.jinja", "# new\n")
    commit(published)
    template_update(service, version="HEAD")
    commit(service)
    assert f"{NEXT} is too old for this service, which has {NEXT}-1-g" in refused(service)
    publish(published, 3)
    assert template_update(service) == (0, f"{UPDATED}\n")


EXAMPLES = ("src/my_service/events.py", "tests/test_events.py", "src/my_service/worker.py", "tests/test_worker.py")


def test_a_part_that_is_turned_on_brings_its_examples_and_later_updates_leave_them_alone(
    service: Path, published: Path
) -> None:
    assert template_update(service, "deploy=none", "kafka=true", "worker=true", "database=postgres")[0] == 0
    assert all((service / path).exists() for path in (*EXAMPLES, "src/my_service/migrations/env.py"))
    append(service / EXAMPLES[0], "# mine\n")
    (service / EXAMPLES[1]).unlink()
    commit(service)
    kept = (service / EXAMPLES[0]).read_text()
    for path in published.glob("template/src/*/*events.py*"):
        append(path, "# new\n")
    publish(published, 3)
    assert template_update(service) == (0, f"{UPDATED}\n")
    assert (service / EXAMPLES[0]).read_text() == kept
    assert not (service / EXAMPLES[1]).exists()


def test_a_part_that_is_turned_off_takes_its_examples_away_but_no_lines(copy: Copy, published: Path) -> None:
    service = copy(NEWEST, template=published, deploy="none", kafka=True, worker=True)
    append(service / EXAMPLES[0], "# mine\n")
    commit(service)
    off = ("kafka=false", "worker=false")
    assert refused(service, *off).splitlines()[0] == f"The update removes {EXAMPLES[0]}, which you edited."
    run("git", "rm", "--quiet", EXAMPLES[0], cwd=service)
    commit(service)
    assert template_update(service, *off)[0] == 0
    assert not any((service / path).exists() for path in EXAMPLES)


def test_an_update_conflict_is_marked_and_named(service: Path) -> None:
    edit(service / ".gitignore", ".coverage\n", ".coverage-of-mine\n")
    commit(service)
    assert template_update(service) == (1, "Conflict: .gitignore\nResolve these conflicts, then commit.\n")
    text = (service / ".gitignore").read_text()
    assert "<<<<<<< HEAD\n.coverage-of-mine\n=======\n.coverage2\n>>>>>>> template\n" in text
    assert status(service) == "M  .copier-answers.yml\nUU .gitignore\n"
    stopped = run("make", "conflicts", cwd=service, check=False)
    assert stopped.returncode != 0
    assert "Resolve these conflicts first." in stopped.stdout
    assert "Commit your changes first" in refused(service)


@pytest.mark.parametrize("hidden", [(), ("config", "status.showUntrackedFiles", "no")])
def test_an_update_needs_a_clean_tree(service: Path, hidden: tuple[str, ...]) -> None:
    if hidden:
        run("git", *hidden, cwd=service)
    (service / "new.txt").touch()
    assert refused(service) == "Commit your changes first: an update needs a clean tree."


@pytest.mark.parametrize("flag", ["--skip-worktree", "--assume-unchanged"])
def test_changes_that_git_is_told_to_overlook_are_not_overwritten(service: Path, flag: str) -> None:
    run("git", "update-index", flag, ".gitignore", cwd=service)
    append(service / ".gitignore", "mine\n")
    assert "A flag hides your changes of .gitignore from Git." in refused(service)


def test_an_ignored_file_is_not_overwritten(service: Path, published: Path) -> None:
    append(service / ".gitignore", "\n\n\nnotes.txt\n")
    commit(service)
    (service / "notes.txt").write_text("mine\n")
    (published / "template/notes.txt").write_text("the template's\n")
    publish(published, 3)
    assert refused(service) == "notes.txt is in the way, and Git does not know it: move it away, or commit it."


def test_an_update_keeps_edits_whatever_the_git_settings(
    service: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {
        "apply.whitespace": "error",
        "core.hooksPath": str(tmp_path),
        "merge.ff": "only",
        "diff.noprefix": "true",
    }
    for key, value in settings.items():
        run("git", "config", key, value, cwd=service)
        run("git", "config", "--global", key, value, GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    append(service / ".gitignore", "\n\n\nmine \t\n")
    run("git", "-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "--quiet", "-am", "Mine", cwd=service)
    assert template_update(service) == (0, f"{UPDATED}\n")
    assert {"mine \t", ".coverage2"} <= set((service / ".gitignore").read_text().splitlines())


def test_an_unknown_question_or_word_is_refused(service: Path) -> None:
    said = refused(service, "prot=9000")
    assert said.startswith("No question is called prot. There are: architecture, aws_account_id")
    assert refused(service, "_src_path=/elsewhere").startswith("No question is called _src_path.")
    assert refused(service, "port") == "An answer is NAME=VALUE, as in port=9000: port"
    assert refused(service, "kafka=flase") == "kafka is true or false, not 'flase'."
    assert refused(service, "port=") == "port is a whole number, not ''."
    assert refused(service, "cpu=2048").endswith("Give another: make template-update ANSWERS='cpu=2048 memory=...'")
    assert refused(service, "port=80").startswith("Validation error for question 'port': a whole number from 1024")


def test_a_recorded_answer_that_a_newer_rule_refuses_stops_the_update(service: Path, published: Path) -> None:
    tighten(published)
    rule, cure = refused(service).splitlines()
    assert rule == "Validation error for question 'aws_account_id': a newer rule"
    assert cure == "Give another: make template-update ANSWERS=aws_account_id=..."
    assert template_update(service, "aws_account_id=210987654321")[0] == 0


def test_a_new_service_name_takes_the_users_lines_along(service: Path) -> None:
    manifest = service / "my-service.yml"
    first, rest = manifest.read_text().split("\n", 1)
    manifest.write_text(f"{first}\n# mine\n{rest}")
    commit(service)
    code, said = template_update(service, "service_name=orders")
    assert (code, said) == (0, f"Renamed: my-service.yml is orders.yml now.\n{UPDATED}\n")
    text = (service / "orders.yml").read_text()
    assert "\n# mine\n" in text
    assert "name: orders\n" in text


def test_an_update_keeps_a_removed_file_that_the_user_edited(service: Path) -> None:
    append(service / "my-service.yml", "# mine\n")
    commit(service)
    said = refused(service, "deploy=none")
    assert said.splitlines()[0] == "The update removes my-service.yml, which you edited."
    run("git", "rm", "--quiet", "my-service.yml", cwd=service)
    commit(service)
    assert template_update(service, "deploy=none")[0] == 0


def test_an_update_names_the_files_it_removes(service: Path) -> None:
    _, said = template_update(service, "deploy=none")
    for name in ("my-service.yml", "ops/deployment/image.py"):
        assert f'Removed: {name}, which "git checkout HEAD -- {name}" brings back.' in said
        assert not (service / name).exists()


def test_a_service_and_its_package_are_renamed_as_the_document_says(service: Path) -> None:
    append(service / "my-service.yml", "\n\n\n# mine\n")
    (service / "src/my_service/mine.py").write_text("import my_service\n")
    commit(service)
    _, renaming = DOCUMENT.split("\n## Rename", 1)
    for block in blocks(renaming.partition("\n## ")[0]):
        for command in block.splitlines():
            if command.startswith("make template-update"):
                changed = re.findall(r'ANSWERS="(.*)"', command)
                assert template_update(service, *changed)[0] == 0
            else:
                run("bash", "-c", command, cwd=service)
    commit(service)
    named = run("git", "grep", "-iE", "my.service", cwd=service, check=False).stdout
    assert named == ""
    assert (service / "orders.yml").read_text().endswith("# mine\n")
    assert (service / "src/orders/mine.py").read_text() == "import orders\n"
    assert not (service / "src/my_service").exists()


def test_a_moved_file_gets_its_updates_and_a_missing_one_is_named(service: Path, published: Path) -> None:
    (service / "docker").mkdir()
    run("git", "mv", "Dockerfile", "docker/Dockerfile", cwd=service)
    run("git", "rm", "--quiet", "Dockerfile.dev", cwd=service)
    commit(service)
    for name in ("Dockerfile.jinja", "Dockerfile.dev.jinja"):
        append(published / "template" / name, "# new\n")
    publish(published, 3)
    code, said = template_update(service)
    assert code == 0
    assert (service / "docker/Dockerfile").read_text().endswith("# new\n")
    assert not (service / "Dockerfile").exists()
    (missing,) = re.findall("^Moved or deleted: (.*), which the template has changed: (.*)$", said, re.MULTILINE)
    assert missing[0] == "Dockerfile.dev"
    assert "\n+# new\n" in run("bash", "-c", missing[1], cwd=service).stdout


def test_an_update_keeps_utf_16_lines(service: Path) -> None:
    gitignore = service / ".gitignore"
    mine = gitignore.read_bytes() + "mine\r\n".encode("utf-16")
    gitignore.write_bytes(mine)
    commit(service)
    code, said = template_update(service)
    assert (code, said.splitlines()[0]) == (1, "Conflict: .gitignore")
    assert gitignore.read_bytes() == mine


def test_windows_line_ends_cause_no_update_conflict(service: Path) -> None:
    gitignore = service / ".gitignore"
    gitignore.write_bytes(gitignore.read_bytes().replace(b"\n", b"\r\n"))
    commit(service)
    assert template_update(service)[0] == 0
    assert b".coverage2" in gitignore.read_bytes()


def test_an_update_sets_executable_bits_where_git_ignores_them(service: Path, published: Path) -> None:
    run("git", "config", "core.fileMode", "false", cwd=service)
    (published / "template/new.sh").write_text("#!/bin/sh\n")
    (published / "template/new.sh").chmod(0o755)
    publish(published, 3)
    template_update(service)
    assert os.access(service / "new.sh", os.X_OK)


def interrupted(service: Path, program: str, folder: Path, stop: Callable[[int], None]) -> str:
    """Run the script with a program that never ends, `stop` the script there; return what it said."""
    waiting = folder / "waiting"
    (folder / program).write_text(f"#!/bin/sh\ntouch {waiting}\nexec sleep 600\n")
    (folder / program).chmod(0o755)
    script = ["ops/update/template_update.py", ".copier-answers.yml", ""]
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "COPIER": str(folder / "copier")}
    if program != "copier":
        env["COPIER"] = "copier"
    process = subprocess.Popen(
        script,
        cwd=service,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    wait_until(waiting.exists)
    stop(process.pid)
    return process.communicate()[0]


@pytest.mark.parametrize(("program", "sent"), [("copier", signal.SIGTERM), ("uv", signal.SIGINT)])
def test_an_interrupted_update_changes_nothing(
    service: Path, published: Path, tmp_path: Path, program: str, sent: signal.Signals
) -> None:
    edit(published / "template/pyproject.toml.jinja", '    "httpx2>=2",\n', '    "httpx2>=2",\n    "iniconfig>=2",\n')
    publish(published, 3)
    (service / "uv.lock").write_text("version = 1\n")
    commit(service)
    before = tree(service)
    folder = tmp_path / "bin"
    folder.mkdir()
    send = os.killpg if sent == signal.SIGINT else os.kill  # Ctrl-C is for everything in the terminal
    assert interrupted(service, program, folder, lambda pid: send(pid, sent)) == "Interrupted. Nothing is changed.\n"
    assert tree(service) == before
    assert status(service) == ""


def test_a_failing_lock_leaves_the_repository_unchanged(copy: Copy, published: Path) -> None:
    service = copy(NEWEST, template=published, python_version=PYTHON)
    edit(published / "template/pyproject.toml.jinja", '    "httpx2>=2",\n', '    "httpx2>=2",\n    "Not/A/Name",\n')
    publish(published, 3)
    (service / "uv.lock").write_text("version = 1\n")
    commit(service)
    assert "Not/A/Name" in refused(service)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_during_an_update_changes_nothing(service: Path, published: Path, tmp_path: Path) -> None:
    (published / "template/large.txt").write_text("x" * 2_000_000)  # small in Git, too large for the tree
    publish(published, 3)
    disk = tmp_path / "disk"
    disk.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk, check=False).returncode:
        pytest.skip("no small disk can be mounted")
    try:
        run("git", "clone", "--quiet", service, disk / "service")
        assert refused(disk / "service").splitlines()[-1] == "The tree is restored."
    finally:
        run("umount", disk)


def test_an_update_renews_the_lock_and_keeps_the_users_versions(copy: Copy, published: Path) -> None:
    service = copy(NEWEST, template=published, python_version=PYTHON)
    edit(service / "pyproject.toml", "dependencies = []", 'dependencies = ["packaging<24"]')
    run("uv", "lock", "--quiet", cwd=service)
    edit(service / "pyproject.toml", "packaging<24", "packaging")
    run("uv", "lock", "--quiet", cwd=service)
    commit(service)
    project = published / "template/pyproject.toml.jinja"
    edit(project, '    "httpx2>=2",\n', '    "httpx2>=2",\n    "iniconfig>=2",\n')
    publish(published, 3)
    assert template_update(service) == (0, f"{UPDATED}\n")
    run("uv", "lock", "--check", cwd=service)
    assert 'name = "packaging"\nversion = "23' in (service / "uv.lock").read_text()


@pytest.mark.parametrize("missing", ["uv", "Python"])
def test_an_update_says_when_it_cannot_make_the_lock(
    service: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    edit(published / "template/pyproject.toml.jinja", '    "httpx2>=2",\n', '    "httpx2>=2",\n    "iniconfig>=2",\n')
    publish(published, 3)
    (service / "uv.lock").write_text("version = 1\n")
    commit(service)
    found = shutil.which
    if missing == "uv":
        monkeypatch.setattr("shutil.which", lambda program: None if program == "uv" else found(program))
    else:  # and none can be had
        python = {"PREFERENCE": "only-managed", "INSTALL_DIR": str(tmp_path), "DOWNLOADS": "never"}
        for name, value in python.items():
            monkeypatch.setenv(f"UV_PYTHON_{name}", value)
    assert "Then run uv lock: uv.lock is to fit pyproject.toml." in template_update(service)[1]


def test_a_users_development_package_is_no_conflict(copy: Copy, published: Path) -> None:
    service = copy(NEWEST, template=published, python_version=PYTHON)
    run("uv", "add", "--frozen", "--dev", "respx", cwd=service)
    commit(service)
    edit(published / "template/pyproject.toml.jinja", '    "httpx2>=2",\n', '    "httpx2>=2",\n    "iniconfig>=2",\n')
    publish(published, 3)
    assert template_update(service)[0] == 0
    groups = tomllib.loads((service / "pyproject.toml").read_text())["dependency-groups"]
    assert groups["dev"][0] == {"include-group": "checks"}
    assert groups["dev"][1].startswith("respx")
    assert "iniconfig>=2" in groups["checks"]


DIGEST = "@sha256:" + "0a" * 32


def versions_of(service: Path, *files: str) -> dict[str, str]:
    """Return the images and actions that the files name, with their versions."""
    text = "".join((service / file).read_text() for file in files)
    found = re.findall(r"(?:FROM|image:|uses:) (\S+?)([:@]\S+)(?:  # (\S+))?", text)
    return {name: comment or version for name, version, comment in found}


def test_versions_of_bots_and_digests_of_make_lock_never_conflict_and_the_newer_one_wins(
    service: Path, published: Path
) -> None:
    files = ("Dockerfile", ".github/workflows/ci.yml")
    before = versions_of(service, *files)
    uv, python = "ghcr.io/astral-sh/uv", "docker.io/library/python"
    for file in ("Dockerfile", "Dockerfile.dev"):
        for image in (uv, python):
            edit(service / file, image + before[image], image + before[image] + DIGEST)
    workflow = service / files[1]
    bumped = {"actions/checkout": "v70.0.1", "anchore/scan-action": "v7.4.9"}
    text = workflow.read_text()
    for action, version in bumped.items():
        text = re.sub(rf"{action}@\S+  # \S+", f"{action}@{'1b' * 20}  # {version}", text)
    workflow.write_text(text)
    commit(service)

    edit(published / "extensions/versions.yml", f'uv: "{before[uv][1:]}"', 'uv: "99.1.2"')
    macros = published / "extensions/workflows.jinja"
    text = macros.read_text()
    for action, version in {"actions/checkout": "v70.0.0", "anchore/scan-action": "v7.5.0"}.items():
        text = re.sub(rf"{action}@\S+  # \S+", f"{action}@{'2c' * 20}  # {version}", text)
    macros.write_text(text)
    publish(published, 3)

    code, said = template_update(service)
    assert (code, said.splitlines()[-1]) == (0, UPDATED)
    assert versions_of(service, *files) == before | {
        uv: ":99.1.2",
        python: before[python] + DIGEST,
        "actions/checkout": "v70.0.1",
        "anchore/scan-action": "v7.5.0",
    }


def test_an_image_that_the_owner_has_in_two_versions_keeps_both(copy: Copy, published: Path) -> None:
    service = copy(NEWEST, template=published, database="postgres")
    compose = service / "compose.yaml"
    (image,) = re.findall(r"^    image: (.*postgres:.*)$", compose.read_text(), re.MULTILINE)
    name, tag = image.rsplit(":", 1)
    edit(compose, f"image: {image}", f"image: {name}:{int(tag[:2]) + 1}{tag[2:]}")  # by a bot
    edit(compose, "\nservices:\n", f"\nservices:\n  archive:\n    image: {name}:9.6\n\n")
    before = versions_of(service, "compose.yaml"), f"image: {name}:9.6\n"
    commit(service)
    assert template_update(service) == (0, f"{UPDATED}\n")
    assert before[1] in compose.read_text()
    assert versions_of(service, "compose.yaml") == before[0]


def test_another_version_that_a_person_chose_is_no_bots(service: Path, published: Path) -> None:
    edit(service / "Dockerfile", "-slim-trixie", "-slim-bookworm")
    commit(service)
    edit(published / "extensions/versions.yml", "debian: trixie", "debian: forky")
    publish(published, 3)
    code, said = template_update(service)
    assert (code, said.splitlines()[0]) == (1, "Conflict: Dockerfile")
