"""The command line of the rig."""

import signal
import subprocess
import sys
from types import FrameType

from tests import rig
from tests.rig import engine, images, registry
from tests.rig.machine import RigError, lock, say, started

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def up() -> bool:
    """Make all available, and say what cannot be had; without an engine there is nothing else."""
    complete = True
    for part in (engine, images, registry):
        try:
            part.up()
        except RigError as error:
            say(str(error))
            complete = False
            if part is engine:
                break
    return complete


def run(command: list[str]) -> int:
    """Run a command with all available, and return its exit code."""
    try:
        with lock():
            up()  # the tests skip or fail by their own rule
        process = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        for number in (signal.SIGHUP, signal.SIGINT):  # a terminal sends these to the command, too
            signal.signal(number, signal.SIG_IGN)
        code = process.wait()
        return code if code >= 0 else 128 - code
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if started:
            with lock():
                for stop in reversed(started):
                    stop()


def interrupted(number: int, _: FrameType | None) -> None:
    """End this process, once the images that are being built are there."""
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
            registry.down()
            engine.down()
        return 0
    if arguments[:1] == ["run"] and arguments[1:]:
        return run(arguments[1:])
    print(rig.__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
