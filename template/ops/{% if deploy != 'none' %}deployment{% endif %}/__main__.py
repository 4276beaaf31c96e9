"""The commands of the Makefile that push, deploy and operate: python3 ops/deployment COMMAND. Kept by the template."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("This needs Python 3.11 or newer: install uv, which gets it.")

import signal

import image
import service
import task
from aws import AwsError, find_place
from deploy import deploy
from status import status


def main(command: str, environment: str = "", first: str = "", second: str = "") -> int:
    """Run a command and return its exit code; the Makefile says what its arguments are."""
    if command == "push":
        print(image.push())
        return 0
    place = find_place(environment, command)
    if command == "status":
        return status(place)
    if command == "task":
        if not first.strip():
            sys.exit('CMD is missing: make task ENV=stage CMD="python -m …"')
        return task.run(place, service.describe(place), first, image.push(second) if second else "")
    if command == "deploy":
        deploy(place, first)
    elif command == "restart":
        service.restart(place)
        if worker := place.worker():
            service.restart(worker)
    elif command == "logs":
        task.logs(place, first, second)
    elif command == "rollback":
        running, earlier = service.before(place)
        commit = image.commit_of(earlier) if earlier else ""
        if not commit:
            sys.exit(f"Nobody knows which commit ran before: make deploy ENV={environment} IMAGE_TAG=COMMIT")
        print(f"Rolling back from {image.named(running)} to {commit}.", file=sys.stderr)
        deploy(place, commit)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(*sys.argv[1:]))
    except AwsError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
