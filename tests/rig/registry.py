"""The registry: Debian's package where the rig can install it, else a container."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.rig.debian import can_start, need
from tests.rig.machine import STATE, Daemon, RigError, run, say, started, succeeds, wait_until

ADDRESS = "127.0.0.1:5000"
IMAGE = "docker.io/library/registry:3.0.0"
CONTAINER = "copier-fastapi-ecs-registry"
CONFIGURATION = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {state}/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


class Container(Daemon):
    """The registry as a container, recorded like a daemon."""

    def start(self, *arguments: str | Path) -> None:
        self.stop()
        run("docker", "run", "--detach", f"--name={CONTAINER}", f"--publish={ADDRESS}:5000", IMAGE)
        self.file.touch()
        started.append(self)

    def stop(self) -> None:
        if not succeeds("docker", "rm", "--force", "--volumes", CONTAINER):
            say("the registry's container stays")
        self.file.unlink(missing_ok=True)


daemon = Daemon("docker-registry")
container = Container("registry-container")


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
    if can_start():
        need("docker-registry", "docker-registry")
        if answers():  # where there is an init, the package starts it
            return
    chosen = daemon if can_start() else container
    say(f"starting a registry on {ADDRESS}")
    STATE.mkdir(parents=True, exist_ok=True)
    configuration = STATE / "registry.yml"
    configuration.write_text(CONFIGURATION.format(state=STATE, address=ADDRESS))
    chosen.stop()  # one that hangs
    chosen.start("serve", configuration)
    if not wait_until(answers):
        raise RigError(f"the registry does not answer; see {chosen.log}")
