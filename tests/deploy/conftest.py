"""A registry that asks for no password, AWS's API by moto, and stand-ins for the commands that cannot be here."""

import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.service import Service
from tests.support.commands import commit, edit, free_port, run, wait_until
from tests.support.registry import REGISTRY
from tests.support.template import Render

# As strict as what is publicly known of it: one verb, its flags in this order, a manifest, an image by digest.
FSD = f"""#!{sys.executable}
import os, re, sys, yaml
match sys.argv[1:]:
    case ["deploy", "--env", env, "--file", file, "--image", image]: pass
    case other: sys.exit(f"fsd: unknown arguments {{other}}")
manifest = yaml.safe_load(open(file))
assert manifest["apiVersion"] == "fsd/v1" and manifest["kind"] == "Service", "not a manifest"
assert file == manifest["metadata"]["name"] + ".yml", "the manifest is not called like the service"
assert re.fullmatch(r"[a-z0-9.:-]+/" + manifest["metadata"]["name"] + "@sha256:[0-9a-f]{{64}}", image), image
if os.environ.get("FSD_FAILS"): sys.exit("fsd: the deployment has failed")
print(f"fsd {{env}} {{image}}")
"""


def is_open(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)):
        return True


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of AWS's API, as moto plays it, which takes any credentials."""
    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "log").open("w") as log:
        server = subprocess.Popen(["moto_server", "--port", str(port)], stdout=log, stderr=log)
        wait_until(lambda: is_open(port))
        with pytest.MonkeyPatch.context() as patch:
            for credential in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(credential, "testing")
            yield f"http://127.0.0.1:{port}"
        server.terminate()
        server.wait()


@pytest.fixture
def service(
    engine: None, moto: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A committed, locked service of its own name, with the real `aws` and a stand-in for `fsd` on the PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/fsd").write_text(FSD)
    (tmp_path / "bin/fsd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}", prepend=":")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("REGISTRY", REGISTRY)

    name = f"push-{uuid.uuid4().hex[:8].translate(str.maketrans('0123456789', 'ghijklmnop'))}"
    path = tmp_path / name
    shutil.copytree(render(service_name=name, package_name="my_service", aws_account_id="111122223333"), path)
    edit(path / "pyproject.toml", f'name = "{name}"', 'name = "my-service"')  # one layer of dependencies for all
    run("make", "uv.lock", cwd=path)
    commit(path)
    yield Service(path, name)
    images = run("docker", "images", "--quiet", f"{REGISTRY}/{name}").stdout.split()
    subprocess.run(["docker", "image", "rm", "--force", *set(images)], capture_output=True)
