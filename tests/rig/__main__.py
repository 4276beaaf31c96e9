"""The command line of the rig."""

import os
import signal
import subprocess
import sys
from types import FrameType

from tests import rig
from tests.rig import engine, images, registry
from tests.rig.machine import CACHE, STATE, Daemon, RigError, commands, end_group, lock, remove, say, started, unmount

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def up() -> bool:
    """Make all available, and say what cannot be had; without an engine there is nothing else."""
    complete = True
    for part in (engine, registry, images):
        try:
            part.up()
        except RigError as error:
            say(str(error))
            complete = False
            if part is engine:
                break
    return complete


def down(daemons: list[Daemon]) -> None:
    """Stop these; after the last of ours, remove what they needed while they ran."""
    engine.clean_up()
    for daemon in [daemon for daemon in daemons if daemon.recorded]:
        engine.stop() if daemon is engine.daemon else daemon.stop()
    if not list(STATE.glob("*.pid")):
        remove(STATE)
        unmount(CACHE)


def run(command: list[str]) -> int:
    """Run a command with all available, and return its exit code; a signal that comes meanwhile is passed on to it."""
    try:
        with lock():
            up()  # the tests skip or fail by their own rule
        process = subprocess.Popen(command)

        def forward(number: int, _: FrameType | None) -> None:
            if number != signal.SIGINT or not os.isatty(2):  # a terminal has sent it Ctrl-C already
                process.send_signal(number)

        for number in SIGNALS:
            signal.signal(number, forward)
        code = process.wait()
        return code if code >= 0 else 128 - code
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if started:
            with lock():
                down(started)


def interrupted(number: int, _: FrameType | None) -> None:
    """End what is being done, then this process."""
    for process in list(commands):
        end_group(process)
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    """Run one of the rig's commands."""
    for number in SIGNALS:
        signal.signal(number, interrupted)
    if arguments == ["up"]:
        with lock():
            return 0 if up() else 1
    if arguments == ["down"]:
        with lock():
            down([registry.container, registry.daemon, engine.daemon])
        return 0
    if arguments[:1] == ["run"] and arguments[1:]:
        return run(arguments[1:])
    print(rig.__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
