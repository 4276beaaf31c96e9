"""The rendered repository's own checks pass, on the host and in the development image."""

import shutil
from typing import Any

import pytest

from tests.support.commands import commit, edit, run
from tests.support.template import PYTHON, ROOT, Render

# `make ON_HOST=` and answers. Each renders other Python code, or runs on another Python. The first day checks the
# default answers in the image, test_development.py on the host.
EVERYTHING = {"kafka": True, "telemetry": True, "database": "postgres"}
CHECKED: list[tuple[str, dict[str, Any]]] = [
    ("yes", {"python_version": PYTHON, "deploy": "cloudformation", "architecture": "arm64"}),
    ("yes", {"python_version": PYTHON, "deploy": "none", "ci": "none", **EVERYTHING}),
    ("", {"python_version": "3.11", "deploy": "none", "ci": "none"}),
    ("", {"deploy": "cloudformation", "kafka": True, "telemetry": True}),
    ("", {"python_version": "3.15"}),
]

COROUTINE_TEST = """\
import pytest


@pytest.mark.asyncio
async def test_a_coroutine() -> None:
    assert True
"""


@pytest.mark.parametrize(("on_host", "answers"), CHECKED)
def test_the_rendered_tests_and_lints_pass(render: Render, on_host: str, answers: dict[str, Any]) -> None:
    repository = render(**answers)
    commit(repository)
    how = (f"ON_HOST={on_host}", "ENGINE=")  # without an engine, a service's tests start their own PostgreSQL
    run("make", "conflicts", "lint", *how, cwd=repository)
    if not on_host:  # tests/service runs these on the Python of this machine alone
        ops = repository / "tests/ops"
        shutil.copytree(ROOT / "tests/service/ops", ops, dirs_exist_ok=True)
        shutil.copy(ROOT / "tests/kafka/broker.py", ops)
    tested = run("make", "test", *how, cwd=repository).stdout
    assert " passed" in tested
    assert "Required test coverage of 90% reached" in tested
    assert ("/app" if not on_host else str(repository)) in tested


def test_a_lock_file_that_does_not_fit_is_explained_and_renewed_in_the_image(render: Render) -> None:
    repository = render()
    run("make", "uv.lock", "ON_HOST=", cwd=repository)
    edit(repository / "pyproject.toml", "dependencies = []", 'dependencies = ["six"]')
    failed = run("make", "test", "ON_HOST=", cwd=repository, check=False)
    assert failed.returncode != 0
    assert "needs to be updated" in failed.stdout
    run("make", "lock", "ON_HOST=", cwd=repository)
    assert '\nname = "six"\n' in (repository / "uv.lock").read_text()


def test_a_dependency_is_added_in_the_image(render: Render) -> None:
    repository = render()
    assert "make add NAME=httpx" in run("make", "add", "ON_HOST=", cwd=repository, check=False).stdout
    run("make", "add", "NAME=six", "ON_HOST=", cwd=repository)
    assert 'dependencies = [\n    "six>=' in (repository / "pyproject.toml").read_text()
    assert '\nname = "six"\n' in (repository / "uv.lock").read_text()


def test_the_tools_accept_list_settings_coroutine_tests_and_tests_in_the_package(render: Render) -> None:
    repository = render(python_version=PYTHON)
    package = repository / "src/my_service"
    edit(
        package / "settings.py",
        '    greeting: str = "Hello"\n',
        '    greeting: str = "Hello"\n    origins: list[str] = []\n',
    )
    (package / "job.py").write_text("\n".join(f"a{n} = {n}" for n in range(100)) + "\n")  # a file that no test reaches
    (package / "tests").mkdir()
    (package / "tests/__init__.py").touch()
    (package / "tests/test_inside.py").write_text(COROUTINE_TEST)
    tested = run("make", "test", "lint", cwd=repository).stdout
    assert "src/my_service/tests/test_inside.py ." in tested
    assert "Required test coverage of 90% reached" in tested
    assert "job.py" not in tested


def test_fmt_formats_also_where_something_cannot_be_corrected(render: Render) -> None:
    repository = render(python_version=PYTHON)
    route = repository / "src/my_service/routers/hello.py"
    formatted = route.read_text()
    route.write_text("missing(  )\n" + formatted)
    printed = run("make", "fmt", cwd=repository).stdout
    assert "F821 Undefined name `missing`" in printed
    assert "missing()\n" in route.read_text()


def test_a_commit_with_a_conflict_or_a_mistake_is_refused(render: Render) -> None:
    repository = render(python_version=PYTHON)
    commit(repository)
    run("make", "uv.lock", cwd=repository)
    run("prek", "install", cwd=repository)
    commit(repository, "What is clean")
    readme, route = repository / "README.md", repository / "src/my_service/routers/hello.py"
    for path, mistake in (
        (readme, "<<<<<<< before updating\n"),
        (route, "import  os\n"),
        (repository / "Makefile.rej", "@@"),
    ):
        before = path.read_text() if path.exists() else ""
        path.write_text(before + mistake)
        run("git", "add", "--all", cwd=repository)
        refused = run("git", "commit", "--message", "Unnoticed", cwd=repository, check=False)
        assert refused.returncode != 0, path
        assert "Failed" in refused.stdout
        path.write_text(before)
    assert run("git", "log", "--format=%s", cwd=repository).stdout == "What is clean\nSaved\n"


def test_what_make_is_given_is_never_run(render: Render) -> None:
    repository = render()
    for target, variable in (("deploy", "ENV"), ("deploy", "IMAGE_TAG"), ("task", "ENV"), ("task", "CMD")):
        run("make", target, "ENV=stage", f"{variable}=`touch made` $$(touch made)", cwd=repository, check=False)
        assert not (repository / "made").exists(), (target, variable)
