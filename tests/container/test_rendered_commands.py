"""The rendered repository's own checks pass, on the host and in the development image."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Render
from tests.project import PYTHON, commit, run

# The value of `make ON_HOST=`, and answers: what renders other Python code, on the host and in the image.
CHECKED: list[tuple[str, dict[str, Any]]] = [
    ("yes", {"python_version": PYTHON}),
    ("yes", {"python_version": PYTHON, "deploy": "cloudformation", "architecture": "arm64"}),
    ("yes", {"python_version": PYTHON, "deploy": "none", "ci": "none", "kafka": True, "telemetry": True}),
    ("", {"python_version": "3.11", "deploy": "none", "ci": "none"}),
    ("", {"python_version": "3.13", "deploy": "cloudformation", "kafka": True, "telemetry": True}),
    ("", {}),
    ("", {"python_version": "3.15"}),
]


@pytest.mark.parametrize(("on_host", "answers"), CHECKED)
def test_the_rendered_tests_and_lints_pass(render: Render, on_host: str, answers: dict[str, Any]) -> None:
    repository = render(**answers)
    commit(repository)
    tested = run("make", "test", f"ON_HOST={on_host}", cwd=repository).stdout
    assert " passed" in tested
    assert "Required test coverage of 90% reached" in tested
    assert ("/app" if not on_host else str(repository)) in tested
    run("make", "conflicts", "lint", f"ON_HOST={on_host}", cwd=repository)


def test_a_lock_file_that_no_longer_fits_is_renewed_in_the_image(render: Render) -> None:
    repository = render()
    run("make", "uv.lock", "ON_HOST=", cwd=repository)
    project = repository / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", 'dependencies = ["six"]', 1))
    run("make", "lock", "ON_HOST=", cwd=repository)
    assert '\nname = "six"\n' in (repository / "uv.lock").read_text()


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


@pytest.mark.parametrize("answers", [{}, {"runtime": "minimal", "kafka": True, "telemetry": True}])
def test_the_contract_holds(render: Render, answers: dict[str, Any]) -> None:
    repository: Path = render(service_name="contract", **answers)
    run("make", "build", cwd=repository)
    print(run("make", "contract", cwd=repository).stdout)
    assert "are allowed." in run("make", "size", cwd=repository).stdout
    failed = run("make", "size", "MEGABYTES=50", cwd=repository, check=False)
    assert failed.returncode != 0
    assert len(re.findall(r"^ +[0-9.]+ MB  /", failed.stdout, re.MULTILINE)) == 10
    assert "/app/.venv/lib/python3.14/site-packages/pydantic_core\n" in failed.stdout
    run("docker", "image", "rm", "--force", "contract:latest")
