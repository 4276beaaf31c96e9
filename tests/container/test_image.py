"""The production image, built by the commands of the rendered repository."""

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run, wait_until
from tests.support.containers import Build, Start, docker, saved_files, saved_layers
from tests.support.template import ANSWERS, Render

USE_SOURCE = """
import importlib.util, io, os, zipfile, fastapi, my_service.linked.hello, my_service.ops.settings
for folder, _, names in os.walk("/app/src"):
    for name in names:
        zipfile.ZipFile(io.BytesIO(), "w").write(os.path.join(folder, name))  # refuses dates before 1980
assert os.access("/app/src/my_service/tool", os.X_OK)
for name in ("my_service.linked.hello", "my_service.ops.settings"):
    assert os.path.exists(importlib.util.find_spec(name).cached)
def columns(function): return {column for _, _, column, _ in function.__code__.co_positions()} - {None}
assert columns(my_service.linked.hello.hello)
assert not columns(fastapi.FastAPI.get)
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

USE_SYSTEM_PACKAGES = """
import ctypes, subprocess
assert ctypes.CDLL("libpq.so.5").PQlibVersion() >= 150000
print(subprocess.run(["jq", ".a"], input='{"a": 7}', capture_output=True, text=True, check=True).stdout, end="")
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("python_version", PYTHONS)
def test_the_image_is_healthy_on_every_python(build: Build, start: Start, python_version: str, runtime: str) -> None:
    container = start(build(python_version=python_version, runtime=runtime), "--read-only")
    container.wait_until_healthy()
    assert container.get("/health") == {"status": "healthy"}
    assert container.execute("python", "--version").startswith(f"Python {python_version}.")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_image_runs_as_many_workers_as_were_answered(build: Build, start: Start, workers: int) -> None:
    container = start(build(workers=workers))
    wait_until(lambda: container.log().count('"event":"started"') >= workers)
    container.wait_until_healthy()
    assert container.log().count('"event":"started"') == workers


def test_the_image_uses_the_answered_port_and_health_path(build: Build, start: Start) -> None:
    answers: dict[str, Any] = ANSWERS["short"]
    container = start(build(**answers), port=answers["port"])
    container.wait_until_healthy()
    assert container.get(answers["health_path"]) == {"status": "healthy"}
    assert container.get(answers["health_path"] + "/version")["service"] == answers["service_name"]


def test_the_health_check_fails_where_no_service_answers(build: Build) -> None:
    check = json.loads(docker("inspect", "--format={{json .Config.Healthcheck.Test}}", build()))
    assert check[0] == "CMD"
    assert run("docker", "run", "--rm", build(), *check[1:], check=False).returncode == 1


def test_the_image_contains_only_what_the_service_needs(default_repository: Path, image: str, start: Start) -> None:
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

    built = run("docker", "build", "--progress=plain", "-t", image, ".", cwd=default_repository).stdout
    sent = built.partition("load build context")[2]
    (size, unit) = re.findall(r"transferring context: ([\d.]+)([kM]?B)", sent)[0]
    assert float(size) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] < 100_000

    container = start(image)
    listing = ["/" + path.rstrip("/") for path in container.files()]
    ours = [path for path in listing if path.startswith("/app/") and not path.startswith("/app/.venv/")]
    assert {Path(path).parts[2] for path in ours} == {".venv", "__pycache__", "gunicorn.conf.py", "src"}
    tools = {
        f"{folder}/{tool}" for folder in ("/bin", "/usr/bin", "/usr/local/bin") for tool in ("uv", "uvx", "gcc", "cc")
    }
    assert not tools & set(listing)
    debugged = "grep --files-with-matches [.]debug_info /app/.venv/lib/*/*/uvloop/*.so || [ $? = 1 ]"
    assert container.execute("sh", "-c", debugged) == ""
    unwanted = {"secret.pem", "tls.key", "Dockerfile", ".env", "video.bin", "main.pyc"}
    assert [path for path in listing if Path(path).name in unwanted] == []
    assert not [path for path in listing if re.search(r"/\.git(/|$)|/\.cache/(uv|pip)|^/app/(tests|pyproject)", path)]
    assert container.execute("sh", "-c", "find /app -writable") == ""
    assert container.inspect("{{.Config.User}}") == "1000:1000"
    assert container.execute("id", "-u", "-n") == "appuser"


