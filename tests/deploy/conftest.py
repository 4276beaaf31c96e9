"""A registry that asks for no password, AWS's API by moto, and stand-ins for the commands that cannot be here."""

import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.project import commit, run, wait_until
from tests.registry import REGISTRY

# Speaks ECR's real protocol, by botocore, and knows the one command that is needed.
AWS = f"""#!{sys.executable}
import base64, sys
import botocore.exceptions, botocore.session
if sys.argv[1:] != ["ecr", "get-login-password", "--region", "us-east-1"]:
    sys.exit(f"aws: error: argument command: Invalid choice: {{sys.argv[1:]}}")
try:
    client = botocore.session.get_session().create_client("ecr", region_name=sys.argv[4])
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
except botocore.exceptions.BotoCoreError as error:
    print(error, file=sys.stderr)
    sys.exit(255)
print(base64.b64decode(token).decode().removeprefix("AWS:"))
"""

# As strict as what is publicly known of it: one verb, its flags in this order, a manifest, an image by digest.
FSD = f"""#!{sys.executable}
import os, re, sys, yaml
match sys.argv[1:]:
    case ["deploy", "--env", "dev" | "stage" | "preprod" | "prod" as env, "--file", file, "--image", image]: pass
    case other: sys.exit(f"fsd: unknown arguments {{other}}")
manifest = yaml.safe_load(open(file))
assert manifest["apiVersion"] == "fsd/v1" and manifest["kind"] == "Service", "not a manifest"
assert file == manifest["metadata"]["name"] + ".yml", "the manifest is not called like the service"
assert re.fullmatch(r"[a-z0-9.:-]+/" + manifest["metadata"]["name"] + "@sha256:[0-9a-f]{{64}}", image), image
if os.environ.get("FSD_FAILS"): sys.exit("fsd: the deployment has failed")
print(f"fsd {{env}} {{image}}")
"""


@dataclass
class Service:
    """A rendered repository with a Git history."""

    path: Path
    name: str

    def make(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run make; stdout and stderr are apart, since a digest is on the one and progress on the other."""
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=self.path, env=os.environ | env, text=True, capture_output=True)


def is_open(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)):
        return True


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of AWS's API, as moto plays it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (tmp_path_factory.mktemp("moto") / "log").open("w") as log:
        server = subprocess.Popen(["moto_server", "--port", str(port)], stdout=log, stderr=log)
        wait_until(lambda: is_open(port))
        yield f"http://127.0.0.1:{port}"
        server.terminate()
        server.wait()


@pytest.fixture
def service(
    engine: None, moto: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A committed, locked service of its own name, with `aws` and `fsd` on the PATH."""
    (tmp_path / "bin").mkdir()
    for name, script in {"aws": AWS, "fsd": FSD}.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    for credential in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(credential, "testing")
    monkeypatch.setenv("REGISTRY", REGISTRY)

    name = f"push-{uuid.uuid4().hex[:8].translate(str.maketrans('0123456789', 'ghijklmnop'))}"
    path = tmp_path / name
    shutil.copytree(render(service_name=name, aws_account_id="111122223333"), path)
    run("make", "uv.lock", cwd=path)
    commit(path)
    yield Service(path, name)
    images = run("docker", "images", "--quiet", f"{REGISTRY}/{name}").stdout.split()
    subprocess.run(["docker", "image", "rm", "--force", *set(images)], capture_output=True)
