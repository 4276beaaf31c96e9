"""Lines of the log: valid JSON whatever is logged, no longer than a limit, and never torn. Kept by the template."""

import mmap
import multiprocessing
import os
import select
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import to_json

LIMIT = 262_118  # bytes: an event of CloudWatch Logs has no more
WAIT = 0.5  # seconds that a line may wait for stdout
_CUT = "\n[... {} characters are cut here ...]\n"
_DEPTH = 10
_PLAIN = {str, int, float, bool, type(None)}

# Workers share one pipe, in which only lines up to 4,096 bytes stay whole by themselves. They are forked after this
# module is imported, so they share the lock, and the place where its holder's process id stands: one may be killed.
_lock = multiprocessing.get_context("fork").Lock()
_holder = mmap.mmap(-1, 4)
_self = os.getpid().to_bytes(4, "little")
_lost = 0  # lines, since the last one that was written
_kept: int | None = None  # the descriptor of stdout


def _renew() -> None:
    """Begin as a child."""
    global _self, _lost
    _self, _lost = os.getpid().to_bytes(4, "little"), 0


os.register_at_fork(after_in_child=_renew)


def keep_stdout() -> None:
    """Write all lines to the stdout of this process: a handler that redirects sys.stdout does so for all requests.

    A test does it to see them, in pytest.
    """
    global _kept
    _kept = _descriptor() if sys.stdout is sys.__stdout__ and "pytest" not in sys.modules else None


def _descriptor() -> int | None:
    """Return the descriptor of what is stdout now."""
    try:
        return sys.stdout.fileno()
    except Exception:  # a test captures the output, or there is none
        return None


def write_line(line: bytes) -> None:
    """Write a line of JSON to stdout at once, or lose it if nobody reads: the next one says how many are lost.

    Only the first of them waits. A service goes on when what collects its log does not.
    """
    global _lost
    descriptor = _descriptor() if _kept is None else _kept
    if descriptor is None:
        print(line.decode())
        return
    patience = 0 if _lost else WAIT
    if not _lock.acquire(timeout=patience) and _holder_lives():
        _lost += 1
        return
    _holder[:] = _self
    rest = whole = memoryview(line + b"\n" if not _lost else b'%b,"lines_lost":%d}\n' % (line[:-1], _lost))
    with suppress(OSError, RuntimeError):  # stdout is closed, or Python ends
        rest = _write(descriptor, whole, patience)
        if rest and len(rest) < len(whole):  # a thread writes the rest when it can, and keeps the lock until then
            threading.Thread(target=_finish, args=(descriptor, rest), daemon=True).start()
            return
    _lost = _lost + 1 if rest else 0
    _lock.release()


def _holder_lives() -> bool:
    """Say whether the process that has taken the lock can give it back."""
    try:
        os.kill(int.from_bytes(_holder[:], "little"), 0)
    except ProcessLookupError:
        return False
    return True


def _write(descriptor: int, rest: memoryview, patience: float | None) -> memoryview:
    """Write what can be written, and return the rest; a pipe that has any room takes that many bytes at once."""
    while rest and select.select([], [descriptor], [], patience)[1]:
        rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
    return rest


def _finish(descriptor: int, rest: memoryview) -> None:
    """Write the rest of a line, however long that takes."""
    try:
        _write(descriptor, rest, None)
    finally:
        _lock.release()


def as_json(event: Mapping[str, Any], limit: int = LIMIT) -> bytes:
    """Return an event as one line of JSON of at most that many bytes."""
    line = _encode(event)
    return line if len(line) <= limit else _fit(event, limit)


def show(value: object) -> str:
    """Return how Python shows a value, also if its class cannot."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _encode(event: Mapping[str, Any]) -> bytes:
    """Return an event as JSON."""
    if _PLAIN.issuperset(map(type, event.values())):
        try:
            return to_json(event, inf_nan_mode="strings")
        except ValueError:  # half of a character outside the 16-bit range
            pass
    return to_json(_plain(event))


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a copy that JSON knows: no NaN, no half characters, no keys but strings, no cycles, and nobody's own types."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, int):
        return value
    if depth < _DEPTH and isinstance(value, Mapping):
        return {_plain(key if isinstance(key, str) else show(key)): _plain(v, depth + 1) for key, v in value.items()}
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float) and value - value == 0:
        return value
    return _plain(show(value))


def _fit(event: Mapping[str, Any], limit: int) -> bytes:
    """Return an event as a line that fits: its long values are cut in the middle, its short ones stay."""
    texts = {key: value if isinstance(value, str) else to_json(_plain(value)).decode() for key, value in event.items()}
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
