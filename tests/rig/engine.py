"""The container engine."""

import os
import shutil
import subprocess

from tests.rig.debian import SUITES, can_start, install
from tests.rig.machine import CACHE, STATE, Daemon, RigError, mounts, run, say, succeeds, wait_until

SOCKET = os.environ.get("RIG_SOCKET", "unix:///var/run/docker.sock")
ENGINE = ("docker.io", "docker-cli", "docker-buildx", "docker-compose")
TOOLS = ("iptables", "debootstrap", "docker-registry", "tini-static")

daemon = Daemon("dockerd")


def answers() -> bool:
    """Return whether the caller's engine answers, ours or another."""
    return succeeds("docker", "info", "--format={{.ServerVersion}}")


def up() -> None:
    """Make an engine available."""
    if answers():
        return
    if not can_start():
        raise RigError("no container engine answers, and one can only be started on Debian, as root")
    install_engine()
    if answers():  # where there is an init, the package starts it
        return
    say("starting Docker Engine")
    stop()  # one that hangs
    start()


def install_engine() -> None:
    """Install Debian's newest engine that installs here, unless all of it is there."""
    plugins = all(succeeds("docker", plugin, "version") for plugin in ("buildx", "compose"))
    if plugins and shutil.which("dockerd") and shutil.which("iptables"):
        return
    for suite in SUITES:
        try:
            return install(suite, *TOOLS, *(f"{name}/{suite}" for name in ENGINE))
        except RigError as error:
            say(str(error))
    raise RigError("Docker Engine does not install")


def start() -> None:
    """Start the engine and wait for it."""
    pid = STATE / "docker.pid"
    pid.unlink(missing_ok=True)  # a killed engine's; the next would not start if another program had that process id
    arguments = [f"--host={SOCKET}", f"--pidfile={pid}", f"--exec-root={STATE}/exec", f"--data-root={CACHE}/docker"]
    if os.environ.get("CONTAINERD_IMAGE_STORE"):
        arguments.append("--feature=containerd-snapshotter=true")
    daemon.start(*arguments, "--default-address-pool=base=172.16.0.0/12,size=24")
    wait_until(lambda: answers() or not daemon.alive())
    if not daemon.alive() or not answers():
        raise RigError(f"Docker Engine does not start; see {daemon.log}")
    # What an interrupted run left. A network each takes an address range, until none is left.
    for what in ("container", "network"):
        run("docker", f"--host={SOCKET}", what, "prune", "--force")


def stop() -> None:
    """Stop our engine with its containers; another engine is not touched, whatever DOCKER_HOST says."""
    if daemon.alive():
        try:
            if containers := run("docker", f"--host={SOCKET}", "ps", "--quiet").split():
                run("docker", f"--host={SOCKET}", "kill", *containers)
        except subprocess.CalledProcessError:
            say("some containers could not be stopped")
    daemon.stop()


def clean_up() -> None:
    """End the containers of our engine if it was killed: it does so itself when it starts again."""
    if daemon.recorded and not daemon.alive() and mounts(CACHE) and not answers():
        say("cleaning up after an engine that was killed")
        try:
            start()
        except RigError as error:
            say(str(error))
