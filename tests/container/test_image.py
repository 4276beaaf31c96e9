"""The production image, built by the commands of the rendered repository."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Render
from tests.container.conftest import Build, Start
from tests.project import ANSWERS, run, wait_until

USE_SOURCE = """
import importlib.util, os, my_service.linked.hello, my_service.ops.settings
assert os.access("/app/src/my_service/tool", os.X_OK)
for name in ("my_service.linked.hello", "my_service.ops.settings"):
    assert os.path.exists(importlib.util.find_spec(name).cached)
"""

RUNTIMES = ["slim", "minimal"]
PYTHONS = ["3.11", "3.13", "3.14", "3.15"]

STANDARD_LIBRARY = """
import bz2, ctypes, datetime, dbm, decimal, hashlib, lzma, multiprocessing, pwd, readline, socket, sqlite3, ssl
import uuid, venv, xml.etree.ElementTree, zlib, zoneinfo
berlin = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
trusted = ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
print(pwd.getpwuid(1000).pw_name, berlin.tzname(), socket.getservbyname("https"), trusted)
"""

NATIVES = ["cryptography", "grpcio", "lxml", "numpy", "orjson", "psycopg[binary]"]
USE_NATIVES = """
from concurrent.futures import ThreadPoolExecutor

import cryptography.fernet, grpc, lxml.etree, numpy, orjson, psycopg
from cryptography.hazmat.primitives.asymmetric import rsa

fernet = cryptography.fernet.Fernet(cryptography.fernet.Fernet.generate_key())
assert fernet.decrypt(fernet.encrypt(b"text")) == b"text"
assert rsa.generate_private_key(65537, 2048).key_size == 2048

server = grpc.server(ThreadPoolExecutor())
port = server.add_insecure_port("127.0.0.1:0")
server.start()
try:
    grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/no/method")(b"", timeout=5)
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
server.stop(0)

assert lxml.etree.XSLT and lxml.etree.fromstring("<a><b/></a>").xpath("count(//b)") == 1
matrix = numpy.random.rand(200, 200)
assert numpy.allclose(numpy.linalg.inv(matrix) @ matrix, numpy.eye(200))
assert orjson.loads(orjson.dumps({"a": [1.5, None]})) == {"a": [1.5, None]}

assert psycopg.pq.__impl__ == "binary"
try:
    psycopg.connect("host=127.0.0.1 port=1 sslmode=require")
except psycopg.OperationalError as error:
    assert "refused" in str(error)
print("all used")
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("python_version", PYTHONS)
def test_the_image_is_healthy_on_every_python(build: Build, start: Start, python_version: str, runtime: str) -> None:
    container = start(build(python_version=python_version, runtime=runtime), "--read-only")
    container.wait_until_healthy()
    assert container.get("/health") == {"status": "healthy"}
    assert container.execute("python", "--version").startswith(f"Python {python_version}.")


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_image_runs_as_many_workers_as_were_answered(build: Build, start: Start, workers: int) -> None:
    container = start(build(workers=workers))
    wait_until(lambda: container.log().count('"event": "started"') >= workers)
    container.wait_until_healthy()
    assert container.log().count('"event": "started"') == workers


def test_port_and_health_path_are_those_of_the_answers(build: Build, start: Start) -> None:
    answers: dict[str, Any] = ANSWERS["short"]
    container = start(build(**answers), port=answers["port"])
    container.wait_until_healthy()
    assert container.get(answers["health_path"]) == {"status": "healthy"}
    assert container.get(answers["health_path"] + "/version")["service"] == answers["service_name"]


def test_the_image_is_not_healthy_when_the_service_is_not(build: Build, start: Start) -> None:
    container = start(build(), "--env", "LOG_LEVEL=loud")
    with pytest.raises(AssertionError, match="wrong settings"):
        container.wait_until_healthy()


def test_only_what_is_needed_is_in_the_image(default_repository: Path, image: str, start: Start) -> None:
    planted = {
        ".env": "SECRET=1",
        ".git/config": "x",
        "secret.pem": "x",
        "src/.env": "x",
        "src/my_service/tls.key": "x",
    }
    for name, text in planted.items():
        (default_repository / name).parent.mkdir(exist_ok=True)
        (default_repository / name).write_text(text)
    (default_repository / "video.bin").write_bytes(b"\0" * 20_000_000)
    (default_repository / "src/my_service/__pycache__").mkdir()
    (default_repository / "src/my_service/__pycache__/main.pyc").write_text("stale")

    built = run("docker", "build", "--progress=plain", "--no-cache-filter=builder,runtime", "-t", image, ".",
                cwd=default_repository).stdout  # fmt: skip
    sent = built.partition("load build context")[2]
    (size, unit) = re.findall(r"transferring context: ([\d.]+)([kM]?B)", sent)[0]
    assert float(size) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] < 100_000
    assert "WARNING: there is no uv.lock" in built

    container = start(image)
    listing = ["/" + path.rstrip("/") for path in container.files()]
    ours = [path for path in listing if path.startswith("/app/") and not path.startswith("/app/.venv/")]
    assert {Path(path).parts[2] for path in ours} == {".venv", "__pycache__", "gunicorn.conf.py", "src"}
    tools = {
        f"{folder}/{tool}" for folder in ("/bin", "/usr/bin", "/usr/local/bin") for tool in ("uv", "uvx", "gcc", "cc")
    }
    assert not tools & set(listing)
    unwanted = {"secret.pem", "tls.key", "Dockerfile", ".env", "video.bin", "main.pyc"}
    assert [path for path in listing if Path(path).name in unwanted] == []
    assert not [path for path in listing if re.search(r"/\.git(/|$)|/\.cache/(uv|pip)|^/app/(tests|pyproject)", path)]
    assert container.execute("sh", "-c", "find /app -writable") == ""
    assert container.inspect("{{.Config.User}}") == "1000:1000"
    assert container.execute("id", "-u", "-n").strip() == "appuser"


