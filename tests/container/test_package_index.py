"""A private package index: behind a password, with a certificate authority of its own; the builds leak neither."""

import io
import secrets
import ssl
import tarfile
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.commands import run
from tests.support.containers import docker, saved_layers
from tests.support.template import Render

PASSWORD = "hunter2-of-the-index"
WHEEL = "private-1-py3-none-any.whl"
PATH = f"/{secrets.token_hex(8)}"  # of this run alone: a cached page or layer of an earlier one needs no password


@dataclass
class Index:
    """An index on this machine, and files for who may use it."""

    url: str
    netrc: Path
    ca: Path


def wheel() -> bytes:
    """Return a package of one module."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("private.py", "")
        file.writestr("private-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: private\nVersion: 1\n")
        file.writestr("private-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("private-1.dist-info/RECORD", "private.py,,\nprivate-1.dist-info/RECORD,,\n")
    return content.getvalue()


PAGES = {f"{PATH}/private/": f'<a href="/{WHEEL}">{WHEEL}</a>'.encode(), f"/{WHEEL}": wheel()}


class Handler(BaseHTTPRequestHandler):
    """Serve the one package to who has the password."""

    def do_GET(self) -> None:
        expected = "Basic " + b64encode(f"aws:{PASSWORD}".encode()).decode()
        body = PAGES.get(self.path, b"")
        self.send_response(401 if self.headers["Authorization"] != expected else 200 if body else 404)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index, served until the tests have ended."""
    folder = tmp_path_factory.mktemp("index")
    ca, ca_key, certificate, key = (folder / name for name in ("ca.pem", "ca.key", "server.pem", "server.key"))
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    run(*new, "-subj", "/CN=Test", "-keyout", ca_key, "-out", ca)
    run(*new, "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate, "-CA", ca, "-CAkey", ca_key,
        "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        netrc = folder / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login aws password {PASSWORD}\n")
        yield Index(f"https://127.0.0.1:{server.server_port}{PATH}", netrc, ca)
        server.shutdown()


@pytest.fixture
def repository(index: Index, render: Render) -> Path:
    """A service that needs nothing but the package of that index."""
    repository = render(package_index_url=index.url)
    project = repository / "pyproject.toml"
    head, _, tail = project.read_text().partition("[dependency-groups]\n")
    groups = '[dependency-groups]\nservice = ["private"]\ndev = []\n\n'
    project.write_text(head + groups + tail[tail.index("[tool.uv]") :])
    return repository


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.dev"])
def test_a_build_uses_the_secrets_and_keeps_none(repository: Path, index: Index, image: str, file: str) -> None:
    build = ["docker", "build", "--network=host", f"--file={file}", f"--tag={image}"]
    files = [f"--secret=id=netrc,src={index.netrc}", f"--secret=id=ca,src={index.ca}"]
    assert "401" in run(*build, files[1], ".", cwd=repository, check=False).stdout
    assert "certificate" in run(*build, files[0], ".", cwd=repository, check=False).stdout

    if file == "Dockerfile":
        said = run(*build, *files, "--target=builder", ".", cwd=repository).stdout
        assert "WARNING: there is no uv.lock" in said
        assert_without_secrets(image, index)
    run(*build, *files, ".", cwd=repository)
    assert_without_secrets(image, index)


def test_compose_builds_with_the_secrets_of_the_environment(repository: Path, index: Index) -> None:
    (repository / "compose.override.yaml").write_text("services: {api: {build: {network: host}}}\n")
    run("make", "engine", cwd=repository)
    build = ("docker", "compose", "build", "--no-cache", "api")
    try:
        run(*build, cwd=repository, NETRC=str(index.netrc), SSL_CERT_FILE=str(index.ca))
    finally:
        run("docker", "compose", "down", "--rmi=local", cwd=repository)


def assert_without_secrets(image: str, index: Index) -> None:
    """Look for the secrets in the history and in every file of every layer; what was installed must be found."""
    authority = "".join(index.ca.read_text().splitlines()[1:3])
    history = docker("history", "--no-trunc", image) + docker("inspect", image)
    assert PASSWORD not in history
    found = set()
    for _, layer in saved_layers(image):
        for file in filter(tarfile.TarInfo.isfile, layer):
            content = (layer.extractfile(file) or io.BytesIO()).read()
            assert PASSWORD.encode() not in content, file.name
            assert authority[:60].encode() not in content, file.name
            found.add(Path(file.name).name)
    assert "private.py" in found, "what was installed is not looked at"
