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

# What a record of the standard library, and a call of its loggers, have by themselves; the rest is the caller's `extra`.
_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}
_ARGUMENTS = {"level", "msg", "exc_info", "stack_info", "stacklevel"}
_LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")}
_LEVELS |= {"exception": "error", "warn": "warning", "msg": "info", "fatal": "critical"}
_NUMBERS = {name: logging.getLevelNamesMapping()[level.upper()] for name, level in _LEVELS.items()}

_identity: dict[str, str] = {}
_chain: list[Processor] = []  # the last one returns a line


def _with_ours(event: EventDict, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event with fields of ours; a value that would hide one gets another name."""
    line = {**ours, **event}
    if not ours.keys().isdisjoint(event):
        line |= {**ours, **{f"{name}_": event[name] for name in ours.keys() & event.keys()}}
    return line


def write(level: str, event: EventDict) -> None:
    """Write an event as a line, with what all lines have. This never fails."""
    context = structlog.contextvars.get_contextvars()
    ours = {"timestamp": datetime.now(UTC).isoformat(timespec="microseconds"), "level": level, **_identity}
    if "request_id" in context:
        ours["request_id"] = context.pop("request_id")
    line: Any = _with_ours({**context, **event}, ours)
    try:
        for processor in _chain:
            line = processor(None, level, line)
    except structlog.DropEvent:
        return
    except Exception as error:
        line = as_json({**context, **ours, "event": show(event.get("event")), "logging_error": show(error)})
    write_line(line)


def _add_trace(_logger: WrappedLogger, _level: str, event: EventDict) -> EventDict:
    """Add the ids of the current span, if there is one, so that a line leads to its trace."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return event
    ids = {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}
    return _with_ours(event, ids)


class Stdout(logging.Handler):
    """The handler of all records of the standard library; one that cannot be formatted is shown as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        extra = {name: value for name, value in vars(record).items() if name not in _RECORD}
        extra.pop("color_message", None)  # Uvicorn's copy of the message for terminals
        ours = {"logger": record.name, "exc_info": record.exc_info}
        try:
            ours["event"] = record.getMessage()
        except Exception as error:
            ours |= {"event": show(record.msg), "logging_error": show(error)}
        if record.stack_info:
            ours["stack"] = record.stack_info
        write(record.levelname.lower(), _with_ours(extra, ours))


_stdout = Stdout()


def _safe(name: str, method: Callable[..., Any], prepare: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    """Return a method of a logger that takes any arguments and never fails."""

    def log(self: Any, /, *arguments: Any, **values: Any) -> None:
        # First: some libraries log each byte that they parse.
        if name in _NUMBERS and not getattr(self, "_logger", self).isEnabledFor(_NUMBERS[name]):
            return
        try:
            prepare(values)
            method(self, *(arguments or [None]), **values)
        except Exception as error:
            event = arguments[0] if len(arguments) == 1 else arguments
            write(_LEVELS.get(name, "info"), {"event": show(event), "logging_error": show(error)})

    return log


def _awaitable(method: Callable[..., None]) -> Callable[..., Any]:
    """Return a method for `await`."""

    async def log(*arguments: Any, **values: Any) -> None:
        method(*arguments, **values)

    return log


def _for_structlog(values: dict[str, Any]) -> None:
    """Rename a value that structlog would take for an argument of its own."""
    if "event" in values:
        values["event_"] = values.pop("event")


def _for_standard_library(values: dict[str, Any]) -> None:
    """Take values by name as structlog does, and rename those that the standard library would refuse."""
    values["stacklevel"] = values.get("stacklevel", 1) + 1  # `log` is not the caller
    extra = {**(values.pop("extra", None) or {}), **{name: values.pop(name) for name in values.keys() - _ARGUMENTS}}
    values["extra"] = {f"{name}_" if name in _RECORD else name: value for name, value in extra.items()}


for _name in {*_LEVELS, "log"} & {*vars(logging.Logger)}:
    setattr(logging.Logger, _name, _safe(_name, vars(logging.Logger)[_name], _for_standard_library))


def _structlogs() -> type[Any]:
    """Return structlog's class of loggers, which writes lines itself; standard logging knows the level of each."""
    structlogs = structlog.make_filtering_bound_logger(logging.NOTSET)

    class Logger(structlogs):  # type: ignore[misc, valid-type]
        def _proxy_to_logger(self, method: str, event: str | None = None, /, **values: Any) -> None:
            if self._logger.isEnabledFor(_NUMBERS[method]):
                write(method, {**self._context, **values, "event": event})

    for name in (*_LEVELS, "log"):
        method = _safe(name, vars(structlogs)[name], _for_structlog)
        setattr(Logger, name, method)
        setattr(Logger, f"a{name}", _awaitable(method))
    return Logger


def _named(*arguments: Any) -> logging.Logger:
    """Return the logger that knows the level for `structlog.get_logger(name)`."""
    return logging.getLogger(next((each for each in arguments if isinstance(each, str)), None))


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

    def json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        return as_json(event, limit)

    def encode(_logger: WrappedLogger, _method: str, text: Any) -> bytes:
        return str(text).encode(errors="replace")

    if sys.stdout.isatty():
        _chain[:] = [_add_trace, *processors, structlog.dev.ConsoleRenderer(), encode]
    else:
        _chain[:] = [_add_trace, structlog.processors.format_exc_info, *processors, json_line]
    # The same list, because structlog.testing.capture_logs() changes it.
    structlog.configure(_chain, wrapper_class=_structlogs(), logger_factory=_named)
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
