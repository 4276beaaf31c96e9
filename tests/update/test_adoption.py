"""A service that never saw the template adopts it by docs/adopting.md, and keeps its code."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.commands import commit, free_port, run
from tests.support.containers import docker, running
from tests.support.documents import blocks
from tests.support.template import PYTHON, ROOT

DOCUMENT = (ROOT / "docs/adopting.md").read_text()
ADDRESS = '"$TEMPLATE"'  # the documents say what to set it to

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
FROZEN = """\
fastapi==0.115.0
humanize==4.9.0
pydantic_core==2.27.1
python-dateutil==2.8.2
six==1.16.0
uvicorn==0.30.6
"""
INDIRECT = {"pydantic_core", "six"}
# How a service was started: what its package is called afterwards, and its files.
SERVICES: dict[str, tuple[str, dict[str, str]]] = {
    "src.main:app": (
        "orders",
        {
            "src/main.py": MAIN.replace("MODULE", "src.config"),
            "src/config.py": PLAIN_SETTINGS,
            "Makefile": "run:\n\tuvicorn src.main:app\n",
            "requirements.txt": "fastapi\nhumanize>=4.9\nuvicorn[standard]==0.30.6\n",
            "tests/test_orders.py": TEST.replace("MODULE", "src.main"),
        },
    ),
    "app.main:app": (
        "app",
        {
            "app/__init__.py": "",
            "app/main.py": MAIN.replace("MODULE", "app.settings"),
            "app/settings.py": SETTINGS,
            "requirements.txt": FROZEN,
            "tests/test_orders.py": TEST.replace("MODULE", "app.main"),
        },
    ),
    "main:app": (
        "orders",
        {
            "main.py": MAIN.replace("MODULE", "models.config"),
            "models/config.py": PLAIN_SETTINGS,
            "routes/__init__.py": "",
            "tests/test_orders.py": TEST.replace("from MODULE import app", "import main").replace("app", "main.app"),
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
def test_an_adopted_service_keeps_its_code_and_becomes_healthy(
    engine: None, template: Path, tmp_path: Path, started: str
) -> None:
    package, own = SERVICES[started]
    name = f"adopted-{re.split('[.:]', started)[0]}"
    repository = tmp_path / name  # Compose calls the project like the folder: two at a time need two names
    for path, text in (own | EVERYWHERE).items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(text)
    commit(repository)
    port = free_port()
    answers = f"--defaults --data service_name={name} --data python_version={PYTHON} --data port={port}"

    def shell(block: str) -> str:
        block = block.replace(ADDRESS, str(template)).replace("copier copy", f"copier copy {answers}")
        return run("bash", "-euo", "pipefail", "-c", block, cwd=repository).stdout

    # As the document says: write the name of the package for `orders`.
    begin, move, copy, join, _front_end, check = re.split(
        "^## .*\n", DOCUMENT.replace("orders", package), flags=re.MULTILINE
    )
    (branch,) = blocks(begin)
    shell(branch)
    for way in re.split("^(?=`[a-z.]+:app`)", move, flags=re.MULTILINE):
        for block in blocks(way) if way.startswith(f"`{started}`") else []:
            shell(block)

    (copying,) = blocks(copy)
    announced = overwritten(shell(copying.replace("--overwrite", "--overwrite --pretend")))
    assert run("git", "status", "--porcelain", cwd=repository).stdout == ""
    assert overwritten(shell(copying)) == announced
    changed = run("git", "diff", "--name-only", cwd=repository).stdout.split()
    assert set(changed) == announced == REPLACED & (own | EVERYWHERE).keys()

    examples, requirements, frozen = blocks(join)
    shell(examples)
    main, settings = blocks(join, "diff")
    apply(main, repository)
    if "app/settings.py" in own:
        apply(settings, repository)
    if "pyproject.toml" in own:
        shared = repository / "pyproject.toml"
        shared.write_text(shared.read_text().replace("dependencies = []", 'dependencies = ["humanize>=4.9"]'))
    if "requirements.txt" in own:
        (listed,) = re.findall(r"what the template brings \((.*?)\)", join, re.DOTALL)
        brought = by_name(tomllib.loads((repository / "pyproject.toml").read_text())["dependency-groups"]["service"])
        assert re.findall("`(.*?)`", listed) == list(brought)
        lines = by_name(own["requirements.txt"].splitlines())
        kept = [line for project, line in lines.items() if project not in brought.keys() | INDIRECT]
        (repository / "requirements.txt").write_text("\n".join(kept))
        shell(frozen if own["requirements.txt"] == FROZEN else requirements)
    if package == "app":
        locked = tomllib.loads((repository / "uv.lock").read_text())["package"]
        versions = {package["name"]: package["version"] for package in locked if "version" in package}
        assert versions["six"] == "1.16.0"
        assert versions["pydantic-core"] != "2.27.1"

    (checks,) = blocks(check)
    # The whole contract, which takes half a minute, is run for two services as they are rendered.
    checks = checks.replace("make contract\n", "make contract ARGS='-k own'\n")
    if started != "app.main:app":
        checks = re.sub("make (up|contract).*\n", "", checks)
    try:
        shell(checks)
        with running(f"{name}:latest", port=port) as container:
            container.wait_until_healthy()
            assert container.get("/orders/7") == {"order": "1st-7"}
    finally:
        run("docker", "compose", "down", "--rmi", "local", cwd=repository)
        docker("image", "rm", "--force", f"{name}:latest")