def layers(image: str) -> dict[str, list[tarfile.TarInfo]]:
    """Return what is in each layer of an image by its digest, the base image's first."""
    return {digest: layer.getmembers() for digest, layer in saved_layers(image)}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_commit_gives_the_same_layers_on_every_day_and_machine(
    render: Render, tmp_path: Path, image: str, runtime: str
) -> None:
    """Whatever modes and dates a checkout has; no date in a layer is the build's."""
    repository = shutil.copytree(render(runtime=runtime), tmp_path / "repository")
    package = repository / "src/my_service"
    (package / "linked").symlink_to("routers")
    (package / "tool").touch(0o700)
    run("make", "uv.lock", cwd=repository)
    built = []
    # The other stages of minimal are those of slim.
    again = {"slim": "--no-cache", "minimal": "--no-cache-filter=source,system,runtime"}[runtime]
    for cached in ([], [again]):
        run("docker", "build", *cached, "-t", image, ".", cwd=repository)
        built.append(layers(image))
        for path in (repository / "src").rglob("*"):
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (1, 1))
    first, second = built
    assert list(first) == list(second)
    base = (layers("python:3.14-slim-trixie") if runtime == "slim" else {}).keys()
    *ours, ops, code = (layer for layer in first if layer not in base)
    assert [member.name for layer in ours for member in first[layer] if member.mtime] == []
    assert [member.name for layer in (ops, code) for member in first[layer] if member.mtime < 1e9] == []
    names = {member.name.partition("/")[0] for layer in ours for member in first[layer]}
    assert {"app", "etc", "usr"} <= names
    run("docker", "run", "--rm", image, "python", "-c", USE_SOURCE)


def test_a_changed_file_has_another_date_and_pushes_a_few_kilobytes(default_repository: Path, image: str) -> None:
    """Web servers make ETags of a file's date and length; Starlette does."""
    page = default_repository / "src/my_service/page.html"
    etag = (
        "import os; from starlette.responses import FileResponse as File; path = '/app/src/my_service/page.html';"
        "print(File(path, stat_result=os.stat(path)).headers['etag'])"
    )
    tags, built = [], []
    for text in ("one", "two", "one"):
        page.write_text(text)
        run("docker", "build", "-t", image, ".", cwd=default_repository)
        tags.append(docker("run", "--rm", image, "python", "-c", etag))
        built.append(set(json.loads(docker("inspect", "--format={{json .RootFS.Layers}}", image))))
        if text == "two":
            (changed,) = built[1] - built[0]
            size = layer_size(image, changed)
    assert tags[0] == tags[2] != tags[1]
    assert built[0] == built[2]
    print(f"pushed after a change: {size} bytes")
    assert size < 6000


def layer_size(image: str, wanted: str) -> int:
    """Return the compressed size of a layer."""
    (size,) = (len(gzip.compress(file.read())) for digest, file in saved_files(image) if digest == wanted)
    return size


def test_no_program_of_the_slim_image_runs_as_another_user(build: Build) -> None:
    find = ("find", "/", "-xdev", "-type", "f", "-perm", "/6000")
    assert docker("run", "--rm", "python:3.14-slim-trixie", *find) != ""
    assert docker("run", "--rm", "--user=0", build(), *find) == ""


def test_the_minimal_image_has_what_python_needs_and_no_shell(build: Build, start: Start) -> None:
    container = start(build(runtime="minimal"))
    container.wait_until_healthy()
    files = set(container.files())
    assert {path for path in files if re.match("(usr/(local/)?)?s?bin/[^/]", path)} <= {
        f"usr/{folder}bin/python{version}" for folder in ("", "local/") for version in ("", "3", "3.14")
    }
    assert not [path for path in files if re.search(r"(^|/)(apt|pip|ensurepip|test)/", path)]
    assert container.execute("python", "-c", STANDARD_LIBRARY) == "appuser CEST 443 True"
    assert container.execute("python", "-c", "import os; print(os.access('/app', os.W_OK))") == "False"


