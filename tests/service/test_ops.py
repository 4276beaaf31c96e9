"""The code that owners may not edit, src/*/ops/, is tested here and not in each service."""

import re
from pathlib import Path

from tests.support.commands import run

# Services that lack a dependency lack the types of its test, too.
EVERYTHING = "src/my_service/ops/kafka.py"


def test_the_unit_tests_of_ops_pass(service: Path) -> None:
    tested = run("uv", "run", "--quiet", "pytest", "--no-cov", "tests/ops", cwd=service).stdout
    assert re.search(r"\d{2,} passed", tested)
    if (service / EVERYTHING).exists():
        run("uv", "run", "--quiet", "mypy", cwd=service)
