#!/usr/bin/env python3
"""Bring the template's changes, or change answers. Kept by the template.

    template_update.py ANSWERS_FILE VERSION [NAME=VALUE ...]    an empty VERSION is the newest

Copier renders this service twice in a temporary repository: as it was, and as it will be. Git merges the difference
into your commit there. Your files change last, by one command of Git's: until then an error or Ctrl-C changes nothing.
"""

import ast
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Git's settings for everything temporary, whatever the user's are.
SETTINGS = {
    "user.name": "template-update",
    "user.email": "template-update@localhost",
    "apply.whitespace": "nowarn",
    "commit.gpgSign": "false",
    "core.autocrlf": "false",
    "core.excludesFile": os.devnull,
    "core.fileMode": "true",
    "core.hooksPath": os.devnull,
    "merge.directoryRenames": "true",
    "status.showUntrackedFiles": "normal",
}
GIVEN = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
OVERRIDDEN = {"GIT_CONFIG_COUNT": str(GIVEN + len(SETTINGS))}
for number, (key, setting) in enumerate(SETTINGS.items(), GIVEN):
    OVERRIDDEN |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": setting}
ISOLATED = OVERRIDDEN | {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_LITERAL_PATHSPECS": "1",
}
# Hooks and aliases of Git's name their repository, author and settings by these. Here the folder and the above do.
NAMED = re.compile(
    "GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|COMMON_DIR|PREFIX|NAMESPACE|QUARANTINE_PATH|DEFAULT_HASH"
    "|CONFIG_PARAMETERS|.*_PATHSPECS|AUTHOR_.*|COMMITTER_.*)"
)

ANY: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # files and their names may have any bytes
# A line that names an image or an action: what stands before its version, the version, what stands after it.
PINNED = re.compile(
    r"^( *(?:- )?(?:FROM|image:|uses:) +\S+?)((?::[\w.-]+)?(?:@[\w:]+)?(?: +# v[\d.]+)?)( AS \S+)?$", re.M
)

# Copier takes anything else for true, as in worker=flase.
BOOLEAN = re.compile("true|false|yes|no|on|off|[ytnf10]|", re.I)


class UpdateError(Exception):
    """The reason why nothing is changed."""


def run(*command: str | Path, cwd: Path | None = None, given: str = "", env: dict[str, str] | None = None) -> str:
    """Return a command's output; if it fails, raise UpdateError with its message."""
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=cwd, input=given, env=environment, capture_output=True, **ANY)
    if done.returncode:
        said = "\n".join(text.strip() for text in (done.stderr, done.stdout) if text.strip())
        raise UpdateError(said or f"This command failed without a message: {shlex.join(map(str, command))}")
    return str(done.stdout).rstrip("\n")


def copier(*arguments: str | Path) -> None:
    """Run Copier; of a traceback only what follows its last frame is for people."""
    try:
        run(*shlex.split(os.environ["COPIER"]), *arguments, env=OVERRIDDEN)
    except UpdateError as stop:
        said = str(stop)
        if "Traceback" in said:
            message = re.split(r"^  File .*\n(?:    .*\n)*", said, flags=re.MULTILINE)[-1]
            said = message.partition(": ")[2] or message
        raise UpdateError(said) from None


def git(*arguments: str | Path, given: str = "", env: dict[str, str] | None = None) -> str:
    """Run Git in the user's repository, with the user's settings."""
    return run("git", *arguments, given=given, env=env)


def split(output: str) -> list[str]:
    """Return the entries that Git prints with -z."""
    return [entry for entry in output.split("\0") if entry]


def listed(tree: str, ask: Callable[..., str]) -> list[str]:
    """Return the files of a tree."""
    return split(ask("ls-tree", "-r", "-z", "--name-only", tree))


Versions = dict[tuple[str, str], str]


