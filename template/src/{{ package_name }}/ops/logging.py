"""Logs: one JSON object a line on stdout, whoever writes it; on a terminal, text for people. Kept by the template."""

import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partialmethod
from types import TracebackType
from typing import Any

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from .lines import LIMIT, as_json, keep_stdout, show, write_line

# What a record of the standard library, and a call of its loggers, have by themselves; the rest is the caller's `extra`.
_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}
_ARGUMENTS = {"exc_info", "stack_info", "stacklevel"}
_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}
_LEVELS |= {"exception": logging.ERROR, "msg": logging.INFO}

# Of the request: a service may clear what structlog has bound, and bind another id.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_identity: dict[str, str] = {}
_chain: list[Processor] = []  # the last one returns a line


def _with_ours(event: EventDict, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event with fields of ours; a value that would hide one gets another name."""
    line = {**ours, **event}
    if not ours.keys().isdisjoint(event):
        line |= {**ours, **{f"{name}_": event[name] for name in ours.keys() & event.keys()}}
    return line


def current_request_id() -> Any:
    """Return the id of the request, else what is bound as such, by a message or a job."""
    return request_id.get() or structlog.contextvars.get_contextvars().get("request_id")


def write(level: str, event: EventDict) -> None:
    """Write an event as a line, with what all lines have. This never fails."""
    context = structlog.contextvars.get_contextvars()
    ours = {"timestamp": datetime.now(UTC).isoformat(timespec="microseconds"), "level": level, **_identity}
    if isinstance(id := request_id.get() or context.get("request_id"), str):
        ours["request_id"] = id
    try:
        if context.get("request_id") == ours.get("request_id"):
            context.pop("request_id", None)
        line: Any = _with_ours({**context, **event}, ours)
        for processor in _chain:
            line = processor(None, level, line)
    except structlog.DropEvent:
        return
    except Exception as error:  # without values that the processors may hide
        line = as_json({**ours, "event": show(event.get("event")), "logging_error": show(error)})
    write_line(line)


def _add_trace(_logger: WrappedLogger, _level: str, event: EventDict) -> EventDict:
    """Add the ids of the current span, if there is one, so that a line leads to its trace."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return event
    ids = {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}
    return _with_ours(event, ids)


def _message(record: logging.LogRecord) -> dict[str, Any]:
    """Return the text of a record, without its arguments if they do not fit."""
    try:
        return {"event": record.getMessage()}
    except Exception as error:
        return {"event": show(record.msg), "logging_error": show(error)}


class Stdout(logging.Handler):
    """The handler of all records of the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        extra = {name: value for name, value in vars(record).items() if name not in _RECORD}
        extra.pop("color_message", None)  # Uvicorn's copy of the message for terminals
        ours = {"logger": record.name, "exc_info": record.exc_info, **_message(record)}
        if record.stack_info:
            ours["stack"] = record.stack_info
        write(record.levelname.lower(), _with_ours(extra, ours))


_stdout = Stdout()


def _safe(name: str, method: Callable[..., None]) -> Callable[..., None]:
    """Return a method of the standard library's loggers that takes values by name, as structlog's, and never fails."""
    first = ("level", "msg") if name == "log" else ("msg",)

    def log(self: logging.Logger, /, *arguments: Any, **values: Any) -> None:
        # First: some libraries log each byte that they parse.
        if name in _LEVELS and not self.isEnabledFor(_LEVELS[name]):
            return
        arguments += tuple(values.pop(each, None) for each in first[len(arguments) :])
        try:
            values["stacklevel"] = values.get("stacklevel", 1) + 1  # `log` is not the caller
            extra = dict(values.pop("extra", None) or {})
            extra |= {key: values.pop(key) for key in values.keys() - _ARGUMENTS}
            # The standard library would refuse some names.
            values["extra"] = {f"{key}_" if key in _RECORD else key: value for key, value in extra.items()}
            method(self, *arguments, **values)
        except Exception as error:
            level = logging.getLevelName(_LEVELS.get(name, logging.INFO)).lower()
            write(level, {"event": show(arguments), "logging_error": show(error)})

    return log


class Structlogs(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """structlog's logger, which writes lines itself and never fails; standard logging knows the level of each."""

    def log(self, level: Any = None, event: Any = None, /, *arguments: Any, **values: Any) -> None:
        """Write an event; a level is a number, such as logging.INFO."""
        if level is None:
            level = values.pop("level", None)
        level = level if isinstance(level, int) else logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        if event is None:
            event = values.pop("event", None)
        elif "event" in values:
            values["event_"] = values.pop("event")
        text = {"event": event}
        if arguments:
            text = _message(logging.LogRecord("", level, "", 0, event, arguments, None))
        write(logging.getLevelName(level).lower(), {**structlog.get_context(self), **values, **text})

    async def alog(self, /, *arguments: Any, **values: Any) -> None:
        """Do the same for `await`."""
        self.log(*arguments, **values)


for _name, _level in _LEVELS.items():
    if _name in vars(logging.Logger):
        setattr(logging.Logger, _name, _safe(_name, vars(logging.Logger)[_name]))
    _more = {"exc_info": True} if _name == "exception" else {}
    setattr(Structlogs, _name, partialmethod(Structlogs.log, _level, **_more))
    setattr(Structlogs, f"a{_name}", partialmethod(Structlogs.alog, _level, **_more))
logging.Logger.log = _safe("log", logging.Logger.log)  # type: ignore[method-assign]


def _named(*arguments: Any) -> logging.Logger:
    """Return the logger that knows the level for `structlog.get_logger(name)`."""
    return logging.getLogger(next((each for each in arguments if isinstance(each, str)), None))


def configure(
    level: str, identity: Mapping[str, str] = {}, processors: Sequence[Processor] = (), limit: int = LIMIT
) -> None:
    """Send every log record of this process, and every exception that nothing catches, to stdout.

    `level` is a name such as "INFO"; `identity` are fields that every line carries, such as the version; `processors`
    are structlog's and see each event last, from whatever logger; `limit` is how many bytes a line has at most. Other
    handlers of the root logger stay, except those that write to stdout or stderr.
    """
    keep_stdout()
    _identity.clear()
    _identity.update(identity)

    def json_line(_logger: WrappedLogger, _level: str, event: EventDict) -> bytes:
        return as_json(event, limit)

    def encode(_logger: WrappedLogger, _level: str, text: Any) -> bytes:
        return str(text).encode(errors="replace")

    if sys.stdout and sys.stdout.isatty():
        _chain[:] = [_add_trace, *processors, structlog.dev.ConsoleRenderer(), encode]
    else:
        _chain[:] = [_add_trace, structlog.processors.format_exc_info, *processors, json_line]
    # The same list, because structlog.testing.capture_logs() changes it.
    structlog.configure(_chain, wrapper_class=Structlogs, logger_factory=_named)
    root = logging.getLogger()
    root.setLevel(level)
    if _stdout not in root.handlers:
        streams = {sys.stdout, sys.stderr} - {None}  # on which a handler would write each line a second time
        root.handlers = [_stdout, *(each for each in root.handlers if getattr(each, "stream", None) not in streams)]
    for name in ("gunicorn.error", "uvicorn", "uvicorn.error", "uvicorn.access"):
        server = logging.getLogger(name)
        server.handlers = []
        server.setLevel(level)
        server.propagate = name != "uvicorn.access"  # the request middleware writes the line about a request
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    # Only in place of Python's own: pytest has others, which fail the test.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Log an exception that nothing has caught."""
    if issubclass(kind, Exception):
        structlog.get_logger().critical("uncaught exception", exc_info=(kind, error, traceback))
