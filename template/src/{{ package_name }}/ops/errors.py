"""One format for every error body. It shows a client no detail that belongs in the log. Kept by the template."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.utils import is_body_allowed_for_status_code
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from .logging import current_request_id

# What a client can send and Python can read, but Python's limits or the JSON of an answer refuse: how the error says so,
# what in the request may have caused it, and what the client is told. Ids in hexadecimal are no numbers.
_IMPOSSIBLE = (
    ("surrogates not allowed|invalid utf-8", r"\\u[dD][89a-fA-F]|[\udc80-\udcff]", "text that is not Unicode"),
    ("JSON compliant", r"(?i:\bnan\b|\binf(inity)?\b)", "a number that is NaN or infinite"),
    (
        "JSON compliant|integer string conversion",
        r"(?<![\w.-])-?(?:\d[\d_]{308}|[\d_.]+[eE]\+?\d{3,}(?![\w-]))",
        "a number that is too large",
    ),
    ("RecursionError|depth exceeded", r"(?:[\[{][^\[\]{}]*){100}", "values that are nested too deep"),
)
ERRORS = 100  # are told of one request
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_read_json = Request.json


def error_response(status: int, detail: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in the one shape, {"detail": …, "request_id": "…"}; without a body where HTTP forbids one."""
    if not is_body_allowed_for_status_code(status):
        return Response(None, status, headers)
    content = {"detail": detail, "request_id": current_request_id()}
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A client can send half of a character, for which UTF-8 has no bytes.
    return Response(body.encode(errors="backslashreplace"), status, headers, "application/json")


async def http_error(_request: Request, error: HTTPException) -> Response:
    """Answer an HTTPException; FastAPI's 400 for a body that this machine could not keep, as with a full /tmp, is a failure."""
    if isinstance(error.__cause__, OSError):
        raise error.__cause__
    return error_response(error.status_code, error.detail, error.headers)


async def invalid_request(_request: Request, error: RequestValidationError) -> Response:
    """Answer a request that does not fit its route's types: say where and why, but never repeat the value."""
    first = error.errors()[:ERRORS]
    return error_response(422, [{name: wrong[name] for name in ("type", "loc", "msg")} for wrong in first])


def limit_json(values: int) -> None:
    """Refuse bodies with more values in their JSON: they are parsed and validated in one turn of the event loop."""

    async def json(self: Request) -> Any:
        if has_more_values(await self.body(), values):
            raise HTTPException(413, f"The body has more than {values} values.")
        return await _read_json(self)

    Request.json = json  # type: ignore[assignment, method-assign]


def has_more_values(body: bytes, values: int) -> bool:
    """Say whether JSON has as many commas as that outside of its strings, or more strings than so many keys and values."""
    if body.count(b",") < values:
        return False
    rest, strings = _STRING.subn(b"", body, count=2 * values + 1)
    return strings > 2 * values or rest.count(b",") >= values


async def impossible(request: Request, error: ValueError | RecursionError) -> Response:
    """Answer 400 if a limit of Python or of JSON has met what the client has sent; raise any other such error."""
    reason = f"{type(error).__name__}: {error}"
    if possible := [(pattern, what) for kind, pattern, what in _IMPOSSIBLE if re.search(kind, reason)]:
        # The body if the route has read it. `await request.body()` could wait until the client goes.
        query = unquote_to_bytes(request.scope["query_string"])
        sent = b" ".join((request.scope["path"].encode(), query, getattr(request, "_body", b"")))
        for pattern, what in possible:
            if re.search(pattern, sent.decode(errors="surrogateescape")):
                # This is a guess: the log has the error, or a fault of the service could hide behind it.
                structlog.get_logger().info("a limit refuses the request", exc_info=error)
                return error_response(400, f"The request has {what}.")
    raise error


async def internal_error(_request: Request, _error: Exception) -> Response:
    """Answer a request whose handler failed; the reason is for the log alone."""
    return error_response(500, "Internal Server Error")


def without_exits(app: ASGIApp) -> ASGIApp:
    """Return `app` with an Exception in place of what is none, as sys.exit() and a panic of Rust.

    Nothing answers those, and in a task, as below a middleware of the service, asyncio ends its loop. A span of
    OpenTelemetry's instrumentor ends with the answer, so it gets the exception here; FastAPI's own telemetry has it.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            if "fastapi.telemetry" not in scope:
                trace.get_current_span().record_exception(error)
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return serve