def pinned(text: str) -> Versions:
    """Return the versions of the images and actions that a file names, by what stands around them.

    What has two versions in one file, an owner has chosen: it is left alone.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for before, version, after in PINNED.findall(text):
        found.setdefault((before, after), set()).add(version)
    return {key: version for key, (version, *others) in found.items() if not others}


def write_pinned(path: Path, versions: Versions, unless_newer: bool) -> None:
    """Write such versions into a file, if wanted only where it has no newer one: a digest goes with its tag."""

    def line(found: re.Match[str]) -> str:
        before, there, after = found.groups("")
        version = versions.get((before, after), there)
        older = numbers(version) != numbers(there) and numbers(version)[1] <= numbers(there)[1]
        return f"{before}{there if unless_newer and older else version}{after}"

    path.write_bytes(PINNED.sub(line, path.read_bytes().decode(**ANY)).encode(**ANY))


def numbers(version: str) -> tuple[str, list[int]]:
    """Return the words of a version and its numbers, without the digest."""
    tag = re.sub(r"@[\w:]+", "", version)
    return re.sub(r"\d+", "", tag).strip(), [int(number) for number in re.findall(r"\d+", tag)]


def sortable(version: str) -> tuple[list[int], bool, list[int]]:
    """Return the numbers of a version, whether it is a release of them, as v1.2rc3 is not, and what follows.

    What follows v1.2.3 is v1.2.3.post1, and the commit v1.2.3-4-g5e6f7.
    """
    found = re.match(r"(?:v|(?=\d+\.))(\d+(?:\.\d+)*)(a|b|rc)?(.*)", re.sub("-g[0-9a-f]+$", "", version))
    first, before, last = found.groups() if found else ("", "", "")
    return [*map(int, re.findall(r"\d+", first))], not before, [*map(int, re.findall(r"\d+", last))]


class Answers(dict[str, str]):
    """The lines of an answers file by name; a long answer goes on in indented lines."""

    def __init__(self, text: str) -> None:
        lines = re.findall(r"^[^\s#].*(?:\n[ \t].*)*", text, re.MULTILINE)
        super().__init__({line.partition(":")[0]: line for line in lines})
        self.seal = re.findall("^# Written by the template: (.*)$", text, re.MULTILINE)
        self.own = " ".join(re.findall("^# Updates leave alone: (.*)$", text, re.MULTILINE)).split()

    @classmethod
    def read(cls, file: str | Path) -> "Answers":
        answers = cls(Path(file).read_text("utf-8-sig"))
        if any(name.startswith(("<<<<<<<", ">>>>>>>")) for name in answers):
            raise UpdateError(f"{file} holds a conflict: resolve it, and commit.")
        for name, what in (("_src_path", "the template's address"), ("_commit", "the version that this service has")):
            if not answers.value(name):
                raise UpdateError(f"{file} lacks {name}: write {what} there, as in {name}: ..., and commit.")
        return answers

    def value(self, name: str) -> str:
        """Return an answer without quotes and comment."""
        text = re.sub(r"\s+", " ", self.get(name, "").partition(":")[2]).strip()
        if quoted := re.match("'((?:[^']|'')*)'", text):
            return quoted[1].replace("''", "'")
        if quoted := re.match(r'"(?:[^"\\]|\\.)*"', text):
            return str(ast.literal_eval(quoted[0]))  # Python has YAML's escapes
        return re.sub("^[|>][-+]? |(^| )#.*", "", text)

    def given(self) -> dict[str, str]:
        """Return the lines without Copier's own."""
        return {name: line for name, line in self.items() if name[0] != "_"}

    def sealed(self) -> bool:
        """Say whether the template wrote exactly these answers."""
        text = "".join(f"{line}\n" for line in self.given().values())
        return self.seal == [hashlib.sha256(text.encode()).hexdigest()]

    def written(self, file: str) -> "Answers":
        """Return the answers as the template wrote them last: Git knows what was changed by hand since then."""
        if self.sealed() or not self.seal:  # up to 0.4 there was no seal
            return self
        for commit in git("rev-list", "HEAD", "--", file).split():
            found = Answers(git("show", f"{commit}:./{file}"))
            if found.sealed():
                return found
        raise UpdateError(f"{file} was changed by hand, and this clone does not hold its past: undo your change.")


def command(answers: list[str]) -> str:
    """Return the command that gives these answers: a shell reads it, then make, then a shell."""
    return f"make template-update ANSWERS={shlex.quote(shlex.join(answers).replace('$', '$$'))}"


