"""The repository passes its own checks."""

from tests.support.commands import run


def test_the_template_passes_its_own_lint() -> None:
    run("make", "lint")
