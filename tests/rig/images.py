"""The images, pulled where that works, else built from Debian's packages and uv's wheel."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.rig.debian import SUITES, can_start, install, mirror, need
from tests.rig.machine import CACHE, RigError, remove, run, say, succeeds

SUITE = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky", "3.15": "forky"}  # that packages each Python
VERSIONS = Path(__file__).parents[2] / "extensions/versions.yml"
UV = re.findall(r'^uv: "(.*)"$', VERSIONS.read_text(), re.M)[0]
REGISTRY = "registry:3.0.0"
ALL = [f"ghcr.io/astral-sh/uv:{UV}", REGISTRY, *(f"python:{version}-slim-trixie" for version in SUITE)]
# What debootstrap leaves, and the official image does not have.
NOT_IN_PYTHON = ["__pycache__", "./etc/hosts", "./etc/resolv.conf"]
NOT_IN_PYTHON += ["./usr/lib/python3*/EXTERNALLY-MANAGED", "./usr/lib/python3*/test"]
NOT_IN_PYTHON += [f"./usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
NOT_IN_PYTHON += [f"./var/{name}/*" for name in ("cache", "lib/apt/lists", "log")]
# Of the registry.
CONFIGURATION = """\
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /data}}
http: {addr: ":5000"}
"""
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"  # where Debian has it
CA = Path(os.environ.get("SSL_CERT_FILE", f"/{CA_BUNDLE}"))  # this machine's
FOLDER = CACHE / "build"


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
        need("debootstrap", "docker-registry")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as threads:
            built = threads.map(build, missing)
        failed = [image for image, is_built in zip(missing, built, strict=True) if not is_built]
    else:
        failed = missing
    if failed:
        raise RigError(f"there will be no {' '.join(failed)}; logs are in {FOLDER}")


def is_there(image: str) -> bool:
    """Return whether an image is a real one or made by this recipe."""
    try:
        label = run("docker", "image", "inspect", '--format={{index .Config.Labels "rig"}}', image).strip()
    except subprocess.CalledProcessError:
        return False
    return label in ("", recipe())


@cache
def recipe() -> str:
    """Return a digest of what decides what a built image holds: this file, and this machine's certificates."""
    certificates = CA.read_bytes() if CA.exists() else b""
    return sha256(Path(__file__).read_bytes() + str(CA).encode() + certificates).hexdigest()[:12]


def pull(image: str) -> bool:
    """Return whether an image could be pulled; where it can be built instead, a silent registry is not waited for."""
    try:
        run("docker", "pull", "--quiet", image, timeout=60 if can_start() else None)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def build(image: str) -> bool:
    """Build an image, and return whether all went well; Debian drops the oldest Python at some time."""
    name, version = re.findall(r"(\w+):([\d.]+)", image)[0]
    root, log = FOLDER / f"{name}-{version}", FOLDER / f"{name}-{version}.log"
    remove(root)
    log.unlink(missing_ok=True)
    try:
        RECIPES[name](image, version, root, log)
    except (subprocess.CalledProcessError, RigError):
        if not log.exists() or "Couldn't find these debs: python" not in log.read_text():
            return False
        say(f"Debian has no Python {version} any more")
    remove(root)
    return True


def python_image(image: str, version: str, root: Path, log: Path) -> None:
    """Build what the official image holds, from Debian's packages."""
    scripts = Path("/usr/share/debootstrap/scripts")
    script = scripts / SUITE[version] if (scripts / SUITE[version]).exists() else scripts / "sid"
    packages = f"--include=ca-certificates,netbase,tzdata,python{version}"
    run("debootstrap", "--variant=minbase", packages, SUITE[version], root, mirror(), script, log=log)

    for link in ("python", "python3", f"python{version}"):
        (root / "usr/local/bin" / link).symlink_to(f"/usr/bin/python{version}")
    if CA.exists():
        shutil.copy(CA, root / CA_BUNDLE)
    (root / "etc/apt/apt.conf.d/valid-until").write_text('Acquire::Check-Valid-Until "false";\n')  # as the rig itself
    if Path("/etc/uv/uv.toml").is_file():
        shutil.copytree("/etc/uv", root / "etc/uv")

    own = f"SSL_CERT_FILE=/{CA_BUNDLE} " if "SSL_CERT_FILE" in os.environ else ""
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = f"ENV PATH={path} LANG=C.UTF-8 {own}PYTHON_VERSION={version}"
    import_image(root, image, environment, 'CMD ["python3"]', without=NOT_IN_PYTHON)


def uv_image(image: str, version: str, root: Path, log: Path) -> None:
    """Build an image of the two programs in uv's wheel."""
    if not succeeds("python3", "-m", "venv", root / "venv"):
        install(SUITES[0], "python3-venv")
        run("/usr/bin/python3", "-m", "venv", "--clear", root / "venv", log=log)
    run(root / "venv/bin/pip", "install", "--quiet", f"uv=={version}", log=log)
    for program in ("uv", "uvx"):
        shutil.move(root / "venv/bin" / program, root)
    shutil.rmtree(root / "venv")
    import_image(root, image)


def registry_image(image: str, _version: str, root: Path, log: Path) -> None:
    """Build an image of Debian's registry."""
    program = shutil.which("docker-registry") or ""
    root.mkdir()
    libraries = re.findall(r"/\S+", run("ldd", program))
    run("cp", "--dereference", "--parents", program, *libraries, root, log=log)
    (root / "configuration").write_text(CONFIGURATION)
    import_image(root, image, f'CMD ["{program}", "serve", "/configuration"]')


RECIPES = {"python": python_image, "uv": uv_image, "registry": registry_image}


def import_image(root: Path, image: str, *changes: str, without: Sequence[str] = ()) -> None:
    """Make an image of the files below a folder, but for some."""
    flags = [f"--change={change}" for change in (*changes, f"LABEL rig={recipe()}")]
    tar = subprocess.Popen(
        ["tar", "-C", root, *(f"--exclude={path}" for path in without), "-c", "."], stdout=subprocess.PIPE, text=True
    )
    run("docker", "import", *flags, "-", image, stdin=tar.stdout)