def test_the_minimal_image_tells_scanners_its_debian_packages(build: Build, start: Start, tmp_path: Path) -> None:
    """As distroless images do: Debian's release, and what dpkg knows of the package of each shared library."""
    container = start(build(runtime="minimal"))
    for path in ("/var/lib/dpkg/status.d", "/usr/lib/os-release"):
        run("docker", "cp", f"{container.name}:{path}", tmp_path)
    assert re.search("^ID=debian$", (tmp_path / "os-release").read_text(), re.MULTILINE)
    said = {}
    for file in (tmp_path / "status.d").iterdir():
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", file.read_text(), re.MULTILINE))
        assert fields["Package"] == file.name
        assert fields["Status"] == "install ok installed"
        said[file.name] = fields["Version"]

    libraries = [path for path in container.files() if re.match(r"usr/lib/[^/]+-linux-gnu/.*[.]so", path)]
    assert len(libraries) > 15
    base = ("docker", "run", "--rm", "python:3.14-slim-trixie")
    found = run(*base, "dpkg", "--search", *(f"*/{Path(path).name}" for path in libraries)).stdout
    packages = {line.partition(":")[0] for line in found.splitlines() if not line.startswith("diversion ")}
    versions = run(*base, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n").stdout
    installed = dict(line.split() for line in versions.splitlines())
    assert said == {name: installed[name] for name in packages | {"ca-certificates", "netbase", "tzdata"}}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_packages_with_compiled_parts_work(render: Render, tmp_path: Path, image: str, runtime: str) -> None:
    repository = shutil.copytree(render(runtime=runtime), tmp_path / "natives")
    project = repository / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", f"dependencies = {json.dumps(NATIVES)}"))
    run("docker", "build", "-t", image, ".", cwd=repository)
    printed = run("docker", "run", "--rm", "--read-only", "--tmpfs=/tmp", image, "python", "-c", USE_NATIVES).stdout
    assert printed.splitlines()[-1] == "all used"


@pytest.mark.parametrize("file", ["slim", "minimal", "Dockerfile.dev"])
def test_system_packages_are_in_every_image(render: Render, image: str, file: str) -> None:
    """A program and a library, with the libraries that these need; slim's runtime is the stage that has them."""
    repository = render(system_packages="jq libpq5", runtime="minimal" if file == "minimal" else "slim")
    stages = {"slim": ("--target=python",), "minimal": (), "Dockerfile.dev": ("--target=uv", "--file=Dockerfile.dev")}
    run("docker", "build", *stages[file], "-t", image, ".", cwd=repository)
    assert run("docker", "run", "--rm", "--read-only", image, "python", "-c", USE_SYSTEM_PACKAGES).stdout == "7\n"


def test_ci_builds_on_the_newest_base_images(default: Path) -> None:
    assert "--pull" in run("make", "--dry-run", "build", "PULL=yes", cwd=default).stdout
    assert "--pull" not in run("make", "--dry-run", "build", cwd=default).stdout


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


# An image as companies make them: Debian-like, with another user and another entry point, and Python in its own place.
HARDENED = """\
FROM docker.io/library/python:3.14-slim-trixie AS whole
RUN mkdir /opt/python && cp --archive /usr/local/. /opt/python/ && rm -r /usr/local/bin/*
ENV PATH=/opt/python/bin:/usr/local/bin:/usr/sbin:/usr/bin LD_LIBRARY_PATH=/opt/python/lib
RUN useradd --uid 65532 nonroot
USER nonroot
ENTRYPOINT ["python"]

FROM whole AS without-shell
USER root
RUN ["python", "-c", "import os; [os.remove(f'/usr/bin/{name}') for name in ('sh', 'dash', 'bash')]"]
USER nonroot
"""


@pytest.fixture
def hardened(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The names of such an image, and of the same without a shell."""
    names = {stage: f"registry.example.com/{uuid.uuid4().hex[:8]}:3.14" for stage in ("whole", "without-shell")}
    (tmp_path / "Dockerfile").write_text(HARDENED)
    for stage, name in names.items():
        run("docker", "build", "--quiet", "--target", stage, "--tag", name, ".", cwd=tmp_path)
    yield names["whole"], names["without-shell"]
    run("docker", "image", "rm", "--force", *names.values())


def test_both_images_can_begin_with_others_and_the_last_needs_no_shell(
    render: Render, start: Start, image: str, hardened: tuple[str, str]
) -> None:
    whole, without_shell = hardened
    repository = render(base_image=whole, final_image=without_shell)
    run("make", "build", f"IMAGE={image}", cwd=repository)
    container = start(image, "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp")
    container.wait_until_healthy()
    assert container.get("/hello/Ada") == {"message": "Hello, Ada!"}
    with pytest.raises(subprocess.CalledProcessError):
        container.execute("sh", "-c", "true")
    assert container.execute("id", "-u") == "1000"
    run("docker", "build", "--quiet", "--file", "Dockerfile.dev", "--target", "service", ".", cwd=repository)
    logins = (repository / ".github/workflows/ci.yml").read_text()
    assert "docker login" in logins
    assert "registry.example.com" in logins
