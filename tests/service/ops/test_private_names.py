"""What ops/ uses of a library without its documentation is listed, and the library is bounded to the tested release."""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import my_service.ops

OPS = Path(my_service.ops.__file__).parent
PROJECT = tomllib.loads((OPS.parents[2] / "pyproject.toml").read_text())
SOURCES = {path.stem: ast.parse(path.read_text()) for path in OPS.glob("*.py")}

# Overridden methods, names with an underscore, and names that `getattr` reads, by the library whose they are.
KNOWN = {
    "gunicorn": {"Logger.setup", "Worker.init_signals", "Worker.run"},
    "httptools": {"Parser.feed_data"},
    "psycopg": {
        "Connection._start_query",
        "Connection.notifies",
        "Connection.wait",
        "_exec_command",
        "_get_tx_start_command",
        "_pipeline",
        "_sync_gen",
        "_try_cancel",
    },
    "uvicorn": {
        "HTTP.data_received",
        "HTTP.eof_received",
        "HTTP.on_body",
        "HTTP.on_header",
        "HTTP.on_headers_complete",
        "HTTP.on_message_begin",
        "HTTP.on_message_complete",
        "HTTP.shutdown",
        "Server.on_tick",
        "Server.shutdown",
        "WebSocket.data_received",
        "WebSocket.shutdown",
        "disconnected",
        "waiting_for_100_continue",
    },
}
# Owners choose their versions; what ops/ overrides of them is documented.
OPEN = {
    "aiokafka",
    "alembic",
    "fastapi",
    "my_service",
    "pydantic",
    "pydantic_settings",
    "sqlalchemy",
    "starlette",
    "structlog",
}
DOCUMENTED = {"httptools"}  # it is a parser to be subclassed
# With a fallback if it is not there, which tests exercise; or no library's.
WITHOUT_BOUND = {
    "_body",
    "path",
    "orig",
    "sqlstate",
    "stream",
    "producer",
    "sessions",
    "drain_began",
    "__self__",
    "_asdict",
    "_exit",
    "EndingSession._autobegin_t",
    "_logger",  # structlog documents it for classes as ours
}


def own_names() -> set[str]:
    """Return the names with an underscore that ops/ defines itself."""
    found = set()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


def private_attributes() -> Iterator[str]:
    """Yield the attributes with one underscore that are not our own, and those that getattr reads."""
    own = own_names()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and node.attr not in own:
                yield node.attr
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                name = node.args[1]
                assert isinstance(name, ast.Constant), ast.unparse(node)
                yield str(name.value)


def classes() -> Iterator[type[Any]]:
    for name in SOURCES.keys() - {"healthcheck"}:  # a program
        for _, found in inspect.getmembers(import_module(f"my_service.ops.{name}"), inspect.isclass):
            if found.__module__.startswith("my_service.ops"):
                yield found


def overridden() -> Iterator[tuple[str, str]]:
    """Yield the library and the name of each method of a library that a class of ops/ overrides."""
    for kind in classes():
        for name in vars(kind).keys() - {"_abc_impl"}:  # of each abstract class
            for base in kind.__mro__[1:]:
                library = base.__module__.partition(".")[0]
                foreign = library not in OPEN | sys.stdlib_module_names or re.match("_[^_]", name)
                if foreign and name in vars(base) and not name.startswith("__") and library != "my_service":
                    yield library, f"{kind.__name__}.{name}"
                    break


def test_every_undocumented_name_is_listed_and_its_library_bounded() -> None:
    listed = set().union(*KNOWN.values())
    assert set(private_attributes()) <= listed | WITHOUT_BOUND
    assert all(name in KNOWN.get(library, set()) | WITHOUT_BOUND for library, name in overridden()), set(overridden())
    requirements = " ".join(PROJECT["dependency-groups"]["service"])
    for library in KNOWN.keys() - DOCUMENTED:
        if find_spec(library):
            assert re.search(rf"\b{library}(\[\w+\])?>=[\d.]+,<[\d.]+", requirements), f"{library} has no bound"


def test_nothing_is_listed_that_is_not_used() -> None:
    used = set(private_attributes()) | {name for _, name in overridden()}
    absent = set() if find_spec("psycopg") else KNOWN["psycopg"]
    assert set().union(*KNOWN.values()) - used == absent
