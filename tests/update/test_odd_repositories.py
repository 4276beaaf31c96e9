"""An update changes nothing, or all; and it says why it does not, whatever Git, links and file names do."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import commit, edit, run
from tests.update.releases import NEXT, publish
from tests.update.script import load, template_update
from tests.update.test_template_update import UPDATED, append, make, refused, status, version

ANSWERS = ".copier-answers.yml"


def program(folder: Path, name: str, script: str) -> str:
    """Write a shell script; return a PATH that finds it first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def change_hand(service: Path, old: str, new: str) -> None:
    edit(service / ANSWERS, old, new)
    commit(service)


def test_what_git_says_of_a_refused_connection_is_shown(service: Path, tmp_path: Path) -> None:
    program(tmp_path, "ssh", 'echo "git@example.com: Permission denied (publickey)." >&2; exit 255')
    append(service / ANSWERS, "")
    (service / ANSWERS).write_text(
        re.sub("_src_path: .*", "_src_path: git@example.com:org/template.git", (service / ANSWERS).read_text())
    )
    commit(service)
    for command in ("make", "template-update"), ("make", "template-update", f"COPIER={shutil.which('copier')}"):
        done = run(*command, cwd=service, check=False, GIT_SSH=str(tmp_path / "ssh"))
        assert done.returncode != 0
        assert "git@example.com: Permission denied (publickey)." in done.stdout
        assert "Traceback" not in done.stdout
        assert "\nNothing is changed.\n" in done.stdout


GIT_COMMANDS = ("status", "rev-parse", "commit", "ls-tree", "merge", "diff-tree", "ls-files", "fetch", "read-tree")
LATE = ("checkout-index", "read-tree -m", "update-index")


@pytest.mark.parametrize("failing", [*GIT_COMMANDS, *LATE])
def test_a_reason_is_given_whichever_command_of_gits_fails_without_a_word(service: Path, failing: str) -> None:
    edit(service / ".gitignore", ".coverage\n", ".coverage-of-mine\n")
    commit(service)
    script = load()
    really: Callable[..., str] = script.run

    def once(*command: Any, **how: Any) -> str:
        if f" {failing}" in " ".join(map(str, command)):
            vars(script)["run"] = really
            return really("false")
        return really(*command, **how)

    vars(script)["run"] = once
    code, said = template_update(service, module=script)
    assert vars(script)["run"] == really
    assert code == 1
    assert said.startswith("This command failed without a message: false\n")
    assert said.endswith("Nothing is changed.")
    assert status(service) == ""
    assert version(service) != NEXT


def test_a_reason_is_given_when_copier_fails_without_a_word(service: Path, tmp_path: Path) -> None:
    program(tmp_path, "copier", "exit 3")
    code, said = make(service, f"COPIER={tmp_path / 'copier'}")
    assert code != 0
    assert said.startswith(f"This command failed without a message: {tmp_path / 'copier'} copy --quiet")


def test_a_required_filter_that_fails_changes_nothing(service: Path) -> None:
    (service / ".gitattributes").write_text("* filter=crypt\n")
    commit(service)
    for key, value in {"required": "true", "smudge": "false", "clean": "cat"}.items():
        run("git", "config", f"filter.crypt.{key}", value, cwd=service)
    assert "smudge filter crypt failed" in refused(service)