def layers(image: str) -> list[str]:
    """Return the digest of each layer, the base image's first."""
    digests: list[str] = json.loads(run("docker", "image", "inspect", "--format={{json .RootFS.Layers}}", image).stdout)
    return digests


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_builds_of_one_commit_have_the_same_layers(
    render: Render, tmp_path: Path, image: str, runtime: str
) -> None:
    """Bytecode of the standard library, dependencies, ops/ and the rest of the source, whatever a checkout is like."""
    repository = shutil.copytree(render(runtime=runtime), tmp_path / "repository")
    package = repository / "src/my_service"
    (package / "linked").symlink_to("routers")
    (package / "tool").touch(0o700)
    run("make", "uv.lock", cwd=repository)
    built = []
    for _ in range(2):
        run("docker", "build", "--no-cache", "-t", image, ".", cwd=repository)
        built.append(layers(image))
        for path in (repository / "src").rglob("*"):
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (1, 1))
    names = ["dependencies", "ops", "source"]
    if runtime == "slim":
        first, second = (digests[len(layers("python:3.14-slim-trixie")) :] for digests in built)
        names = ["app", "mounts", "bytecode and user", *names]
    else:
        first, second = built
        names = ["root", "app", *names]
    differ = {name for name, *both in zip(names, first, second, strict=True) if both[0] != both[1]}
    assert differ <= {"mounts"}
    run("docker", "run", "--rm", image, "python", "-c", USE_SOURCE)


def test_the_minimal_image_has_what_python_needs_and_no_shell(build: Build, start: Start) -> None:
    container = start(build(runtime="minimal"))
    container.wait_until_healthy()
    files = set(container.files())
    assert {path for path in files if re.match("(usr/(local/)?)?s?bin/[^/]", path)} <= {
        f"usr/{folder}bin/python{version}" for folder in ("", "local/") for version in ("", "3", "3.14")
    }
    assert not [path for path in files if re.search(r"(^|/)(apt|dpkg|pip|ensurepip|test)/", path)]
    assert container.execute("python", "-c", STANDARD_LIBRARY) == "appuser CEST 443 True\n"
    assert container.execute("python", "-c", "import os; print(os.access('/app', os.W_OK))") == "False\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_packages_with_compiled_parts_work(render: Render, tmp_path: Path, image: str, runtime: str) -> None:
    repository = shutil.copytree(render(runtime=runtime), tmp_path / "natives")
    project = repository / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", f"dependencies = {json.dumps(NATIVES)}"))
    run("docker", "build", "-t", image, ".", cwd=repository)
    printed = run("docker", "run", "--rm", "--read-only", "--tmpfs=/tmp", image, "python", "-c", USE_NATIVES).stdout
    assert printed.splitlines()[-1] == "all used"


def test_a_stale_lock_fails_the_build(default_repository: Path) -> None:
    run("make", "uv.lock", cwd=default_repository)
    pyproject = default_repository / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("dependencies = []", 'dependencies = ["aiofiles"]'))
    failed = run("docker", "build", ".", cwd=default_repository, check=False)
    assert failed.returncode != 0
    assert "needs to be updated" in failed.stdout


def test_a_source_that_does_not_compile_fails_the_build(default_repository: Path) -> None:
    (default_repository / "src/my_service/main.py").write_text("def")
    failed = run("docker", "build", ".", cwd=default_repository, check=False)
    assert failed.returncode != 0
    assert "SyntaxError" in failed.stdout


def test_the_version_is_said_by_label_log_and_endpoint(default_repository: Path, image: str, start: Start) -> None:
    run("docker", "build", "--build-arg", "SERVICE_VERSION=abc123", "-t", image, ".", cwd=default_repository)
    container = start(image)
    container.wait_until_healthy()
    assert container.get("/health/version")["version"] == "abc123"
    assert '"version": "abc123"' in container.log()
    assert container.inspect('{{index .Config.Labels "org.opencontainers.image.revision"}}') == "abc123"


@pytest.mark.parametrize("name", ANSWERS)
def test_dockerfiles_pass_the_engines_own_check(render: Render, name: str) -> None:
    # With images that are here: the check resolves them.
    here = {
        "python_version": "3.14",
        "base_image_registry": "docker.io/library",
        "uv_image_registry": "ghcr.io/astral-sh",
    }
    repository = render(**ANSWERS[name] | here)
    for file in ("Dockerfile", "Dockerfile.dev"):
        assert "no warnings found" in run("docker", "build", "--check", "--file", file, ".", cwd=repository).stdout