def check_by_hand(file: str, recorded: Answers, written: Answers, given: dict[str, str]) -> None:
    """UpdateError if an answer was changed by hand: the code does not know of it."""
    names = recorded.given().keys() | written.given().keys()
    if edited := sorted(name for name in names - given.keys() if recorded.value(name) != written.value(name)):
        wanted = [f"{name}={(recorded if name in recorded else written).value(name)}" for name in edited]
        said = f"{file} was changed by hand, and the code was not: {', '.join(edited)}."
        raise UpdateError(f"{said}\nTo change both: {command(wanted)}")


def check_given(given: dict[str, str], after: Answers) -> None:
    """UpdateError if Copier has taken a given answer for something else, without a word."""
    if unknown := given.keys() - after.given().keys():
        questions = ", ".join(after.given())
        raise UpdateError(f"No question is called {', '.join(sorted(unknown))}. There are: {questions}.")
    for name, answer in given.items():
        if after[name] in (f"{name}: true", f"{name}: false") and not BOOLEAN.fullmatch(answer):
            raise UpdateError(f"{name} is true or false, not {answer!r}.")


class Scratch:
    """The temporary repository."""

    def __init__(self, folder: Path, answers_file: str, objects: Path) -> None:
        self.folder = folder
        self.answers_file = answers_file
        self.objects = objects  # the user's
        folder.mkdir()
        self.git("init", "--quiet", "--template=")
        # Attributes are for a working tree; here each file is what Git stores.
        (folder / ".git/info").mkdir(exist_ok=True)
        (folder / ".git/info/attributes").write_text("* -text -filter -ident -working-tree-encoding\n")

    def git(self, *arguments: str | Path) -> str:
        return run("git", *arguments, cwd=self.folder, env=ISOLATED)

    def answers(self) -> Answers:
        return Answers.read(self.folder / self.answers_file)

    def render(self, version: str, changed: list[str]) -> tuple[str, str]:
        """Commit the service as the template makes it, without edits: by the recorded answers, then by the new ones."""
        recorded = Answers.read(self.answers_file)
        written = recorded.written(self.answers_file)
        given = dict(answer.split("=", 1) for answer in changed)
        check_by_hand(self.answers_file, recorded, written, given)
        for name, answer in given.items():  # Copier would not say which of them is no number
            if re.fullmatch(r"\w+: \d+", recorded.get(name, "")) and not answer.isdecimal():
                raise UpdateError(f"{name} is a whole number, not {answer!r}.")
        data = self.folder.with_name("answers.yml")
        data.write_text("\n".join(written.given().values()), "utf-8")
        how = ("--data-file", str(data), recorded.value("_src_path"), str(self.folder))
        was = recorded.value("_commit")
        wanted = was if version == ":current:" else version
        try:
            new, after = self.tree(*(["--vcs-ref", wanted] if wanted else []), *(f"--data={a}" for a in changed), *how)
        except UpdateError as stop:
            refused = re.search(r"(?:question|choice for) '(\w+)'", str(stop))
            if not refused or refused[1] in given:
                raise
            raise UpdateError(f"{stop}\nGive another: {command([*changed, f'{refused[1]}=...'])}") from None
        check_given(given, after)
        becomes = after.value("_commit")
        if sortable(becomes) < sortable(was) or not after.own:
            raise UpdateError(f"{becomes} is too old for this service, which has {was}: name a newer version by TO.")
        old, before = self.tree("--vcs-ref", was, *how)

        # The new version gets the service's own files as they are in the old one, but also new examples.
        own = self.matching(new, after.own)
        examples = own - self.matching(new, before.own) - set(listed(old, self.git))
        kept = (own | self.matching(old, after.own)) - examples
        old = self.git("commit-tree", old, "-m", "Rendered")
        self.git("read-tree", new)
        if kept:
            self.git("reset", "--quiet", old, "--", *kept)
        return old, self.git("commit-tree", self.git("write-tree"), "-p", old, "-m", "Rendered")

    def tree(self, *how: str) -> tuple[str, Answers]:
        """Return what Copier renders, and the answers in it."""
        copier("copy", "--quiet", "--defaults", "--answers-file", self.answers_file, *how)
        answers = self.answers()
        self.git("add", "--all", "--force")
        tree = self.git("write-tree")
        self.git("rm", "-r", "--quiet", "--force", ".")
        return tree, answers

    def matching(self, tree: str, patterns: list[str]) -> set[str]:
        """Return which files of a tree are left alone, by the patterns of an answers file; up to 0.6.2 none has any."""
        self.git("read-tree", tree)
        which = [f"--exclude={pattern}" for pattern in patterns]
        return set(self.files("--cached", "--ignored", *which)) if which else set()

    def merge(self, old: str, new: str, tree: str) -> None:
        """Merge what changes in the template into the user's tree.

        A file of the template's behind a link or submodule of the user's counts as moved or deleted: that is set aside.
        """
        (self.folder / ".git/objects/info/alternates").write_text(f"{self.objects}\n")
        self.git("branch", "template", new)
        self.mine = self.git("commit-tree", tree, "-p", old, "-m", "Mine")
        self.git("checkout", "--quiet", "--force", "-B", "mine", self.mine)
        links = [line.split("\t")[1] for line in self.files("--stage") if line.startswith(("120000", "160000"))]
        names = [f"{name}/" for side in (old, new) for name in listed(side, self.git)] if links else []
        self.links = [link for link in links if any(name.startswith(f"{link}/") for name in names)]
        if self.links:
            self.git("rm", "--quiet", "--", *self.links)
            self.git("commit", "--quiet", "--amend", "--no-edit")
        moved = self.unpin(old)
        try:
            self.git("merge", "--quiet", "--no-commit", "--no-ff", "-X", "ignore-cr-at-eol", "template")
        except UpdateError:
            if not self.unmerged():
                raise
        self.pin(moved)
        self.git("checkout", "--quiet", "template", "--", self.answers_file)

    def unpin(self, old: str) -> dict[Path, Versions]:
        """Take back newer versions and digests, of a bot or `make lock`, so that none conflicts; return them."""
        moved: dict[Path, Versions] = {}
        for name in split(self.git("diff", "-z", "--name-only", "--diff-filter=M", "--no-renames", old, "HEAD")):
            path = self.folder / name
            if re.search(r"(Dockerfile\S*|\.ya?ml)$", name) and not path.is_symlink():
                was, mine = pinned(self.git("show", f"{old}:{name}")), pinned(path.read_bytes().decode(**ANY))
                for key in was.keys() & mine.keys():
                    (words, number), (mine_words, mine_number) = numbers(was[key]), numbers(mine[key])
                    if was[key] != mine[key] and words == mine_words and number <= mine_number:
                        moved.setdefault(path, {})[key] = mine[key]
                if path in moved:
                    write_pinned(path, {key: was[key] for key in moved[path]}, unless_newer=False)
        if moved:
            self.git("commit", "--quiet", "--all", "--amend", "--allow-empty", "--no-edit")
        return moved

    def pin(self, moved: dict[Path, Versions]) -> None:
        """Write them again where the template has no newer version."""
        for path, mine in moved.items():
            if path.is_file():
                write_pinned(path, mine, unless_newer=True)

    def files(self, *which: str) -> list[str]:
        return split(self.git("ls-files", "-z", *which))

    def unmerged(self) -> dict[str, dict[str, str]]:
        """Return the files in conflict, each with its contents: 1 is the old one, 2 the user's, 3 the template's."""
        found: dict[str, dict[str, str]] = {}
        for line in self.files("--unmerged"):
            about, name = line.split("\t", 1)
            _, content, stage = about.split(" ")
            found.setdefault(name, {})[stage] = content
        return found

    def settle(self) -> list[str]:
        """Return which changed files the user has deleted or moved; refuse that lines of the user's go with a file."""
        contents = self.unmerged()
        sides = {name: "".join(contents[name]) for name in contents}
        goes = [name for name in sides if sides[name] == "12"]
        if edited := [name for name in goes if contents[name]["1"] != contents[name]["2"]]:
            keep = "To go on: move the lines that you need, git rm the file, commit."
            raise UpdateError("".join(f"The update removes {name}, which you edited.\n" for name in edited) + keep)
        missing = [name for name in sides if sides[name] == "13"]
        missing += self.files("--", *self.links) if self.links else []
        if gone := goes + missing + [name for name in sides if sides[name] == "1"]:
            self.git("rm", "--quiet", "--force", "--", *gone)
        if self.links:
            self.git("checkout", "--quiet", self.mine, "--", *self.links)
        return sorted({name.removesuffix("~template") for name in missing})  # as Git names it beside a folder

    def lock(self) -> bool:
        """Make uv.lock fit pyproject.toml; return whether that is left to do."""
        changed = self.git("diff", "--name-only", "mine", "--", "pyproject.toml")
        if not changed or not (self.folder / "uv.lock").exists():
            return False
        if "pyproject.toml" in self.unmerged() or not shutil.which("uv"):
            return True
        try:
            run("uv", "lock", cwd=self.folder)
        except UpdateError:
            find = ["uv", "python", "find", "--no-project", self.answers().value("python_version")]
            if subprocess.run(find, capture_output=True).returncode == 0:
                raise
            return True  # uv can only lock with the service's Python
        return False

    def save(self, new: str) -> str:
        """Commit everything, conflict markers included, as the branch `merged`; return its tree."""
        self.git("add", "--all", "--force")
        tree = self.git("write-tree")
        self.git("branch", "merged", self.git("commit-tree", tree, "-p", "mine", "-p", new, "-m", "Merged"))
        return tree


