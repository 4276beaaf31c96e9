#!/usr/bin/env python3
"""Bring the template's changes, or change answers. Kept by the template.

    template-update.py ANSWERS_FILE VERSION [NAME=VALUE ...]    an empty VERSION is the newest

Copier renders this service twice in a temporary repository: as it was, and as it will be. Git merges the difference
into your commit there. Your files change last, by one command of Git's: until then an error or Ctrl-C changes nothing.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Git's settings for everything temporary, whatever the user's are.
SETTINGS = {
    "user.name": "template-update",
    "user.email": "template-update@localhost",
    "apply.whitespace": "nowarn",
    "commit.gpgSign": "false",
    "core.autocrlf": "false",
    "core.excludesFile": os.devnull,
    "core.hooksPath": os.devnull,
    "merge.directoryRenames": "true",
    "status.showUntrackedFiles": "normal",
}
GIVEN = int(os.environ.get("GIT_CONFIG_COUNT", "0"))
OVERRIDDEN = {"GIT_CONFIG_COUNT": str(GIVEN + len(SETTINGS))}
for number, (key, setting) in enumerate(SETTINGS.items(), GIVEN):
    OVERRIDDEN |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": setting}
ISOLATED = OVERRIDDEN | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


class UpdateError(Exception):
    """The reason why nothing is changed."""


def run(*command: str | Path, cwd: Path | None = None, given: str = "", env: dict[str, str] | None = None) -> str:
    """Return a command's output; if it fails, raise UpdateError with its message."""
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=cwd, input=given, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UpdateError((done.stderr or done.stdout).strip())
    return done.stdout.rstrip("\n")


def copier(*arguments: str | Path) -> None:
    """Run Copier; of a traceback only the last line is for people."""
    try:
        run(*shlex.split(os.environ["COPIER"]), *arguments, env=OVERRIDDEN)
    except UpdateError as stop:
        said = str(stop)
        raise UpdateError(said.splitlines()[-1].partition(": ")[2] if "Traceback" in said else said) from None


def git(*arguments: str | Path, given: str = "", env: dict[str, str] | None = None) -> str:
    """Run Git in the user's repository, with the user's settings."""
    return run("git", *arguments, given=given, env=env)


def split(output: str) -> list[str]:
    """Return the entries that Git prints with -z."""
    return [entry for entry in output.split("\0") if entry]


def entries(answers: str) -> dict[str, str]:
    """Return the lines of an answers file by name; a long answer goes on in indented lines."""
    return {entry.partition(":")[0]: entry for entry in re.split(r"\n(?=\S)", answers.strip()) if entry[0] != "#"}


def value(entry: str) -> str:
    return entry.partition(": ")[2].strip("'\"")


