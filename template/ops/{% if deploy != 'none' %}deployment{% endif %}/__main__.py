"""The commands of the Makefile that push, deploy and operate: python3 ops/deployment COMMAND. Kept by the template."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("This needs Python 3.11 or newer: install uv, which gets it.")

import signal
from collections.abc import Callable

import image
from aws import AwsError, find_place
from deploy import deploy, rollback
from service import restart
from status import status
from task import logs, run_alone

COMMANDS: dict[str, Callable[..., int | None]] = {
    "deploy": deploy,
    "rollback": rollback,
    "restart": restart,
    "status": status,
    "logs": logs,
    "task": run_alone,
}


def main(command: str, environment: str = "", *arguments: str) -> int | None:
    """Run a command and return its exit code; the Makefile says what its arguments are."""
    if command == "push":
        print(image.push())
        return 0
    return COMMANDS[command](find_place(environment, command), *arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(*sys.argv[1:]))
    except AwsError as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not installed.")
    except KeyboardInterrupt:
        sys.exit(130)
