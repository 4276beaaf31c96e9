"""The rig's promises, kept by other engines than the one of this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig import debian, images
from tests.support.commands import run, wait_until
from tests.support.template import ROOT

pytestmark = pytest.mark.skipif(
    not debian.can_start() or not shutil.which("dockerd"), reason="an engine can only be started on Debian, as root"
)

RIG = (sys.executable, "-m", "tests.rig")


UP = """import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh", b"lo", 1))"""  # SIOCSIFFLAGS


class Rig:
    """A rig with folders of its own, in a network of its own: an engine removes or changes the bridge of another."""

    def __init__(self, folder: Path, network: Path, socket: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.network = network
        self.socket = socket
        self.environment = {
            "DOCKER_HOST": f"unix://{socket}",
            "RIG_CACHE": str(folder / "cache"),
            "RIG_STATE": str(self.state),
            "RIG_SOCKET": f"unix://{socket}",
            "RIG_IMAGES": images.REGISTRY,
        }

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.inside(*RIG, *arguments, check=check)

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        inside = ("nsenter", f"--net={self.network}", *RIG, *arguments)
        return subprocess.Popen(inside, cwd=ROOT, env=os.environ | self.environment)

    def inside(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("nsenter", f"--net={self.network}", *command, cwd=ROOT, check=check, **self.environment)

    def docker(self, *arguments: str) -> str:
        return self.inside("docker", *arguments).stdout

    def registries(self) -> list[str]:
        return self.docker("ps", "--quiet", f"--filter=ancestor={images.REGISTRY}").split()

    def processes(self, name: str = "") -> list[int]:
        """Return the processes whose command line names the folder."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = file.read_bytes()
            except OSError:
                continue
            if f"{self.folder}/".encode() in command and command.startswith(name.encode()):
                found.append(int(file.parent.name))
        return found

    def has_left_nothing(self) -> bool:
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f" {self.folder}/" in line]
        return not (self.processes() or mounts or self.state.exists())


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder with a short path: that of a socket has at most 108 characters."""
    path = Path(tempfile.mkdtemp(prefix="rig-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def network() -> Iterator[Path]:
    """A network namespace."""
    with folder() as holder:
        file = holder / "network"
        file.touch()
        run("unshare", f"--net={file}", sys.executable, "-c", UP)
        yield file
        run("umount", file)


@pytest.fixture
def rig(network: Path) -> Iterator[Rig]:
    with folder() as own:
        rig = Rig(own, network, own / "docker.sock")
        yield rig
        rig("down")


def test_up_twice_starts_one_engine_and_one_registry(rig: Rig) -> None:
    rig("up")
    started = rig.processes("dockerd\0"), rig.registries()
    assert [len(found) for found in started] == [1, 1]
    rig("up")
    assert (rig.processes("dockerd\0"), rig.registries()) == started


def test_two_at_once_wait_for_each_other(rig: Rig) -> None:
    assert [process.wait() for process in [rig.begin("up"), rig.begin("up")]] == [0, 0]
    assert len(rig.processes("dockerd\0")) == 1


def test_up_goes_on_where_a_killed_one_stopped(rig: Rig) -> None:
    killed = rig.begin("up")
    wait_until(lambda: bool(rig.processes("dockerd\0")))
    killed.kill()
    killed.wait()
    rig("up")
    assert len(rig.processes("dockerd\0")) == 1
    assert len(rig.registries()) == 1


def sleeping_container(rig: Rig) -> None:
    """Run a container that would not end by itself."""
    root = rig.folder / "root"
    libraries = [word for word in run("ldd", "/bin/sleep").stdout.split() if word.startswith("/")]
    root.mkdir()
    run("cp", "--dereference", "--parents", "/bin/sleep", *libraries, root)
    rig.inside("sh", "-c", f"tar -C {root} -c . | docker import - sleep")
    rig.docker("run", "--detach", "--network=none", "sleep", "/bin/sleep", "600")


@pytest.mark.parametrize("how", ["down", "down after the engine was killed"])
def test_down_leaves_no_process_no_mount_and_no_folder(rig: Rig, how: str) -> None:
    rig("up")
    sleeping_container(rig)
    assert not rig.has_left_nothing()
    if how != "down":
        (engine,) = rig.processes("dockerd\0")
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: engine not in rig.processes())
    rig("down")
    wait_until(rig.has_left_nothing)


def test_an_engine_that_was_there_before_is_not_touched(rig: Rig) -> None:
    rig("up")
    sleeping_container(rig)
    before = rig.processes(), rig.docker("ps", "--quiet")
    with folder() as own:
        other = Rig(own, rig.network, rig.socket)
        other("up")
        assert other.processes("dockerd\0") == []
        other("run", "true")
        other("down")
    assert (rig.processes(), rig.docker("ps", "--quiet")) == before


def test_run_ends_as_its_command_does_and_stops_what_it_started(rig: Rig) -> None:
    done = rig("run", "sh", "-c", "docker info && exit 7", check=False)
    assert done.returncode == 7
    assert str(rig.folder) in done.stdout  # the engine's own folder
    wait_until(rig.has_left_nothing)


def test_run_passes_a_signal_to_its_command_and_stops_what_it_started(rig: Rig) -> None:
    ready = rig.folder / "ready"
    running = rig.begin("run", "sh", "-c", f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.1; done")
    wait_until(ready.exists)
    running.terminate()
    assert running.wait() == 9
    wait_until(rig.has_left_nothing)


def test_an_interrupted_start_stops_what_it_started(rig: Rig) -> None:
    running = rig.begin("run", "sleep", "600")
    wait_until(lambda: bool(rig.processes("dockerd\0")))
    running.terminate()
    assert running.wait() == 128 + signal.SIGTERM
    wait_until(rig.has_left_nothing)


def test_an_image_of_another_recipe_counts_as_missing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig("up")
    monkeypatch.setenv("DOCKER_HOST", rig.environment["DOCKER_HOST"])
    for name, label in {"real": "", "own": f"LABEL rig={images.recipe()}", "stale": "LABEL rig=0123456789ab"}.items():
        run("sh", "-c", f'tar -C {ROOT} -c LICENSE | docker import ${{1:+--change "$1"}} - {name}', "sh", label)
    there = {name: images.is_there(name) for name in ("real", "own", "stale", "missing")}
    assert there == {"real": True, "own": True, "stale": False, "missing": False}


@pytest.mark.parametrize("arguments", [(), ("run",), ("stop",), ("up", "now")])
def test_a_wrong_command_line_shows_the_right_ones(arguments: tuple[str, ...]) -> None:
    done = run(*RIG, *arguments, check=False)
    assert done.returncode == 2
    assert "python3 -m tests.rig up" in done.stdout