class Scratch:
    """The temporary repository."""

    def __init__(self, folder: Path, answers_file: str) -> None:
        self.folder = folder
        self.answers_file = answers_file

    def git(self, *arguments: str | Path) -> str:
        return run("git", *arguments, cwd=self.folder, env=ISOLATED)

    def commit(self) -> str:
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", "Rendered")
        return self.git("rev-parse", "HEAD")

    def answers(self) -> dict[str, str]:
        return entries((self.folder / self.answers_file).read_text("utf-8"))

    def render(self, version: str, changed: list[str]) -> tuple[str, str]:
        """Commit the service as the template makes it, without edits: by the recorded answers, then by the new ones."""
        recorded = entries(Path(self.answers_file).read_text("utf-8-sig"))
        data = self.folder.with_name("answers.yml")
        data.write_text("\n".join(entry for name, entry in recorded.items() if name[0] != "_"), "utf-8")
        how = ["--quiet", "--defaults", "--answers-file", self.answers_file]
        source, was = (value(recorded[name]) for name in ("_src_path", "_commit"))
        copier("copy", *how, "--vcs-ref", was, "--data-file", data, source, self.folder)
        self.git("init", "--quiet", f"--object-format={git('rev-parse', '--show-object-format')}")
        self.git("config", "core.fileMode", "true")
        # Attributes are for a working tree; here each file is what Git stores.
        (self.folder / ".git/info/attributes").write_text("* -text -filter -ident -working-tree-encoding\n")
        old, before = self.commit(), self.answers()

        update: list[str | Path] = ["update", *how, *(["--vcs-ref", version] if version else []), self.folder]
        update += [f"--data={answer}" for answer in changed]
        copier(*update)
        after = self.answers()
        given = {answer.partition("=")[0] for answer in changed}
        if unknown := given - after.keys():
            questions = ", ".join(name for name in after if name[0] != "_")
            raise UpdateError(f"No question is called {', '.join(sorted(unknown))}. There are: {questions}.")
        for name in before.keys() & after.keys() - given - {"_commit", "_src_path"}:
            if before[name] != after[name]:  # Copier replaces an answer that it refuses by the default: ask it why
                self.git("reset", "--quiet", "--hard")
                data.write_text(before[name], "utf-8")
                try:
                    copier(*update, "--data-file", data)
                except UpdateError as stop:
                    raise UpdateError(f'{stop}\nGive another: make template-update ANSWERS="{name}=..."') from None
                raise UpdateError(f"{before[name]} would become {after[name]}")
        return old, self.commit()

    def merge(self, old: str, new: str, tree: str) -> None:
        """Merge what changes in the template into the user's tree."""
        objects = Path(git("rev-parse", "--git-path", "objects")).resolve()
        (self.folder / ".git/objects/info/alternates").write_text(f"{objects}\n")
        self.git("branch", "template", new)
        self.git("checkout", "--quiet", "--force", "-B", "mine", self.git("commit-tree", tree, "-p", old, "-m", "Mine"))
        try:
            self.git("merge", "--quiet", "--no-commit", "--no-ff", "-X", "ignore-cr-at-eol", "template")
        except UpdateError:
            if not self.unmerged():
                raise
        self.git("checkout", "--quiet", "template", "--", self.answers_file)

    def stages(self) -> list[str]:
        return split(self.git("ls-files", "--unmerged", "-z"))

    def unmerged(self) -> dict[str, str]:
        """Return the files in conflict, each with its versions: 1 is the old one, 2 the user's, 3 the template's."""
        found: dict[str, str] = {}
        for line in self.stages():
            about, name = line.split("\t", 1)
            found[name] = found.get(name, "") + about[-1]
        return found

    def settle(self) -> list[str]:
        """Return which changed files the user has deleted or moved; refuse that lines of the user's go with a file."""
        sides = self.unmerged()
        if goes := [name for name in sides if sides[name] == "12"]:
            keep = "To go on: move the lines that you need, git rm the file, commit."
            raise UpdateError("".join(f"{name} goes, and holds lines of yours.\n" for name in goes) + keep)
        missing = [name for name in sides if sides[name] in ("1", "13")]
        if missing:
            self.git("rm", "--quiet", "--", *missing)
        return [name for name in missing if sides[name] == "13"]

    def lock(self) -> bool:
        """Make uv.lock fit pyproject.toml; return whether that is left to do."""
        changed = self.git("diff", "--name-only", "mine", "--", "pyproject.toml")
        if not changed or not (self.folder / "uv.lock").exists():
            return False
        if "pyproject.toml" in self.unmerged() or not shutil.which("uv"):
            return True
        run("uv", "lock", cwd=self.folder)
        return False

    def save(self, new: str) -> str:
        """Commit everything, conflict markers included, as the branch `merged`; return its tree."""
        self.git("add", "--all", "--force")
        tree = self.git("write-tree")
        self.git("branch", "merged", self.git("commit-tree", tree, "-p", "mine", "-p", new, "-m", "Merged"))
        return tree


def difference(kinds: str, head: str, tree: str) -> list[str]:
    """Return the files that are added (A), deleted (D), ... between two trees."""
    how = ("--no-renames", "--no-relative", "--name-only", "-z", f"--diff-filter={kinds}")
    return split(git("diff-tree", "-r", *how, head, tree))


