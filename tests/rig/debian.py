"""Debian's packages, on a machine that runs Debian."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.rig.machine import CACHE, RigError, run, say

SUITES = ("forky", "trixie")  # newest engine first: trixie's has no `docker build --check`
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def can_start() -> bool:
    """Return whether Debian's packages can be installed here."""
    with suppress(OSError):
        return os.geteuid() == 0 and "\nID=debian\n" in Path("/etc/os-release").read_text()
    return False


def codename() -> str:
    """Return the name of this machine's Debian release."""
    names: list[str] = re.findall(r"^VERSION_CODENAME=(.*)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    return names[0]


def mirror() -> str:
    """Return where this machine has its own Debian packages from, in whichever format its sources are written."""
    printed = run("apt-get", "--print-uris", "update")
    addresses: list[str] = re.findall(rf"^'(.*)/dists/{codename()}/InRelease'", printed, re.MULTILINE)
    return min(addresses)


def install(suite: str, *packages: str) -> None:
    """Install packages of the machine's release, or of the suite where one is named NAME/SUITE.

    The machine's own configuration of apt is left alone.
    """
    say(f"installing {' '.join(packages)}")
    folder, log = CACHE / f"apt-{suite}", CACHE / f"install-{suite}.log"
    for name in ("sources", "lists/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = {f"deb [signed-by={KEYRING}] {mirror()} {name} main\n" for name in (suite, codename())}
    (folder / "sources/debian.list").write_text("".join(sorted(lines)))
    options = {
        "Dir::Etc::SourceList": os.devnull,
        "Dir::Etc::SourceParts": folder / "sources",
        "Dir::State::Lists": folder / "lists",
        "APT::Default-Release": codename(),
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "root",
        "Acquire::Check-Valid-Until": "false",  # a mirror may lag behind; the signature still counts
    }
    apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    apt_get += [f"-o={name}={value}" for name, value in options.items()]
    try:
        run(*apt_get, "update", log=log)
        run(*apt_get, "install", "--yes", "--no-install-recommends", *packages, log=log)
    except subprocess.CalledProcessError:
        raise RigError(f"{packages[0]} does not install; see {log}") from None


def need(*commands: str) -> None:
    """Install the packages of the same name where a command is missing."""
    if missing := [command for command in commands if not shutil.which(command)]:
        install(SUITES[0], *missing)
