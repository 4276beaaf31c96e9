"""The images, pulled where that works, else built from Debian's packages and uv's wheel."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.rig.debian import can_start, mirror, need
from tests.rig.machine import CACHE, RigError, run, say

SUITE = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky", "3.15": "forky"}  # that packages each Python
VERSIONS = Path(__file__).parents[2] / "extensions/versions.yml"
PINS = dict(re.findall(r'^(\w+): "(.*)"', VERSIONS.read_text(), re.M))
UV = PINS["uv"]
REGISTRY = "registry:3.0.0"
POSTGRES = f"postgres:{PINS['postgres']}-trixie"
KAFKA = f"apache/kafka:{PINS['kafka']}"
ALL = [f"ghcr.io/astral-sh/uv:{UV}", REGISTRY, *(f"python:{version}-slim-trixie" for version in SUITE), POSTGRES, KAFKA]
HERE = Path(__file__).parent
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # where Debian has it
CA = Path(os.environ.get("SSL_CERT_FILE", CA_BUNDLE))  # this machine's
# Of the registry.
CONFIGURATION = """\
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /data}}
http: {addr: ":5000"}
"""
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
        need("mmdebstrap", "docker-registry")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as threads:
            failed = [image for image, built in zip(missing, threads.map(build, missing), strict=True) if not built]
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
    """Return a digest of what decides what a built image holds: these files, and this machine's certificates."""
    certificates = CA.read_bytes() if CA.exists() else b""
    files = b"".join((HERE / name).read_bytes() for name in ("images.py", "postgres", "kafka.py"))
    return sha256(files + certificates).hexdigest()[:12]


def pull(image: str) -> bool:
    """Return whether an image could be pulled; where it can be built instead, a silent registry is not waited for."""
    try:
        run("docker", "pull", "--quiet", image, timeout=60 if can_start() else None)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def build(image: str) -> bool:
    """Build an image and return whether that went well."""
    name, version = re.findall(r"(\w+):([\d.]+)", image)[0]
    folder, log = FOLDER / f"{name}-{version}", FOLDER / f"{name}-{version}.log"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log.unlink(missing_ok=True)
    archive = folder / "image.tar"
    make = {"python": python, "uv": uv, "registry": registry, "postgres": postgres, "kafka": kafka}[name]
    try:
        settings = [*make(version, folder, archive, log), f"LABEL rig={recipe()}"]
        run("docker", "import", *(f"--change={setting}" for setting in settings), archive, image, log=log)
    except (OSError, subprocess.CalledProcessError):
        return False
    shutil.rmtree(folder)
    return True


def python(version: str, _folder: Path, archive: Path, log: Path) -> list[str]:
    """Make what the official image holds, with this machine's access to packages; return the image's settings."""
    removed = ("lib/python3*/EXTERNALLY-MANAGED", "lib/python3*/test", "share/doc/*", "share/locale/*", "share/man/*")
    hooks = [
        'find "$1/usr" -name __pycache__ -prune -exec rm -r {} +',
        *(f'rm -r "$1"/usr/{path}' for path in removed),
        f'for name in python python3 python{version}; do ln -s /usr/bin/python{version} "$1/usr/local/bin/$name"; done',
        *([f"upload {CA} {CA_BUNDLE}"] if CA.exists() else []),
        *(["copy-in /etc/uv /etc"] if Path("/etc/uv").exists() else []),
    ]
    packages = f"ca-certificates,netbase,tzdata,python{version}"
    debian(SUITE[version], archive, log, packages, *(f"--customize-hook={hook}" for hook in hooks))
    own = f"SSL_CERT_FILE={CA_BUNDLE} " if "SSL_CERT_FILE" in os.environ else ""
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    return [f"ENV PATH={path} LANG=C.UTF-8 {own}PYTHON_VERSION={version}", 'CMD ["python3"]']


def postgres(version: str, _folder: Path, archive: Path, log: Path) -> list[str]:
    """Make what the official image of PostgreSQL does as far as services use it; see the script `postgres`."""
    hooks = (
        "--setup-hook=mkdir -p $1/etc/postgresql-common",
        "--setup-hook=echo create_main_cluster = false >$1/etc/postgresql-common/createcluster.conf",
        f"--customize-hook=upload {HERE / 'postgres'} /usr/local/bin/docker-entrypoint.sh",
        "--customize-hook=chmod 755 $1/usr/local/bin/docker-entrypoint.sh",
    )
    debian("forky", archive, log, f"postgresql-{version}", *hooks)
    return [
        f"ENV PATH=/usr/lib/postgresql/{version}/bin:/usr/local/bin:/usr/bin:/bin PG_MAJOR={version} LANG=C.UTF-8",
        f"ENV PGDATA=/var/lib/postgresql/{version}/docker",
        "VOLUME /var/lib/postgresql",
        "EXPOSE 5432",
        "STOPSIGNAL SIGINT",
        'ENTRYPOINT ["docker-entrypoint.sh"]',
        'CMD ["postgres"]',
    ]


def kafka(_version: str, folder: Path, archive: Path, log: Path) -> list[str]:
    """Make a broker in memory that is reached as the official image of Kafka; see kafka.py."""
    library = folder / "library"
    wheel = ("--python-version", "3.13", "--only-binary=:all:", "confluent-kafka")
    run("uv", "pip", "install", "--quiet", "--target", library, *wheel, log=log)
    hooks = (
        "--customize-hook=mkdir -p $1/opt",
        f"--customize-hook=copy-in {library} /opt",
        f"--customize-hook=upload {HERE / 'kafka.py'} /opt/kafka.py",
    )
    debian("trixie", archive, log, "python3", *hooks)
    return ["ENV PYTHONPATH=/opt/library PYTHONUNBUFFERED=1", "STOPSIGNAL SIGINT", 'CMD ["python3", "/opt/kafka.py"]']


def debian(suite: str, archive: Path, log: Path, packages: str, *options: str) -> None:
    """Make the root of an image from Debian's packages."""
    run(
        "mmdebstrap",
        "--variant=minbase",
        f"--include={packages}",
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",  # else bookworm brings all of Perl for usrmerge
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *options,
        suite,
        archive,
        f"deb {mirror()} {suite} main",
        log=log,
    )


def uv(version: str, folder: Path, archive: Path, log: Path) -> list[str]:
    """Take the two programs of uv's wheel."""
    run("uv", "pip", "install", "--quiet", "--target", folder, f"uv=={version}", log=log)
    run("tar", f"--directory={folder}/bin", f"--file={archive}", "--create", "uv", "uvx", log=log)
    return []


def registry(_version: str, folder: Path, archive: Path, log: Path) -> list[str]:
    """Take Debian's registry with its libraries."""
    program = shutil.which("docker-registry") or ""
    libraries = re.findall(r"/\S+", run("ldd", program))
    (folder / "registry.yml").write_text(CONFIGURATION)
    files = ["--dereference", program, *libraries, f"--directory={folder}", "registry.yml"]
    run("tar", f"--file={archive}", "--create", *files, log=log)
    return [f'CMD ["{program}", "serve", "/registry.yml"]']
