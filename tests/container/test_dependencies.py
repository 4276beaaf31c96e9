"""Dependencies that are no plain wheels: packages of the repository, of Git, and such that must be compiled."""

import os
import shutil
import ssl
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme

from tests.support.commands import commit, edit, run
from tests.support.containers import docker
from tests.support.documents import blocks
from tests.support.registry import REGISTRY, ask
from tests.support.template import PYTHON, ROOT, Render

PROJECT = """\
[project]
name = "{name}"
version = "1"
requires-python = ">=3.11"

[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"
"""
NATIVE = """\
from setuptools import Extension, setup

setup(ext_modules=[Extension("native", ["native.c"])])
"""
USE_NATIVE = """
import ctypes, importlib.util, shutil
print(ctypes.CDLL(importlib.util.find_spec("native").origin).seven(), shutil.which("gcc"))
"""


def python_package(folder: Path, name: str) -> Path:
    """Write a package of one module that says hello, and return its folder."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "pyproject.toml").write_text(PROJECT.format(name=name))
    (package / f"{name}.py").write_text('GREETING = "Hello"\n')
    return package


def native_package(folder: Path) -> None:
    package = python_package(folder, "native")
    (package / "native.py").unlink()
    (package / "setup.py").write_text(NATIVE)
    (package / "native.c").write_text("int seven(void) { return 7; }\n")


def refused(repository: Path, name: str) -> str:
    """Return the last line that `make add` says when it refuses; it must leave everything as it was."""
    before = (repository / "pyproject.toml").read_text()
    failed = run("make", "add", f"NAME={name}", "ON_HOST=", cwd=repository, check=False)
    assert failed.returncode != 0, failed.stdout
    assert (repository / "pyproject.toml").read_text() == before
    assert not (repository / "uv.lock").exists()
    return [line for line in failed.stdout.splitlines() if not line.startswith("make")][-1]


def in_image(image: str, code: str) -> str:
    return docker("run", "--rm", "--read-only", image, "python", "-c", code)


def test_a_package_in_libs_is_in_every_image_as_it_is_now(render: Render, image: str) -> None:
    repository = render()
    shared = python_package(repository / "libs", "shared")
    run("make", "add", "NAME=./libs/shared", "ON_HOST=", cwd=repository)
    named = f"IMAGE={image}"
    run("make", "build", named, cwd=repository)
    say = "import shared; print(shared.GREETING)"
    assert in_image(image, say) == "Hello"
    assert in_image(image, "import os; print(os.listdir('/app'))").count("libs") == 0

    (shared / "shared.py").write_text('GREETING = "Hallo"\n')
    run("make", "build", named, cwd=repository)
    assert in_image(image, say) == "Hallo"
    assert "Hallo" in run("bash", "ops/development/container", "service", "python", "-c", say, cwd=repository).stdout


def test_a_package_that_builds_do_not_see_is_refused(render: Render) -> None:
    repository = render()
    python_package(repository, "shared")
    assert "libs/" in refused(repository, "./shared")
    assert "libs/" in refused(repository, "../shared")


def test_a_package_that_is_compiled_needs_a_compiler_in_builds_alone(render: Render, image: str) -> None:
    repository = render()
    native_package(repository / "libs")
    assert 'build_packages="gcc libc6-dev"' in refused(repository, "./libs/native")

    repository = render(build_packages="gcc libc6-dev")
    native_package(repository / "libs")
    run("make", "add", "NAME=./libs/native", "ON_HOST=", cwd=repository)
    run("make", "build", f"IMAGE={image}", cwd=repository)
    assert in_image(image, USE_NATIVE) == "7 None"


class GitHandler(SimpleHTTPRequestHandler):
    """Serve files to who has the password."""

    def send_head(self) -> Any:
        if self.headers["Authorization"] == "Basic " + b64encode(b"ada:hunter2").decode():
            return super().send_head()
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def git_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A host with a package's Git repository, a certificate of its own and a password, which the environment names."""
    commit(python_package(tmp_path, "shared"))
    bare = tmp_path / "served/shared.git"
    run("git", "clone", "--quiet", "--bare", tmp_path / "shared", bare)
    run("git", "update-server-info", cwd=bare)
    address = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(address).configure_cert(context)
    certificates = tmp_path / "ca.crt"  # builds get packages, too
    certificates.write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes() + authority.cert_pem.bytes())
    (tmp_path / "netrc").write_text(f"machine {address} login ada password hunter2\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    with ThreadingHTTPServer((address, 0), partial(GitHandler, directory=str(bare.parent))) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"{address}:{server.server_port}"
        server.shutdown()


def test_a_package_of_a_git_repository_needs_git_in_builds_alone(render: Render, image: str, git_host: str) -> None:
    address = f"git+https://{git_host}/shared.git"
    assert "build_packages=git" in refused(render(), address)

    repository = render(build_packages="git")
    run("make", "add", f"NAME={address}", "ON_HOST=", cwd=repository)
    run("make", "build", f"IMAGE={image}", cwd=repository)
    assert in_image(image, "import shared, shutil; print(shutil.which('git'))") == "None"


def test_services_share_code_as_the_page_on_monorepos_says(render: Render, tmp_path: Path, image: str) -> None:
    (rule,) = blocks((ROOT / "docs/platform.md").read_text(), "make")
    service = shutil.copytree(render(), tmp_path / "services/orders")
    (service / "local.mk").write_text(rule)
    with (service / ".gitignore").open("a") as ignored:
        ignored.write("libs/shared/\n")
    shared = python_package(tmp_path / "libs", "shared")
    run("make", "add", "NAME=./libs/shared", "ON_HOST=", cwd=service)
    commit(tmp_path)
    (shared / "shared.py").write_text('GREETING = "Hallo"\n')
    run("make", "build", f"IMAGE={image}", cwd=service)
    assert in_image(image, "import shared; print(shared.GREETING)") == "Hallo"
    assert run("git", "status", "--porcelain", "--", ".", cwd=service).stdout == ""


@pytest.mark.parametrize("with_uv", [True, False], ids=["uv", "no uv"])
def test_no_lock_is_written_in_a_workspace_until_the_service_leaves_it(
    render: Render, tmp_path: Path, path_without_uv: str, with_uv: bool
) -> None:
    root = tmp_path / "mono"
    service = shutil.copytree(render(python_version=PYTHON), root / "services/orders")
    (root / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["services/*"]\n')
    path = os.environ["PATH"] if with_uv else path_without_uv
    for command in (("lock",), ("test",), ("add", "NAME=six"), ("build",)):
        failed = run("make", *command, cwd=service, check=False, PATH=path)
        assert failed.returncode != 0
        assert 'exclude = ["services/orders"]' in failed.stdout
    assert not list(root.rglob("uv.lock"))
    edit(root / "pyproject.toml", 'members = ["services/*"]', 'members = ["services/*"]\nexclude = ["services/orders"]')
    run("make", "lock", cwd=service, PATH=path)
    assert list(root.rglob("uv.lock")) == [service / "uv.lock"]


def test_a_lock_with_conflict_markers_is_resolved_by_the_command_that_is_said(render: Render) -> None:
    repository = render(python_version=PYTHON)
    run("make", "uv.lock", cwd=repository)
    commit(repository)
    for branch, name in (("theirs", "six"), ("ours", "iniconfig")):
        run("git", "checkout", "--quiet", "-b", branch, "HEAD" if branch == "theirs" else "HEAD~", cwd=repository)
        run("make", "add", f"NAME={name}", "ON_HOST=yes", cwd=repository)
        commit(repository)
    run("git", "merge", "theirs", cwd=repository, check=False)
    run("git", "checkout", "--quiet", "--theirs", "pyproject.toml", cwd=repository)
    failed = run("make", "lock", "ON_HOST=yes", cwd=repository, check=False)
    assert failed.returncode != 0
    (way_out,) = [line.partition("then lock: ")[2] for line in failed.stdout.splitlines() if "then lock: " in line]
    run("bash", "-euc", way_out, cwd=repository)
    assert '\nname = "six"\n' in (repository / "uv.lock").read_text()


def test_a_front_end_is_built_by_its_own_dockerfile(render: Render, image: str) -> None:
    repository = render()
    adopting = (ROOT / "docs/adopting.md").read_text().replace("src/orders", "src/my_service")
    (rules,) = blocks(adopting, "make")
    (dockerfile,) = blocks(adopting, "dockerfile")
    front_end = repository / "frontend"
    front_end.mkdir()
    (front_end / "Dockerfile").write_text(dockerfile)
    run("hadolint", "--failure-threshold", "style", "frontend/Dockerfile", cwd=repository)
    # Node's image is not here; the last stage is what the service sees.
    (front_end / "Dockerfile").write_text("FROM scratch\nCOPY index.html /\n")
    (repository / "local.mk").write_text(rules)
    (front_end / "an old page.html").touch()
    commit(repository)
    (front_end / "an old page.html").unlink()  # Git still has it
    for page in ("one", "two"):
        (front_end / "index.html").write_text(page)
        run("make", "build", f"IMAGE={image}", cwd=repository)
        assert docker("run", "--rm", image, "cat", "/app/src/my_service/static/index.html") == page
    static = repository / "src/my_service/static"
    assert static.stat().st_mode & 0o55 == 0o55, "the container's user may be another"
    (front_end / "node_modules/x").mkdir(parents=True)
    run("make", "build", f"IMAGE={image}", cwd=repository)
    (front_end / "node_modules/x/y.js").touch()
    assert "--output" not in run("make", "--dry-run", "build", cwd=repository).stdout


def test_make_lock_pins_the_images_whose_registry_answers(render: Render, tmp_path: Path) -> None:
    repository = shutil.copytree(render(python_version=PYTHON), tmp_path / "service")
    there = f"{REGISTRY}/pinned:1.2-a"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    run("docker", "build", "--quiet", "--tag", there, tmp_path)
    run("docker", "push", "--quiet", there)
    run("docker", "image", "rm", there)
    with ask("pinned/manifests/1.2-a") as response:
        digest = response.headers["Docker-Content-Digest"]
    python = f"docker.io/library/python:{PYTHON}-slim-trixie"
    for file in ("Dockerfile", "Dockerfile.dev"):
        edit(repository / file, python, there)
    for _ in range(2):  # the second time, there is a digest to replace
        run("make", "lock", cwd=repository)
        for file, stage in (("Dockerfile", "python"), ("Dockerfile.dev", "uv")):
            assert f"\nFROM {there}@{digest} AS {stage}\n" in (repository / file).read_text()
        edit(repository / "Dockerfile", digest, "sha256:" + "0" * 64)
    assert not list(repository.glob("*.old"))
    edit(repository / "Dockerfile", there, f"{REGISTRY}/not-there:1")
    before = (repository / "Dockerfile").read_text()
    run("make", "lock", cwd=repository)
    assert (repository / "Dockerfile").read_text() == before
