"""Fixtures for all tests: the template as it is on disk, what it renders, and a summary by folder."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import copier
import jinja2
import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

from tests.support.commands import run
from tests.support.template import ANSWERS, COMPUTED, NEWEST, QUESTIONS, ROOT, Render

PORT_8000 = Path(tempfile.gettempdir(), "copier-fastapi-ecs-port-8000.lock")  # the same for all workers


@pytest.fixture(scope="session", autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the settings of whoever runs the tests out of them."""
    home = tmp_path_factory.mktemp("configuration")
    (home / "copier.yml").write_text("{}\n")
    (home / "gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPIER_SETTINGS_PATH", str(home / "copier.yml"))
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
        patch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
        patch.setenv("MYPY_CACHE_DIR", str(home / "mypy"))  # libraries are checked once, not in each service
        patch.delenv("UV_PROJECT_ENVIRONMENT", raising=False)  # or rendered repositories would be installed into it
        # Otherwise the arguments of `make test` would reach make and pytest in rendered repositories.
        for name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTEST_ADDOPTS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def fast() -> Iterator[None]:
    """Compile each text once, parse YAML in C, and ask Git nothing for each file: an update takes half the time."""
    compile_text = jinja2.Environment.compile
    compiled: dict[Any, Any] = {}

    # Each clone of the template has its files elsewhere; `filename` is for tracebacks alone.
    def compile_once(self: jinja2.Environment, source: str, name: Any = None, filename: Any = None, *how: Any) -> Any:
        key = (self.sandboxed, source, name, *how)
        if key not in compiled:
            compiled[key] = compile_text(self, source, name, filename, *how)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", compile_once)
        patch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)
        # It asks whether core.fileMode is false, which it is nowhere here.
        patch.setattr(copier._main.Worker, "_sync_git_index_executable_bit", lambda *_: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def memory(own_configuration: None) -> Iterator[Path]:
    """Have temporary files in memory where there is enough of it: for each update Copier clones the template thrice."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 2**30
    with tempfile.TemporaryDirectory(dir=shared if roomy else None) as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)  # PostgreSQL is another user
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository whose newest version is the working tree, changes and all."""
    clone = tmp_path_factory.mktemp("template") / "copier-fastapi-ecs"
    run("git", "clone", "--quiet", ROOT, clone)
    run("git", f"--git-dir={clone / '.git'}", f"--work-tree={ROOT}", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--message", "Under test", cwd=clone)
    run("git", "reset", "--quiet", "--hard", cwd=clone)
    run("git", "clean", "--quiet", "--force", "-d", cwd=clone)  # what the working tree has removed
    run("git", "tag", NEWEST, cwd=clone)
    return clone


@pytest.fixture(scope="session")
def plain(template: Path) -> Path:
    """The same without Git: Copier clones a repository for each copy."""
    return shutil.copytree(template, template.with_name("plain"), ignore=shutil.ignore_patterns(".git"))


@pytest.fixture(scope="session")
def render(copie_session: Any, plain: Path) -> Render:
    """Return a function that renders answers into a new directory."""

    def render(**answers: Any) -> Path:
        unknown = answers.keys() - (QUESTIONS.keys() - COMPUTED)
        assert not unknown, f"no question is called {unknown}"
        result = copie_session.copy(extra_answers=answers, template_dir=plain)
        assert result.exit_code == 0, result.exception
        return Path(result.project_dir)

    return render


@pytest.fixture(scope="session")
def repositories(render: Render) -> Callable[[str], Path]:
    """Return a function that gives the repository of an answer set by name; tests only read it."""
    return cache(lambda name: render(**ANSWERS[name]))


@pytest.fixture(scope="session")
def default(repositories: Callable[[str], Path]) -> Path:
    """The repository of the default answers; tests only read it."""
    return repositories("default")


@pytest.fixture(params=ANSWERS)
def rendered(request: pytest.FixtureRequest, repositories: Callable[[str], Path]) -> Path:
    """The repository of one of the answer sets; tests only read it."""
    return repositories(request.param)


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip where no container engine answers; with CONTAINER_TESTS=required, fail."""
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        reason = "no container engine answers"
        if os.environ.get("CONTAINER_TESTS") == "required":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def port_8000(engine: None) -> Iterator[None]:
    """The README's port and service name: tests that run side by side take turns with them."""
    with PORT_8000.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Tests that take minutes: they come first, so that none of them runs alone at the end.
LONG = (
    "tests/fuzz/",
    "tests/container/",
    "tests/rehearsal/",
    "tests/kafka/test_outages.py",
    "tests/update/test_users_work.py",
)


class FilesOfContainersTogether(LoadScopeScheduling):  # type: ignore[misc]
    """One worker gets a file of tests/container/, whose tests share a port; the other tests are dealt out one by one.

    pytest-xdist 3.8 has a mark for this, which does nothing under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith("tests/container/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesOfContainersTogether:
    """Deal out the tests by the class above."""
    return FilesOfContainersTogether(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Take two workers more than there are CPUs, because a test waits for half of its time."""
    return 2 + (os.cpu_count() or 1)


def pytest_configure() -> None:
    """Take SIGINT as usual: a run in the background ignores it, and so would the programs that tests interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests ran in which folder."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            counts[Path(report.nodeid.partition("::")[0]).parent.as_posix(), outcome] += 1
    for folder in sorted({folder for folder, _ in counts}):
        outcomes = ", ".join(f"{n} {outcome}" for (where, outcome), n in counts.items() if where == folder)
        terminalreporter.write_line(f"{folder}: {outcomes}")
