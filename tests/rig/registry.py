"""The registry, a container."""

import subprocess
from contextlib import closing
from http.client import HTTPConnection, HTTPException

from tests.rig import engine
from tests.rig.images import REGISTRY
from tests.rig.machine import STATE, RigError, run, say, started, succeeds, wait_until

ADDRESS = "127.0.0.1:5000"
OURS = f"rig-state={STATE}"  # another rig's is left alone


def answers() -> bool:
    """Return whether a registry answers at the address."""
    try:
        with closing(HTTPConnection(ADDRESS, timeout=5)) as connection:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False


def up() -> None:
    """Make a registry available."""
    if answers():
        return
    say(f"starting a registry on {ADDRESS}")
    down()  # one that hangs
    started.append(down)
    try:
        run("docker", "run", "--detach", "--rm", f"--label={OURS}", f"--publish={ADDRESS}:5000", REGISTRY)
    except subprocess.CalledProcessError:
        raise RigError("the registry does not start") from None
    if not wait_until(answers):
        raise RigError("the registry does not answer")


def down() -> None:
    """Stop our registry."""
    if engine.answers():
        for container in run("docker", "ps", "--all", "--quiet", f"--filter=label={OURS}").split():
            succeeds("docker", "rm", "--force", "--volumes", container)