def changes(head: str, tree: str) -> dict[str, str]:
    """Return which files are added (A), deleted (D) or changed (M, T) between two trees."""
    fields = split(git("diff-tree", "-r", "-z", "--no-renames", "--no-relative", "--name-status", head, tree))
    return dict(zip(fields[1::2], fields[::2], strict=True))


def check_the_way(head: str, changed: dict[str, str]) -> None:
    """UpdateError if the update would replace what Git could not bring back."""
    known = set(listed(head, git))
    for added in (Path(name) for name in changed if changed[name] == "A"):
        for path in (added, *added.parents):
            there = os.path.lexists(path) if path == added else path.is_symlink() or path.is_file()
            if there and path.as_posix() not in known:
                raise UpdateError(f"{path} is in the way, and Git does not know it: move it away, or commit it.")
    absent = []
    for line in split(git("ls-files", "-v", "-z")):
        flag, name = line.split(" ", 1)
        if name in changed and flag == "S" and not os.path.lexists(name):
            absent.append(name.rpartition("/")[0] or name)
        elif name in changed and (flag.islower() or flag == "S"):
            look = f"git update-index --no-assume-unchanged --no-skip-worktree {shlex.quote(name)}"
            raise UpdateError(f"A flag hides your changes of {name} from Git. First: {look}")
    if absent:
        folders = shlex.join(sorted(set(absent)))
        raise UpdateError(f"The sparse checkout lacks what changes. First: git sparse-checkout add {folders}")


