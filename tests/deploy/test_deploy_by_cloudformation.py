"""`make deploy` where CloudFormation deploys: what `aws` is asked to do."""

import http.server
import json
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.deploy.conftest import Service
from tests.project import commit, run
from tests.registry import REGISTRY

# In front of the other stand-in: prints what CloudFormation is asked for.
AWS = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1:3] != ["cloudformation", "deploy"]: os.execv(sys.argv[0] + "-ecr", sys.argv)
if os.environ.get("STACK_FAILS"): sys.exit("Failed to create/update the stack.")
print(json.dumps(sys.argv[3:]))
"""


@pytest.fixture
def stack(service: Service, render: Render, tmp_path: Path) -> Service:
    """The service, deployed by CloudFormation, with its parameters for stage."""
    rendered = render(service_name=service.name, aws_account_id="111122223333", deploy="cloudformation")
    shutil.rmtree(service.path / "deploy")
    shutil.copytree(rendered / "deploy", service.path / "deploy")
    parameters = "# Made by the network's owners\nVpcId=vpc-1\nSubnetIds=subnet-1,subnet-2\n\nClusterName=main\n"
    (service.path / "deploy/stage.parameters").write_text(parameters)
    commit(service.path, "Deploy by CloudFormation")
    aws = tmp_path / "bin/aws"
    aws.rename(tmp_path / "bin/aws-ecr")
    aws.write_text(AWS)
    aws.chmod(0o755)
    return service


def test_deploy_gives_cloudformation_the_pushed_digest_and_the_parameters(stack: Service) -> None:
    head = run("git", "rev-parse", "HEAD", cwd=stack.path).stdout.strip()
    role = "arn:aws:iam::111122223333:role/deployment"
    done = stack.make("deploy", "ENV=stage", DEPLOYMENT_ROLE_ARN=role)
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)
    overrides = asked[asked.index("--parameter-overrides") + 1 :]
    image = overrides[0].removeprefix("ImageUri=")
    assert re.fullmatch(rf"{REGISTRY}/{stack.name}@sha256:[0-9a-f]{{64}}", image)
    assert overrides[1:] == ["Environment=stage", "VpcId=vpc-1", "SubnetIds=subnet-1,subnet-2", "ClusterName=main"]
    flags = dict(zip(asked[:6:2], asked[1:6:2], strict=True))
    assert flags["--region"] == "us-east-1"
    assert flags["--stack-name"] == f"{stack.name}-stage"
    assert (stack.path / flags["--template-file"]).exists()
    assert asked[asked.index("--role-arn") + 1] == role

    missing = stack.make("deploy", "ENV=prod", f"IMAGE_TAG={head}")
    assert missing.returncode != 0
    assert missing.stderr.startswith("deploy/prod.parameters is missing")
    failed = stack.make("deploy", "ENV=stage", f"IMAGE_TAG={head}", STACK_FAILS="yes")
    assert failed.returncode != 0
    assert "Failed to create/update the stack" in failed.stderr


def test_deploy_waits_until_the_service_says_that_it_is_the_commit(stack: Service) -> None:
    head = run("git", "rev-parse", "HEAD", cwd=stack.path).stdout.strip()
    answers = iter(["0" * 40, head, "0" * 40])

    class Version(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health/version" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"version": next(answers, last)}, separators=(",", ":")).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Version)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    last = head
    done = stack.make("deploy", "ENV=stage", SERVICE_URL=url)
    assert done.returncode == 0, done.stderr
    assert next(answers, None) is None, "an old task answered, and nobody waited for the end of it"
    last = "0" * 40
    late = stack.make("deploy", "ENV=stage", f"IMAGE_TAG={head}", SERVICE_URL=url, WAIT_SECONDS="3")
    assert late.returncode != 0
    assert f"does not run {head}" in late.stderr
