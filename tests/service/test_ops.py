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


def test_no_floor_is_below_what_uvicorn_asks_for(service: Path) -> None:
    """It tests with these; without its extra `standard` nothing makes uv keep to them."""
    ask = "from importlib.metadata import requires; print(*requires('uvicorn'), sep='\\n')"
    floor = r"(httptools|uvloop|watchfiles)>=([\d.]+)"
    asked = dict(re.findall(rf"^{floor}.*standard", run(".venv/bin/python", "-c", ask, cwd=service).stdout, re.M))
    ours = dict(re.findall(f'"{floor}"', (service / "pyproject.toml").read_text()))
    assert ours.keys() == asked.keys()
    for name, version in asked.items():
        least, most = ([*map(int, text.split(".")), 0, 0][:3] for text in (version, ours[name]))
        assert least <= most, name
