"""The repository passes its own checks."""

from tests.project import run


def test_the_tests_and_scripts_are_clean() -> None:
    run("make", "lint")
