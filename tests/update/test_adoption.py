"""A service that never saw the template adopts it by docs/adopting.md, and keeps its code."""

import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.container.conftest import running
from tests.project import PYTHON, ROOT, commit, run

DOCUMENT = (ROOT / "docs/adopting.md").read_text()
ADDRESS = "https://github.com/copier-fastapi-ecs/copier-fastapi-ecs.git"
PORT = 8124

MAIN = """\
from fastapi import FastAPI

from MODULE import settings

app = FastAPI(title="Orders")


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, str]:
    return {"order": f"{settings.prefix}-{number}"}
"""
SETTINGS = """\
from humanize import ordinal
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    prefix: str = ordinal(1)


settings = Settings()
"""
PLAIN_SETTINGS = """\
class Settings:
    prefix = "1st"


settings = Settings()
"""
TEST = """\
from fastapi.testclient import TestClient

from MODULE import app


def test_an_order_has_a_prefix() -> None:
    assert TestClient(app).get("/orders/7").json() == {"order": "1st-7"}
"""
# How a service was started: what its package is called afterwards, and its files.
SERVICES: dict[str, tuple[str, dict[str, str]]] = {
    "src.main:app": (
        "orders",
        {
            "src/main.py": MAIN.replace("MODULE", "src.config"),
            "src/config.py": PLAIN_SETTINGS,
            "Makefile": "run:\n\tuvicorn src.main:app\n",
            "tests/test_orders.py": TEST.replace("MODULE", "src.main"),
        },
    ),
    "app.main:app": (
        "app",
        {
            "app/__init__.py": "",
            "app/main.py": MAIN.replace("MODULE", "app.settings"),
            "app/settings.py": SETTINGS,
            "requirements.txt": "fastapi==0.115.0\nhumanize>=4.9\nuvicorn[standard]==0.30.6\n",
            "tests/test_orders.py": TEST.replace("MODULE", "app.main"),
        },
    ),
    "orders.main:app": (
        "orders",
        {
            "src/orders/main.py": MAIN.replace("MODULE", "orders.config"),
            "src/orders/config.py": SETTINGS,
            "pyproject.toml": '[project]\nname = "orders"\ndependencies = ["fastapi", "humanize>=4.9"]\n',
            "tests/conftest.py": "",
            "tests/test_orders.py": TEST.replace("MODULE", "orders.main"),
        },
    ),
}
EVERYWHERE = {".gitignore": "*.db\n", "Dockerfile": "FROM python\nCOPY . .\n", "README.md": "# Orders\n"}
REPLACED = {".gitignore", "Dockerfile", "Makefile", "pyproject.toml"}


def blocks(text: str, language: str = "shell") -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


def overwritten(output: str) -> set[str]:
    """Return the files that Copier says it overwrites."""
    return set(re.findall(r"^ *overwrite +(\S+)$", re.sub(r"\x1b\[\d+m", "", output), re.MULTILINE))


def apply(diff: str, repository: Path) -> None:
    """Replace each group of `-` lines by the `+` lines after it, in the file that the first line names."""
    header, changes = diff.split("\n", 1)
    path = repository / header.removeprefix("+++ ")
    text = path.read_text()
    for change in re.findall(r"(?:^-.*\n)+(?:^\+.*\n)+", changes, re.MULTILINE):
        old, new = ("".join(re.findall(rf"^[{sign}](.*\n)", change, re.MULTILINE)) for sign in "-+")
        assert old in text, f"{path.name} has no {old}"
        text = text.replace(old, new)
    path.write_text(text)


def by_name(requirements: list[str]) -> dict[str, str]:
    """Return requirements by the name of what they require."""
    return {re.split(r"[\[=<>]", requirement)[0]: requirement for requirement in requirements}


@pytest.mark.parametrize("started", SERVICES)
def test_a_service_keeps_its_code_and_becomes_healthy(
    engine: None, template: Path, tmp_path: Path, started: str
) -> None:
    package, own = SERVICES[started]
    for path, text in (own | EVERYWHERE).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    commit(tmp_path)
    name = f"adopted-{started.partition('.')[0]}"
    answers = f"--defaults --data service_name={name} --data python_version={PYTHON} --data port={PORT}"

    def shell(block: str) -> str:
        block = block.replace(ADDRESS, str(template)).replace("copier copy", f"copier copy {answers}")
        return run("bash", "-euo", "pipefail", "-c", block, cwd=tmp_path).stdout

    # As the document says: write the name of the package for `orders`.
    begin, move, copy, join, check = re.split("^## .*\n", DOCUMENT.replace("orders", package), flags=re.MULTILINE)
    (branch,) = blocks(begin)
    shell(branch)
    for how in re.findall(rf"^`{started}`[^\n]*\n\n```shell\n(.*?)^```", move, re.MULTILINE | re.DOTALL):
        shell(how)

    (copying,) = blocks(copy)
    announced = overwritten(shell(copying.replace("--overwrite", "--overwrite --pretend")))
    assert run("git", "status", "--porcelain", cwd=tmp_path).stdout == ""
    assert overwritten(shell(copying)) == announced
    changed = run("git", "diff", "--name-only", cwd=tmp_path).stdout.split()
    assert set(changed) == announced == REPLACED & (own | EVERYWHERE).keys()

    examples, requirements = blocks(join)
    shell(examples)
    main, settings = blocks(join, "diff")
    apply(main, tmp_path)
    if "app/settings.py" in own:
        apply(settings, tmp_path)
    if "pyproject.toml" in own:
        shared = tmp_path / "pyproject.toml"
        shared.write_text(shared.read_text().replace("dependencies = []", 'dependencies = ["humanize>=4.9"]'))
    if "requirements.txt" in own:
        (listed,) = re.findall(r"what the template brings \((.*?)\)", join, re.DOTALL)
        brought = by_name(tomllib.loads((tmp_path / "pyproject.toml").read_text())["dependency-groups"]["service"])
        assert re.findall("`(.*?)`", listed) == list(brought)
        kept = [
            line for project, line in by_name(own["requirements.txt"].splitlines()).items() if project not in brought
        ]
        (tmp_path / "requirements.txt").write_text("\n".join(kept))
        shell(requirements)

    (checks,) = blocks(check)
    if started != "app.main:app":  # one is enough for what takes a minute
        checks = re.sub("make (up|contract)\n", "", checks)
    try:
        shell(checks)
        with running(f"{name}:latest", port=PORT) as container:
            container.wait_until_healthy()
            assert container.get("/orders/7") == {"order": "1st-7"}
    finally:
        run("docker", "compose", "down", "--rmi", "local", cwd=tmp_path)
        run("docker", "image", "rm", "--force", f"{name}:latest")
