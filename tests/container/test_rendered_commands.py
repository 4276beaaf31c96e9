"""The rendered repository's own checks pass, on the host or in the development image, whichever there is."""

from pathlib import Path

import pytest

from tests.conftest import Render
from tests.project import ANSWERS, run


@pytest.mark.parametrize("name", ["default", "short", "middle"])
def test_the_rendered_tests_and_lints_pass(render: Render, name: str) -> None:
    repository = render(**ANSWERS[name])
    tested = run("make", "test", cwd=repository).stdout
    assert " passed" in tested
    assert "Required test coverage of 90% reached" in tested
    run("make", "lint", cwd=repository)


def test_the_contract_holds(render: Render) -> None:
    repository: Path = render(service_name="contract")
    run("make", "build", cwd=repository)
    print(run("make", "contract", cwd=repository).stdout)
    run("docker", "image", "rm", "--force", "contract:latest")