def apply(head: str, tree: str, stages: list[str], changed: dict[str, str], temporary: Path, old: Path) -> None:
    """Change the user's files, mark the conflicts, and put the new index in its place last."""
    # First everything that filters do to the new files: one may fail.
    coming = "\0".join(name for name in changed if changed[name] != "D")
    index = {"GIT_INDEX_FILE": str(temporary / "index")}
    git("read-tree", tree, env=index)
    git("checkout-index", "-z", "--stdin", f"--prefix={temporary}/new/", given=coming, env=index)

    lock = old.with_name("index.lock")
    index = {"GIT_INDEX_FILE": str(lock)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        with lock.open("xb") as file:
            file.write(old.read_bytes())
    except FileExistsError:
        raise UpdateError(f"Another Git command is running here. If it has crashed, delete {lock}.") from None
    try:
        git("read-tree", "-m", "-u", head, tree, env=index)
        git("update-index", "-z", "--index-info", given="\0".join(stages), env=index)
        lock.replace(old)
    except (UpdateError, OSError) as stop:  # a full disk, or a file that is saved in this moment
        lost = []
        for name, kind in changed.items():
            path, new = Path(name), temporary / "new" / name
            begun = path.is_file() and new.is_file() and new.read_bytes().startswith(path.read_bytes())
            if begun and kind == "A":
                path.unlink()
            elif kind != "A" and (begun or not os.path.lexists(path)):
                lost.append(name)
        git("checkout-index", "--force", "-z", "--stdin", given="\0".join(lost))
        lock.unlink(missing_ok=True)
        raise UpdateError(f"{stop}\nThe tree is restored.") from None


def update(answers_file: str, version: str, changed: list[str]) -> int:
    """Update the service in this folder; return the exit code."""
    if git("-c", "status.showUntrackedFiles=normal", "status", "--porcelain", "--", "."):
        raise UpdateError("Commit your changes first: an update needs a clean tree.")
    if wrong := [answer for answer in changed if not re.match(r"\w+=", answer)]:
        raise UpdateError(f"An answer is NAME=VALUE, as in port=9000: {' '.join(wrong)}")
    asked = ("HEAD", "HEAD:./", "--show-object-format", "--show-prefix", "--show-toplevel")
    paths = ("--git-path", "index", "--git-path", "objects")
    head, mine, hashed, prefix, top, index, objects = git("rev-parse", *asked, *paths).split("\n")
    index_file = Path(index).resolve()
    if hashed != "sha1":
        raise UpdateError(f"Copier cannot update a repository with hashes by {hashed}.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        temporary = Path(folder).resolve()
        scratch = Scratch(temporary / "service", answers_file, Path(objects).resolve())
        old, new = scratch.render(version, changed)
        scratch.merge(old, new, mine)
        missing, locking = scratch.settle(), scratch.lock()
        unmerged = scratch.files("--unmerged")
        conflicts = sorted({line.split("\t", 1)[1] for line in unmerged})
        stages = [f"0 {'0' * len(head)}\t{prefix}{name}" for name in conflicts]
        stages += [line.replace("\t", f"\t{prefix}", 1) for line in unmerged]
        tree = scratch.save(new)

        os.chdir(top)
        how = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc", "--recurse-submodules=no")
        git("fetch", *how, scratch.folder, "merged")
        if prefix:  # one folder of a repository
            whole = {"GIT_INDEX_FILE": str(temporary / "index")}
            git("read-tree", head, env=whole)
            git("rm", "-r", "--quiet", "--cached", "--", prefix, env=whole)
            git("read-tree", f"--prefix={prefix}", tree, env=whole)
            tree = git("write-tree", env=whole)
        files = changes(head, tree)
        fields = split(git("diff-tree", "-r", "-z", "-M", "--name-status", "--diff-filter=R", head, tree))
        check_the_way(head, files)
        apply(head, tree, stages, files, temporary, index_file)

    renamed = dict(zip(fields[1::3], fields[2::3], strict=True))
    for name, new_name in renamed.items():
        print(f"Renamed: {name} is {new_name} now.")
    for name in files:
        if files[name] == "D" and name not in renamed:
            print(f'Removed: {name}, which "git checkout HEAD -- {name}" brings back.')
    for name in missing:
        print(f"Moved or deleted: {name}, which the template has changed: git diff {old[:12]} {new[:12]} -- :/{name}")
    for name in conflicts:
        print(f"Conflict: {name}")
    if locking:
        print("Then run uv lock: uv.lock is to fit pyproject.toml. It keeps your versions.")
    if conflicts:
        print("Resolve these conflicts, then commit.")
    elif files:
        print("Updated: look at git diff HEAD, run make lint test, commit.")
    else:
        print("This is the template's newest version.")
    return 1 if conflicts else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(answers_file: str, version: str, *changed: str) -> int | str:
    """Return the exit code, or the error message."""
    for name in filter(NAMED.fullmatch, list(os.environ)):
        del os.environ[name]
    try:
        return update(answers_file, version, list(changed))
    except KeyboardInterrupt:
        return "Interrupted. Nothing is changed."
    except (UpdateError, OSError, UnicodeError, SyntaxError) as error:
        return f"{error}\nNothing is changed."


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    sys.exit(main(*sys.argv[1:]))