def test_a_lock_and_a_file_that_is_saved_in_the_last_moment_stay(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_the_last_moment(does: str) -> None:
        moment = 'if [[ "$*" == "checkout-index "*--prefix=* ]]; then'
        path = program(tmp_path / "bin", "git", f'{moment} {does}; fi\nexec {shutil.which("git")} "$@"')
        monkeypatch.setenv("PATH", path)

    at_the_last_moment("touch .git/index.lock")
    lock = service / ".git/index.lock"
    assert refused(service) == f"Another Git command is running here. If it has crashed, delete {lock}."
    lock.unlink()

    monkeypatch.undo()
    at_the_last_moment("echo '# saved now' >>.gitignore")
    code, said = template_update(service)
    assert code == 1
    assert "Entry '.gitignore' not uptodate. Cannot merge." in said
    assert (service / ".gitignore").read_text().endswith("# saved now\n")
    assert status(service) == " M .gitignore\n"
    assert not lock.exists()


def test_file_names_may_have_any_bytes(service: Path) -> None:
    (Path(os.fsdecode(os.fsencode(service) + b"/caf\xe9.txt"))).write_text("mine\n")
    commit(service)
    assert template_update(service) == (0, f"{UPDATED}\n")


VALUES = {
    "GIT_TEMPLATE_DIR": "",
    "GIT_DEFAULT_HASH": "sha256",
    "GIT_GLOB_PATHSPECS": "1",
    "GIT_NAMESPACE": "other",
    "GIT_AUTHOR_DATE": "no date",
    "GIT_QUARANTINE_PATH": "objects",
    "GIT_CONFIG_COUNT": "",
    "GIT_CONFIG_PARAMETERS": "'commit.gpgSign=true' 'gpg.program=false'",
}


@pytest.mark.parametrize("setting", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", *VALUES])
def test_variables_of_gits_that_hooks_set_change_nothing(
    service: Path, tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    commit(other)
    values = VALUES | {"GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / ".git/index")}
    monkeypatch.setenv(setting, str(values.get(setting, other / ".git")))
    said = template_update(service)
    monkeypatch.undo()
    assert said == (0, f"{UPDATED}\n")
    assert version(service) == NEXT
    assert status(other) == ""


def test_an_ignored_link_is_not_replaced_by_a_folder(service: Path, published: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (service / "notes").symlink_to("../notes")
    append(service / ".gitignore", "\n\n\nnotes\n")
    commit(service)
    (published / "template/notes").mkdir()
    (published / "template/notes/new.txt").write_text("the template's\n")
    publish(published, 3)
    assert refused(service) == "notes is in the way, and Git does not know it: move it away, or commit it."


def test_links_of_the_users_stay_and_what_they_hide_is_updated_or_named(
    service: Path, published: Path, tmp_path: Path
) -> None:
    (service / "common").mkdir()
    run("git", "mv", "Makefile", "common/Makefile", cwd=service)
    (service / "Makefile").symlink_to("common/Makefile")
    shutil.move(service / ".devcontainer", tmp_path / "devcontainer")
    (service / ".devcontainer").symlink_to("../devcontainer")
    commit(service)
    append(published / "template/Makefile.jinja", "# new\n")
    append(published / "template/.devcontainer/compose.yaml", "# new\n")
    (published / "template/.devcontainer/new.json").write_text("{}\n")
    publish(published, 3)
    code, said = template_update(service)
    assert code == 0
    assert (service / "Makefile").is_symlink()
    assert (service / "common/Makefile").read_text().endswith("# new\n")
    assert os.readlink(service / ".devcontainer") == "../devcontainer"
    commands = dict(re.findall("^Moved or deleted: (.*), which the template has changed: (.*)$", said, re.MULTILINE))
    assert list(commands) == [".devcontainer/compose.yaml", ".devcontainer/new.json"]
    for command in commands.values():
        assert "\n+" in run("bash", "-c", command, cwd=service).stdout


def test_a_file_that_the_user_made_a_folder_is_named_with_its_change(service: Path, published: Path) -> None:
    (service / "Makefile").unlink()
    (service / "Makefile").mkdir()
    (service / "Makefile/mine").write_text("mine\n")
    commit(service)
    append(published / "template/Makefile.jinja", "# new\n")
    publish(published, 3)
    code, said = template_update(service)
    assert code == 0
    (command,) = re.findall("^Moved or deleted: Makefile, which the template has changed: (.*)$", said, re.MULTILINE)
    assert "\n+# new\n" in run("bash", "-c", command, cwd=service).stdout


def test_a_submodule_of_the_users_in_place_of_a_folder_stays(service: Path, published: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    commit(tmp_path / "own")
    run("git", "rm", "-r", "--quiet", ".devcontainer", cwd=service)
    allowed = ("-c", "protocol.file.allow=always")
    run("git", *allowed, "submodule", "--quiet", "add", tmp_path / "own", ".devcontainer", cwd=service)
    commit(service)
    append(published / "template/.devcontainer/compose.yaml", "# new\n")
    publish(published, 3)
    code, said = template_update(service)
    assert code == 0
    assert "Moved or deleted: .devcontainer/compose.yaml" in said
    assert " .devcontainer" not in status(service)
    assert (service / ".devcontainer/.git").exists()


def test_conflicts_without_markers_are_found(service: Path, published: Path) -> None:
    (service / "new").mkdir()
    (service / "new/mine.txt").write_text("mine\n")
    commit(service)
    (published / "template/new").write_text("a file, and a folder of the service\n")
    publish(published, 3)
    assert template_update(service)[1].startswith("Conflict: new")
    done = run("make", "conflicts", cwd=service, check=False)
    assert done.returncode != 0
    assert done.stdout.startswith("100644 ")
    assert "Resolve these conflicts first." in done.stdout
    run("git", "rm", "--force", "new~template", cwd=service)
    run("git", "restore", "--staged", "--worktree", ".", cwd=service)
    assert status(service) == ""
    assert (service / "new/mine.txt").read_text() == "mine\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_where_git_fails_no_conflict_check_passes_and_nothing_is_built(service: Path) -> None:
    run("make", "conflicts", cwd=service)
    os.chown(service, 65534, 65534)
    os.chown(service / ".git", 65534, 65534)
    for target in ("conflicts", "build", "push"):
        done = run("make", target, "engine=", cwd=service, check=False)
        assert done.returncode != 0, target
        assert "detected dubious ownership" in done.stdout, target


def test_a_repository_with_long_hashes_is_refused(service: Path) -> None:
    shutil.rmtree(service / ".git")
    run("git", "init", "--quiet", "--object-format=sha256", cwd=service)
    commit(service)
    assert refused(service) == "Copier cannot update a repository with hashes by sha256."


def test_a_sparse_checkout_is_told_what_to_add(service: Path, published: Path) -> None:
    append(published / "template/.devcontainer/compose.yaml", "# new\n")
    publish(published, 3)
    run("git", "sparse-checkout", "set", "--cone", "src", cwd=service)
    code, said = template_update(service)
    (cure,) = re.findall("First: (.*)", said)
    assert (code, cure) == (1, "git sparse-checkout add .devcontainer")
    run("bash", "-c", cure, cwd=service)
    assert template_update(service) == (0, f"{UPDATED}\n")


def test_a_file_whose_mode_alone_was_changed_holds_no_lines(service: Path) -> None:
    (service / "my-service.yml").chmod(0o755)
    commit(service)
    assert 'Removed: my-service.yml, which "git checkout' in template_update(service, "deploy=none")[1]


def test_an_answers_file_may_have_comments_and_blank_lines(service: Path) -> None:
    text = (service / ANSWERS).read_text()
    text = re.sub("(_commit: .*)\n", r"\1\n\n# ours\n", text)
    text = re.sub("(_src_path: .*)\n", r"\1  # our fork\n", text)
    (service / ANSWERS).write_text(text.replace("port: 8000", "port: 8000  # as ever"))
    commit(service)
    assert template_update(service) == (0, f"{UPDATED}\n")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (r"\A[^$]*\Z", "", "lacks _src_path: write the template's address there"),
        (r"_commit: .*\n", "", "lacks _commit: write the version that this service has there"),
        (r"\Z", "<<<<<<< HEAD\n", "holds a conflict: resolve it, and commit."),
    ],
)
def test_an_answers_file_that_cannot_be_read_is_refused(service: Path, old: str, new: str, reason: str) -> None:
    (service / ANSWERS).write_text(re.sub(old, new, (service / ANSWERS).read_text(), count=1))
    commit(service)
    assert refused(service).startswith(f"{ANSWERS} {reason}")


def test_an_answer_that_was_changed_by_hand_is_refused_with_the_command_that_changes_the_code(service: Path) -> None:
    assert template_update(service, "health_path=/up", version=":current:")[0] == 0
    commit(service)
    text = (service / ANSWERS).read_text()
    (service / ANSWERS).write_text(text.replace("port: 8000", "port: 9000").replace("health_path: /up\n", ""))
    commit(service)
    reason, cure = refused(service).splitlines()
    assert reason == f"{ANSWERS} was changed by hand, and the code was not: health_path, port."
    assert cure == "To change both: make template-update ANSWERS='health_path=/up port=9000'"
    assert template_update(service, "health_path=/up", "port=9000") == (0, f"{UPDATED}\n")
    assert "EXPOSE 9000" in (service / "Dockerfile").read_text()
    assert "health_path: /up\n" in (service / ANSWERS).read_text()
    commit(service)
    assert template_update(service) == (0, "This is the template's newest version.\n")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("'It''s $HOME: \"`1`\"'", 'It\'s $HOME: "`1`"'),
        ('"W\\xF6rter: \\"\\u20ac\\""', 'Wörter: "€"'),
        (">-\n  two\n  lines", "two lines"),
        ("''", ""),
    ],
)
def test_the_command_for_an_answer_that_was_changed_by_hand_gives_exactly_that_answer(
    service: Path, tmp_path: Path, written: str, read: str
) -> None:
    change_hand(service, "description: A FastAPI service on AWS ECS.", f"description: {written}")
    (cure,) = re.findall("To change both: (.*)", refused(service))
    program(tmp_path, "python3", 'printf "%s" "${@: -1}" >../given')
    run("bash", "-c", f"{cure} PYTHON3={tmp_path / 'python3'}", cwd=service)
    assert (tmp_path / "given").read_text() == f"description={read}"


def test_a_change_by_hand_behind_an_apostrophe_is_seen(service: Path) -> None:
    assert template_update(service, "description=Don't # yet", version=":current:")[0] == 0
    commit(service)
    change_hand(service, "Don''t # yet", "Don''t # now")
    assert refused(service).splitlines()[0].endswith("by hand, and the code was not: description.")


def test_variables_that_a_shell_exports_for_something_else_change_nothing(service: Path) -> None:
    done = run("make", "-n", "template-update", cwd=service, COPIER="/elsewhere", TO="ada", ANSWERS="yes")
    assert not re.search("/elsewhere|ada|yes", done.stdout)


def test_a_hand_changed_answer_without_its_past_is_refused(service: Path, tmp_path: Path) -> None:
    change_hand(service, "port: 8000", "port: 9000")
    run("git", "clone", "--quiet", "--depth", "1", service.as_uri(), tmp_path / "shallow")
    assert refused(tmp_path / "shallow").endswith("this clone does not hold its past: undo your change.")
