"""docs/settings.md lists each variable of the process; `python -m tests.render.test_settings` writes the table."""

import ast
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.template import ROOT, Render, copy

DOCUMENT = ROOT / "docs/settings.md"
TABLE = re.compile(r"\| Variable \|.*?\n\n", re.DOTALL)
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def allowed(annotation: ast.expr, constants: dict[str, Any]) -> str:
    """Return what values a field takes, as a reader understands it."""
    if isinstance(annotation, ast.Name):
        return {"bool": "`true` or `false`", "str": "text", "SecretStr": "a secret"}[annotation.id]
    parts = (
        annotation.slice.elts
        if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple)
        else []
    )
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return ", ".join(f"`{ast.literal_eval(part)}`" for part in parts)
    rules: list[str] = []
    for keyword in (keyword for part in parts if isinstance(part, ast.Call) for keyword in part.keywords):
        if keyword.arg in BOUNDS:
            rules.append(BOUNDS[keyword.arg].format(shown(keyword.value, constants)))
        elif keyword.arg == "pattern":
            rules.append(f"`{ast.literal_eval(keyword.value)}`".replace("|", "\\|"))
    return " ".join(rules) or allowed(parts[0], constants)


def shown(value: ast.expr | None, constants: dict[str, Any]) -> str:
    """Return a value as a reader writes it."""
    if value is None or "SecretStr" in ast.unparse(value):
        return ""
    found = eval(compile(ast.Expression(value), "settings", "eval"), constants)
    return "" if found == "" else f"`{str(found).lower() if isinstance(found, bool) else found}`"


def rows(module: str, constants: dict[str, Any]) -> Iterator[str]:
    """Yield a row for each field: its name, default, what it takes, and its docstring."""
    tree = ast.parse(module)
    for node in tree.body:
        if isinstance(node, ast.Assign):
            exec(ast.unparse(node), constants)
    (model,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    for field, following in zip(model.body, model.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            meaning = " ".join(ast.literal_eval(following.value).split()) if documented else ""  # type: ignore[attr-defined]
            takes = allowed(field.annotation, constants)
            yield f"| `{field.target.id.upper()}` | {shown(field.value, constants)} | {takes} | {meaning} |"


def table(service: Path) -> str:
    """Return the table of a service."""
    ops = service / "src/my_service/ops"
    (limit,) = re.findall(r"^LIMIT = ([\d_]+)", (ops / "lines.py").read_text(), re.MULTILINE)
    lines = rows((ops / "settings.py").read_text(), {"LIMIT": int(limit)})
    return "\n".join(["| Variable | Default | Allowed | Meaning |", "|---|---|---|---|", *lines, "", ""])


EVERYTHING = {"deploy": "cloudformation", "database": "postgres", "kafka": True, "worker": True}


def test_the_document_lists_each_setting(render: Render) -> None:
    (found,) = TABLE.findall(DOCUMENT.read_text())
    assert found == table(render(**EVERYTHING)), "run: uv run python -m tests.render.test_settings"


def test_the_document_says_how_long_a_stopping_worker_has(render: Render) -> None:
    ops = render(worker=True, deploy="none") / "src/my_service/ops"
    (finish,) = re.findall(r"^FINISH = (.*?)  #", (ops / "jobs.py").read_text(), re.MULTILINE)
    settings = (ops / "settings.py").read_text()
    seconds = {}
    for stop in (30, 60, 120):
        constants: dict[str, Any] = {"LIMIT": 0}
        list(rows(re.sub(r"^STOP_TIMEOUT = \d+", f"STOP_TIMEOUT = {stop}", settings, flags=re.MULTILINE), constants))
        seconds[stop] = eval(finish, constants)
    said = f"it has {seconds[30]} s: `stop_timeout` less a tenth and at most 5 s"
    assert said in (ROOT / "docs/workers.md").read_text()
    assert seconds == {stop: stop - stop // 10 - 5 for stop in seconds}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        written = table(copy(ROOT, Path(temporary) / "service", EVERYTHING, "HEAD"))
    DOCUMENT.write_text(TABLE.sub(lambda _: written, DOCUMENT.read_text()))
