"""The base images, pulled where that works, else built from Debian's packages and uv's wheel."""

import inspect
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.rig.debian import SUITES, can_start, install, mirror, need
from tests.rig.machine import CACHE, RigError, remove, run, say, succeeds

SUITE = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky", "3.15": "forky"}  # that packages each Python
VERSIONS = Path(__file__).parents[2] / "extensions/versions.yml"
UV = re.findall(r'^uv: "(.*)"$', VERSIONS.read_text(), re.M)[0]
ALL = [f"ghcr.io/astral-sh/uv:{UV}", *(f"python:{version}-slim-trixie" for version in SUITE)]
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"  # where Debian has it
CA = Path(os.environ.get("SSL_CERT_FILE", f"/{CA_BUNDLE}"))  # this machine's
FOLDER = CACHE / "build"


def python_image(image: str, version: str) -> None:
    """Build what the official image holds, from Debian's packages."""
    root, log = FOLDER / version, FOLDER / f"{version}.log"
    remove(root)
    scripts = Path("/usr/share/debootstrap/scripts")
    script = scripts / SUITE[version] if (scripts / SUITE[version]).exists() else scripts / "sid"
    packages = f"--include=ca-certificates,netbase,tzdata,python{version}"
    run("debootstrap", "--variant=minbase", packages, SUITE[version], root, mirror(), script, log=log)

    share, library = root / "usr/share", root / f"usr/lib/python{version}"
    emptied = [root / "var/lib/apt/lists", root / "var/cache", root / "var/log"]
    emptied += [share / name for name in ("doc", "man", "locale", "info")]
    for folder in emptied:
        shutil.rmtree(folder)
        folder.mkdir()
    for file in (root / "etc/hosts", root / "etc/resolv.conf", library / "EXTERNALLY-MANAGED"):
        file.unlink(missing_ok=True)
    shutil.rmtree(library / "test")  # the official image has none, and no bytecode
    for folder in list(root.rglob("__pycache__")):
        shutil.rmtree(folder)
    for link in ("python", "python3", f"python{version}"):
        (root / "usr/local/bin" / link).symlink_to(f"/usr/bin/python{version}")
    if CA.exists():
        shutil.copy(CA, root / CA_BUNDLE)
    (root / "etc/apt/apt.conf.d/valid-until").write_text('Acquire::Check-Valid-Until "false";\n')  # as the rig itself
    if Path("/etc/uv/uv.toml").is_file():
        shutil.copytree("/etc/uv", root / "etc/uv")

    own = f"SSL_CERT_FILE=/{CA_BUNDLE} " if "SSL_CERT_FILE" in os.environ else ""
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    import_image(root, image, f"ENV PATH={path} LANG=C.UTF-8 {own}PYTHON_VERSION={version}", 'CMD ["python3"]')
    remove(root)


def uv_image(image: str, version: str) -> None:
    """Build an image of the two programs in uv's wheel."""
    root, log = FOLDER / "uv", FOLDER / "uv.log"
    remove(root)
    if not succeeds("python3", "-m", "venv", root / "venv"):
        install(SUITES[0], "python3-venv")
        run("/usr/bin/python3", "-m", "venv", "--clear", root / "venv", log=log)
    run(root / "venv/bin/pip", "install", "--quiet", f"uv=={version}", log=log)
    import_image(root / "venv/bin", image, files="uv uvx")
    remove(root)


def import_image(root: Path, image: str, *changes: str, files: str = ".") -> None:
    """Make an image of the files below a folder."""
    flags = [f"--change={change}" for change in (*changes, f"LABEL rig={recipe()}")]
    tar = subprocess.Popen(["tar", "-C", root, "-c", *files.split()], stdout=subprocess.PIPE, text=True)
    run("docker", "import", *flags, "-", image, stdin=tar.stdout)


@cache
def recipe() -> str:
    """Return a digest of all that decides what a built image holds."""
    source = "".join(inspect.getsource(function) for function in (python_image, uv_image, import_image))
    own = "SSL_CERT_FILE" in os.environ
    return sha256(f"{source}{SUITE}{own}".encode() + (CA.read_bytes() if CA.exists() else b"")).hexdigest()[:12]


def is_there(image: str) -> bool:
    """Return whether an image is a real one or made by this recipe."""
    try:
        label = run("docker", "image", "inspect", '--format={{index .Config.Labels "rig"}}', image).strip()
    except subprocess.CalledProcessError:
        return False
    return label in ("", recipe())


def pull(image: str) -> bool:
    """Return whether an image could be pulled; where it can be built instead, a silent registry is not waited for."""
    try:
        run("docker", "pull", "--quiet", image, timeout=60 if can_start() else None)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def up() -> None:
    """Make the images available."""
    missing = [image for image in os.environ.get("RIG_IMAGES", " ".join(ALL)).split() if not is_there(image)]
    if not missing:
        return
    say(f"looking whether {missing[0]} can be pulled")
    if pull(missing[0]):
        failed = [image for image in missing[1:] if not pull(image)]
    elif can_start():
        say(f"no image can be pulled; building {' '.join(missing)}")
        need("debootstrap", "debootstrap")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as threads:
            failed = [image for image in threads.map(build, missing) if image]
    else:
        failed = missing
    if failed:
        raise RigError(f"there will be no {' '.join(failed)}; logs are in {FOLDER}")


def build(image: str) -> str:
    """Build an image and return nothing, or return the image if it does not build."""
    version = image.partition(":")[2].partition("-")[0]
    try:
        (uv_image if "/uv:" in image else python_image)(image, version)
    except (subprocess.CalledProcessError, RigError):
        log = FOLDER / f"{version}.log"
        if log.exists() and "Couldn't find these debs: python" in log.read_text():
            say(f"Debian has no Python {version} any more")
            return ""
        return image
    return ""
