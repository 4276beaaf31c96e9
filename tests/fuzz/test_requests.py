"""No request makes a service answer 500: schemathesis makes up valid and invalid ones for each route.

FUZZ_EXAMPLES sets how many requests each route gets. Each run sends the same ones.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, Render

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))

# All that a request can carry.
ROUTER = '''\
"""Routes that accept whatever their types accept."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Cookie, Form, Header, Query, UploadFile
from pydantic import BaseModel, SecretStr, model_validator

router = APIRouter()


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    price: Decimal
    weight: float
    colours: set[Colour]
    password: SecretStr
    parent: "Item | None" = None

    @model_validator(mode="after")
    def check(self) -> "Item":
        if self.weight < 0:
            raise ValueError("the weight is negative")
        return self


class Login(BaseModel):
    user: str
    age: int


@router.post("/items/{id}")
async def item(id: UUID, item: Item) -> Item:
    return item


@router.put("/anything")
async def anything(body: dict[str, object] | list[object] | float | str | None) -> object:
    return body


@router.post("/login")
async def login(form: Annotated[Login, Form()]) -> Login:
    return form


@router.post("/files")
async def files(file: UploadFile, others: list[UploadFile], note: Annotated[str, Form()] = "") -> dict[str, int]:
    return {"size": len(await file.read()), "others": len(others), "note": len(note)}


@router.get("/search/{colour}")
async def search(
    colour: Colour,
    since: datetime,
    tags: Annotated[list[str], Query()],
    x_trace: Annotated[int, Header()],
    session: Annotated[str, Cookie()] = "",
) -> dict[str, object]:
    return {"colour": colour, "since": since, "tags": tags, "trace": x_trace, "session": session}


@router.patch("/raw/{path:path}")
async def raw(path: str, body: bytes | None = None) -> dict[str, object]:
    return {"path": path, "bytes": len(body or b"")}
'''


@pytest.fixture(scope="module")
def repository(render: Render) -> Path:
    path = render(python_version=PYTHON)
    (path / "src/my_service/routers/everything.py").write_text(ROUTER)
    main = path / "src/my_service/main.py"
    edit(main, "import hello", "import everything, hello")
    edit(
        main,
        "app.include_router(hello.router)",
        "app.include_router(hello.router)\napp.include_router(everything.router)",
    )
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


def test_no_request_makes_a_service_answer_500(repository: Path, tmp_path: Path) -> None:
    service, port, log = Gunicorn(), free_port(), tmp_path / "log"
    service.launch("my_service.main:app", port, repository, log, {"PYTHONPATH": "src", "SERVE_DOCS": "true"})
    try:
        wait_until(lambda: "Application startup complete" in log.read_text())
        options = [
            f"--max-examples={EXAMPLES}",
            "--seed=0",
            "--checks=not_a_server_error",
            "--continue-on-failure",
            "--no-color",
        ]
        url = f"http://127.0.0.1:{port}/openapi.json"
        found = run("schemathesis", "run", url, *options, cwd=tmp_path, check=False)
    finally:
        service.kill()
    statuses = Counter(event["status"] for event in service.events() if event["event"] == "request")
    print(f"{statuses.total()} requests: {dict(sorted(statuses.items()))}")
    assert not [status for status in statuses if status >= 500], found.stdout
    assert found.returncode == 0, found.stdout
    assert min(statuses[200], statuses[422]) > EXAMPLES  # both kinds were sent
