"""Logs: one JSON object a line on stdout, whoever writes it; on a terminal, text for people. Kept by the template."""

import json
import logging.config
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger


def add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the current span, if there is one, so that a log line leads to its trace."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return the event as one line; what JSON does not know is shown as Python shows it."""
    return _encode(event)


# Made once: json.dumps with a default makes an encoder for each line.
_encode = json.JSONEncoder(default=repr).encode


def drop_color_message(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop the copy of the message that Uvicorn adds for terminals."""
    event.pop("color_message", None)
    return event


def _config(level: str, service: dict[str, str]) -> dict[str, Any]:
    """Set structlog up and return the `logging.config` dictionary that does the same for everybody else."""

    def add_origin(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return {"timestamp": now, "level": method, **service, **event}

    shared: list[Processor] = [structlog.contextvars.merge_contextvars, add_origin, add_trace]
    render: list[Processor]
    if sys.stdout.isatty():
        render = [structlog.dev.ConsoleRenderer()]
    else:
        render = [structlog.processors.format_exc_info, json_line]

    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(),
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "default": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [
                    *shared,
                    structlog.stdlib.add_logger_name,
                    structlog.stdlib.ExtraAdder(),
                    drop_color_message,
                ],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            }
        },
        "handlers": {
            "stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "default"}
        },
        "root": {"handlers": ["stdout"], "level": level},
        "loggers": {
            # Uvicorn's worker borrows the handlers of this logger, so it must have its own.
            "gunicorn.error": {"handlers": ["stdout"], "level": level, "propagate": False},
            "uvicorn": {"handlers": [], "level": level},
            "uvicorn.error": {"handlers": [], "level": level},
            # The request middleware writes the line about a request.
            "uvicorn.access": {"handlers": [], "propagate": False},
        },
    }


def configure(level: str, **service: str) -> dict[str, Any]:
    """Send every log record of this process, and every exception that nothing catches, to stdout.

    `level` is a name such as "INFO"; `service` are fields that every line carries, such as `version="1.2.3"`.
    Returns the dictionary given to `logging.config`, for a server that configures logging itself.
    """
    settings = _config(level, service)
    logging.config.dictConfig(settings)
    logging.captureWarnings(True)

    def log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            structlog.get_logger().critical("uncaught exception", exc_info=(kind, error, traceback))

    sys.excepthook = log_uncaught
    # Only in place of Python's own: pytest has others, which fail the test.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda args: log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    return settings
