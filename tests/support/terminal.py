"""A terminal of 80 columns, as a person sees it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pyte

COLUMNS, LINES = 80, 24
CLEAR = "\x15"  # Ctrl-U
CURSOR_POSITION_REQUEST = "\x1b[6n"


class Terminal:
    """A command in a pseudo-terminal, and the screen that it draws."""

    def __init__(self, command: list[str | Path], cwd: Path) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.Stream(self.screen)
        self._process = pexpect.spawn(
            str(command[0]),
            [str(argument) for argument in command[1:]],
            cwd=str(cwd),
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            env=os.environ | {"TERM": "xterm-256color"},
        )

    def text(self) -> str:
        """Return what is on the screen, without blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def type(self, keys: str) -> None:
        self._process.send(keys)

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Return when the text is on the screen; what the command draws until then is drawn."""
        deadline = time.monotonic() + seconds
        while text not in self.text():
            assert time.monotonic() < deadline, f"{text!r} does not come up:\n{self.text()}"
            assert self._draw(), f"the command ended without {text!r}:\n{self.text()}"

    def wait_for_end(self) -> int | None:
        """Return the command's exit code, or None where a signal ended it."""
        while self._draw():
            pass
        self._process.close()
        return self._process.exitstatus

    def _draw(self) -> bool:
        try:
            drawn = self._process.read_nonblocking(4096, timeout=0.2)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self._stream.feed(drawn)
        if CURSOR_POSITION_REQUEST in drawn:
            self.type(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
        return True

    def close(self) -> None:
        self._process.close(force=True)


@contextmanager
def terminal(*command: str | Path, cwd: Path) -> Iterator[Terminal]:
    """Start a command in a terminal; it is ended at the end."""
    started = Terminal(list(command), cwd)
    try:
        yield started
    finally:
        started.close()