def check_the_way(head: str, tree: str) -> None:
    """UpdateError if the update would replace what Git could not bring back."""
    known = set(split(git("ls-tree", "-r", "-z", "--name-only", head)))
    for added in map(Path, difference("A", head, tree)):
        for path in (added, *added.parents):
            there = os.path.lexists(path) if path == added else path.is_file()
            if there and path.as_posix() not in known:
                raise UpdateError(f"{path} is in the way, and Git does not know it: move it away, or commit it.")
    changed = set(difference("ad", head, tree))
    for line in split(git("ls-files", "-v", "-z")):
        flag, name = line.split(" ", 1)
        if name in changed and (flag.islower() or flag == "S"):
            look = f"git update-index --no-assume-unchanged --no-skip-worktree {name}"
            raise UpdateError(f"Git is told to overlook your changes of {name}. First: {look}")


def apply(head: str, tree: str, stages: list[str]) -> None:
    """Change the user's files, and mark the conflicts."""
    git("read-tree", "--dry-run", "-m", "-u", head, tree)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        git("read-tree", "-m", "-u", head, tree)
    except UpdateError as stop:  # a full disk
        for name in difference("A", head, tree):
            Path(name).unlink(missing_ok=True)
        git("checkout-index", "--force", "-z", "--stdin", given="\0".join(difference("a", head, tree)))
        raise UpdateError(f"{stop}\nThe tree is restored.") from None
    git("update-index", "-z", "--index-info", given="\0".join(stages))


def update(answers_file: str, version: str, changed: list[str]) -> int:
    """Update the service in this folder; return the exit code."""
    if git("-c", "status.showUntrackedFiles=normal", "status", "--porcelain", "--", "."):
        raise UpdateError("Commit your changes first: an update needs a clean tree.")
    if wrong := [answer for answer in changed if not re.match(r"\w+=", answer)]:
        raise UpdateError(f"An answer is NAME=VALUE, as in port=9000: {' '.join(wrong)}")
    head, prefix = git("rev-parse", "HEAD"), git("rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        scratch = Scratch(Path(temporary, "service").resolve(), answers_file)
        old, new = scratch.render(version, changed)
        scratch.merge(old, new, git("rev-parse", "HEAD:./"))
        missing, locking = scratch.settle(), scratch.lock()
        conflicts = sorted(scratch.unmerged())
        stages = [f"0 {'0' * len(head)}\t{prefix}{name}" for name in conflicts]
        stages += [line.replace("\t", f"\t{prefix}", 1) for line in scratch.stages()]
        tree = scratch.save(new)

        os.chdir(git("rev-parse", "--show-toplevel"))
        how = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc", "--recurse-submodules=no")
        git("fetch", *how, scratch.folder, "merged")
        if prefix:  # one folder of a repository
            index = {"GIT_INDEX_FILE": str(Path(temporary, "index"))}
            git("read-tree", head, env=index)
            git("rm", "-r", "--quiet", "--cached", "--", prefix, env=index)
            git("read-tree", f"--prefix={prefix}", tree, env=index)
            tree = git("write-tree", env=index)
        check_the_way(head, tree)
        apply(head, tree, stages)

    fields = split(git("diff-tree", "-r", "-z", "-M", "--name-status", "--diff-filter=R", head, tree))
    renamed = dict(zip(fields[1::3], fields[2::3], strict=True))
    for name, new_name in renamed.items():
        print(f"Renamed: {name} is {new_name} now.")
    for name in sorted(set(difference("D", head, tree)) - renamed.keys()):
        print(f'Removed: {name}, which "git checkout HEAD -- {name}" brings back.')
    for name in missing:
        print(f"Not here: {name}, which has changed in the template: git diff {old[:12]} {new[:12]} -- {name}")
    for name in conflicts:
        print(f"Conflict: {name}")
    if locking:
        print("Then run uv lock: uv.lock is to fit pyproject.toml. It keeps your versions.")
    if conflicts:
        print("Resolve these conflicts, then commit.")
    elif difference("", head, tree):
        print("Updated: look at git diff HEAD, run make lint test, commit.")
    else:
        print("This is the template's newest version.")
    return 1 if conflicts else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(answers_file: str, version: str, *changed: str) -> int | str:
    """Return the exit code, or the error message."""
    try:
        return update(answers_file, version, list(changed))
    except KeyboardInterrupt:
        return "Interrupted. Nothing is changed."
    except (UpdateError, OSError) as error:
        return f"{error}\nNothing is changed."


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    sys.exit(main(*sys.argv[1:]))
