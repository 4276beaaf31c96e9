"""Lines of the log: valid JSON whatever is logged, no longer than a limit, and never torn. Kept by the template."""

import fcntl
import json
import os
import re
import select
import sys
import threading
from collections.abc import Mapping
from typing import Any

LIMIT = 262_118  # bytes: an event of CloudWatch Logs has no more
_CUT = "\n[... {} characters are cut here ...]\n"
_SURROGATE = re.compile(r"\\ud[89a-f]")  # half of a character outside the 16-bit range, as JSON writes it
_DEPTH = 10

# Workers share one pipe, in which only lines up to 4,096 bytes stay whole by themselves. They are forked after this
# module is imported, so they share the file whose lock they take; nothing is written to it.
_shared = os.memfd_create("log") if sys.platform == "linux" else None
_thread = threading.RLock()  # the lock of a file is the process's; a signal handler may log while its thread does


def _renew() -> None:
    """Make a new lock in a child: a thread that does not exist there may have held the old one at the fork."""
    global _thread
    _thread = threading.RLock()


os.register_at_fork(after_in_child=_renew)


def write_line(line: str) -> None:
    """Write a line to stdout at once; if that fails, the line is lost and the caller goes on."""
    try:
        descriptor = sys.stdout.fileno()
    except Exception:  # a test captures the output, or there is none
        print(line)
        return
    rest = memoryview(f"{line}\n".encode(errors="replace"))
    with _thread:
        try:
            if _shared is not None:
                fcntl.lockf(_shared, fcntl.LOCK_EX)
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:  # a child has changed the pipe that all share
                    select.select([], [descriptor], [])
        except OSError:
            pass
        finally:
            if _shared is not None:
                fcntl.lockf(_shared, fcntl.LOCK_UN)


def as_json(event: Mapping[str, Any], limit: int = LIMIT) -> str:
    """Return an event as one line of JSON of at most that many bytes."""
    try:
        line = _encode(event)
    except Exception:
        line = ""
    if not line or _SURROGATE.search(line):
        event = _plain(event)
        line = _encode(event)
    return line if len(line) <= limit else _fit(event, limit)


def show(value: object) -> str:
    """Return how Python shows a value, also if its class cannot."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


# Made once: json.dumps with options makes an encoder for each line.
_encode = json.JSONEncoder(default=show, allow_nan=False).encode


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a copy that JSON knows: no NaN, no half characters, no keys but strings, no cycles."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, int):
        return value
    if depth < _DEPTH and isinstance(value, dict):
        return {_plain(key if isinstance(key, str) else show(key)): _plain(v, depth + 1) for key, v in value.items()}
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float) and value - value == 0:
        return value
    return _plain(show(value))


def _fit(event: Mapping[str, Any], limit: int) -> str:
    """Return an event as a line that fits: its long values are cut in the middle, its short ones stay."""
    texts = {key: value if isinstance(value, str) else _encode(value) for key, value in event.items()}
    keep = limit
    while keep > 50:
        keep = keep * 4 // 5
        line = _encode({key: _cut(text, keep) if len(text) > keep else event[key] for key, text in texts.items()})
        if len(line) <= limit:
            return line
    known = ("timestamp", "level", "event", "service", "version", "environment", "request_id")  # of thousands of fields
    return _encode({key: _cut(texts[key], 200) for key in known if key in event})


def _cut(text: str, keep: int) -> str:
    """Return the first and last characters of a text, or the whole if it is short."""
    if len(text) <= keep:
        return text
    half = keep // 2
    return text[:half] + _CUT.format(len(text) - 2 * half) + text[len(text) - half :]
