"""Logs: one JSON object a line on stdout, whoever writes it; on a terminal, text for people. Kept by the template."""

import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from .lines import LIMIT, as_json, show, write_line


def add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the current span, if there is one, so that a log line leads to its trace."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def drop_color_message(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop the copy of the message that Uvicorn adds for terminals."""
    event.pop("color_message", None)
    return event


class Stdout(logging.Handler):
    """The handler of all log records; a record that cannot be formatted is shown as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            line = self.format(record)
        except structlog.DropEvent:
            return
        except Exception as error:
            line = _unformatted(record.levelname.lower(), record.msg, error)
        write_line(line)


_stdout = Stdout()
_identity: dict[str, str] = {}


def _origin(level: str) -> dict[str, str]:
    """Return what each line begins with."""
    return {"timestamp": datetime.now(UTC).isoformat(timespec="microseconds"), "level": level, **_identity}


def _unformatted(level: str, event: object, error: Exception) -> str:
    """Return the line of an event that a processor or its own arguments have failed on."""
    known = {**structlog.contextvars.get_contextvars(), **_origin(level)}
    return as_json({**known, "event": show(event), "logging_error": show(error)})


def _wrapper(level: str) -> type[Any]:
    """Return structlog's logger of a level, which writes lines itself; no call of it fails."""

    structlogs = structlog.make_filtering_bound_logger(level)

    class Logger(structlogs):  # type: ignore[misc, valid-type]
        def _proxy_to_logger(self, method: str, event: str | None = None, /, **values: Any) -> None:
            try:
                (line,), _ = self._process_event(method, event, values)
            except structlog.DropEvent:
                return
            except Exception as error:
                line = _unformatted(method, event, error)
            write_line(line)

    for name in ("debug", "info", "msg", "warning", "warn", "error", "exception", "critical", "fatal", "log"):
        method = _safe(name, vars(structlogs)[name])
        setattr(Logger, name, method)
        setattr(Logger, f"a{name}", _awaitable(method))
    return Logger


def _safe(name: str, method: Callable[..., None]) -> Callable[..., None]:
    """Return a method of a logger that takes any arguments."""

    def log(self: Any, /, *arguments: Any, **values: Any) -> None:
        if "event" in values:  # the name of structlog's own argument
            values["event_"] = values.pop("event")
        try:
            method(self, *(arguments or [None]), **values)
        except Exception as error:
            write_line(_unformatted(name, arguments, error))

    return log


def _awaitable(method: Callable[..., None]) -> Callable[..., Any]:
    """Return a method for `await`."""

    async def log(*arguments: Any, **values: Any) -> None:
        method(*arguments, **values)

    return log


def configure(
    level: str, identity: Mapping[str, str] = {}, processors: Sequence[Processor] = (), limit: int = LIMIT
) -> None:
    """Send every log record of this process, and every exception that nothing catches, to stdout.

    `level` is a name such as "INFO"; `identity` are fields that every line carries, such as the version; `processors`
    are structlog's and see each event last, from whatever logger; `limit` is how many bytes a line has at most. Handlers
    that a service adds to the root logger stay.
    """
    _identity.clear()
    _identity.update(identity)

    def add_origin(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        origin = _origin(method)
        for name in origin.keys() & event.keys():  # a value of a call, which must not hide ours
            event[f"{name}_"] = event.pop(name)
        return {**origin, **event}

    def json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
        return as_json(event, limit)

    shared: list[Processor] = [structlog.contextvars.merge_contextvars, add_origin, add_trace]
    render: list[Processor]
    if sys.stdout.isatty():
        render = [*processors, structlog.dev.ConsoleRenderer()]
    else:
        render = [structlog.processors.format_exc_info, *processors, json_line]

    structlog.configure(
        processors=[*shared, *render], wrapper_class=_wrapper(level), logger_factory=structlog.ReturnLoggerFactory()
    )
    _stdout.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.ExtraAdder(),
                *shared,
                structlog.stdlib.add_logger_name,
                drop_color_message,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.setLevel(level)
    if _stdout not in root.handlers:
        root.handlers = [_stdout]
    for name in ("gunicorn.error", "uvicorn", "uvicorn.error", "uvicorn.access"):
        server = logging.getLogger(name)
        server.handlers = []
        server.setLevel(level)
        server.propagate = name != "uvicorn.access"  # the request middleware writes the line about a request
    logging.captureWarnings(True)
    _log_uncaught()


def _log_uncaught() -> None:
    """Log uncaught exceptions, in place of Python's own hooks."""

    def log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            structlog.get_logger().critical("uncaught exception", exc_info=(kind, error, traceback))

    sys.excepthook = log_uncaught
    # Only in place of Python's own: pytest has others, which fail the test.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda args: log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
