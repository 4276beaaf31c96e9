"""The container engine."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.rig.debian import SUITES, can_start, install
from tests.rig.machine import CACHE, STATE, RigError, mounts, run, say, started, succeeds, wait_until

SOCKET = os.environ.get("RIG_SOCKET", "unix:///var/run/docker.sock")
PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "docker-compose")
RECORD = STATE / "dockerd"  # its process id: any later rig can find and stop the engine
LOG = STATE / "dockerd.log"


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
    end()  # one that hangs
    start()


def down() -> None:
    """Stop our engine with its containers; another engine is not touched, whatever DOCKER_HOST says."""
    if not STATE.exists():
        return
    if not alive() and mounts(CACHE) and not answers():
        # It was killed. When it starts again, it ends the containers that it had.
        with suppress(RigError):
            start()
    end()
    for point in mounts(STATE) + mounts(CACHE):
        succeeds("umount", "--lazy", point)
    shutil.rmtree(STATE, ignore_errors=True)  # a program that is ending removes files, too


def install_engine() -> None:
    """Install Debian's newest engine that installs here, unless all of it is there."""
    plugins = all(succeeds("docker", plugin, "version") for plugin in ("buildx", "compose"))
    if plugins and shutil.which("dockerd"):
        return
    for suite in SUITES:
        try:
            return install(suite, *(f"{name}/{suite}" for name in PACKAGES))
        except RigError as error:
            say(str(error))
    raise RigError("Docker Engine does not install")


def start() -> None:
    """Start the engine and wait for it."""
    say("starting Docker Engine")
    STATE.mkdir(parents=True, exist_ok=True)
    pid = STATE / "docker.pid"
    pid.unlink(missing_ok=True)  # a killed engine's; the next would not start if another program had that process id
    command = ["dockerd", f"--host={SOCKET}", f"--pidfile={pid}", f"--exec-root={STATE}/exec"]
    command += [f"--data-root={CACHE}/docker", "--default-address-pool=base=172.16.0.0/12,size=24"]
    if os.environ.get("CONTAINERD_IMAGE_STORE"):
        command.append("--feature=containerd-snapshotter=true")
    with LOG.open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    RECORD.write_text(str(process.pid))
    started.append(down)
    if not wait_until(lambda: answers() or process.poll() is not None) or process.poll() is not None:
        raise RigError(f"Docker Engine does not start; see {LOG}")
    # What an interrupted run left. A network each takes an address range, until none is left.
    for what in ("container", "network"):
        run("docker", f"--host={SOCKET}", what, "prune", "--force")


def alive() -> bool:
    """Return whether our engine runs. Its process id may be another program's by now."""
    with suppress(OSError):
        command = Path("/proc", RECORD.read_text(), "cmdline").read_bytes()
        return command.startswith(b"dockerd\0") and f"{STATE}/".encode() in command
    return False


def end() -> None:
    """Stop our engine's containers and its process."""
    if not alive():
        return
    say("stopping Docker Engine")
    process = int(RECORD.read_text())
    with suppress(subprocess.CalledProcessError):
        if containers := run("docker", f"--host={SOCKET}", "ps", "--quiet").split():
            run("docker", f"--host={SOCKET}", "kill", *containers)
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(process, number)
        if wait_until(lambda: not alive()):
            break
