"""`make deploy` where CloudFormation deploys: the real AWS CLI, a real registry, and a stand-in for CloudFormation."""

import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator

import pytest
import yaml

from tests.deploy.cloudformation import CloudFormation, Loader, Stack, serve
from tests.deploy.service import Service
from tests.support.commands import commit, run
from tests.support.registry import REGISTRY
from tests.support.template import Render

ROLE = "arn:aws:iam::111122223333:role/cloudformation"
PARAMETERS = "# Made by the network's owners\nVpcId=vpc-1\nSubnetIds=subnet-1,subnet-2\n\nClusterName=main"


@pytest.fixture
def cloudformation(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudFormation]:
    """CloudFormation with the stack that sets up the environment qa-2."""
    made = CloudFormation(
        {f"{service.name}-qa-2-environment": Stack("CREATE_COMPLETE", {"CloudFormationRoleArn": ROLE})}
    )
    server = serve(made)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{server.server_port}")
    yield made
    server.shutdown()


@pytest.fixture
def stack(service: Service, render: Render) -> Service:
    """The service, deployed by CloudFormation, with its parameters for qa-2."""
    names = {"service_name": service.name, "package_name": "my_service"}
    rendered = render(**names, aws_account_id="111122223333", deploy="cloudformation")
    for folder in ("deploy", "ops/deployment"):
        shutil.rmtree(service.path / folder, ignore_errors=True)
        shutil.copytree(rendered / folder, service.path / folder)
    (service.path / "deploy/qa-2.parameters").write_text(PARAMETERS)
    commit(service.path, "Deploy by CloudFormation")
    return service


def test_a_first_deployment_that_failed_is_repeated(stack: Service, cloudformation: CloudFormation) -> None:
    name = f"{stack.name}-qa-2"
    cloudformation.fails = "LoadBalancer"
    failed = stack.make("deploy", "ENV=qa-2")
    assert failed.returncode != 0
    assert "LoadBalancer\tResource handler returned message: LoadBalancer cannot be made" in failed.stderr
    assert cloudformation.stacks[name].status == "ROLLBACK_COMPLETE"

    cloudformation.fails = ""
    done = stack.make("deploy", "ENV=qa-2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "http://lb.example.com\n"
    made = cloudformation.stacks[name]
    assert (made.status, made.role) == ("CREATE_COMPLETE", ROLE)
    image = made.parameters["ImageUri"]
    assert re.fullmatch(rf"{REGISTRY}/{stack.name}@sha256:[0-9a-f]{{64}}", image)
    given = {"Environment": "qa-2", "VpcId": "vpc-1", "SubnetIds": "subnet-1,subnet-2", "ClusterName": "main"}
    assert given.items() <= made.parameters.items()

    # A failed update is undone by CloudFormation, keeps the stack, and shows nothing that failed earlier.
    cloudformation.fails = "Service"
    failed = stack.make("deploy", "ENV=qa-2")
    assert failed.returncode != 0
    assert "Service\tResource handler" in failed.stderr
    assert "of long ago" not in failed.stderr
    assert made.status == "UPDATE_ROLLBACK_COMPLETE"
    cloudformation.fails = ""
    assert stack.make("deploy", "ENV=qa-2").returncode == 0

    # A rollback that failed is continued by the next deployment.
    cloudformation.breaks = True
    (stack.path / "deploy/qa-2.parameters").write_text(f"{PARAMETERS}\nMinTasks=3")
    commit(stack.path)
    failed = stack.make("deploy", "ENV=qa-2")
    assert "A listener exists on this port" in failed.stderr
    assert "CloudFormation cannot undo it (UPDATE_ROLLBACK_FAILED)" in failed.stderr
    failed = stack.make("deploy", "ENV=qa-2")
    assert "The last deployment cannot be undone" in failed.stderr
    cloudformation.breaks = False
    done = stack.make("deploy", "ENV=qa-2")
    assert done.returncode == 0, done.stderr
    assert made.status == "UPDATE_COMPLETE"
    assert 'Changed: MinTasks is "3", and was "2".' in done.stderr

    # What was called is what the role of a GitHub environment may call.
    environment = yaml.load((stack.path / "deploy/environment.yml").read_text(), Loader)
    statements = environment["Resources"]["DeployRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    actions = [each["Action"] for each in statements]
    allowed = {action for each in actions for action in ([each] if isinstance(each, str) else each)}
    called = {f"cloudformation:{action}" for action in cloudformation.calls}
    assert called == {action for action in allowed if action.startswith("cloudformation:")}


def test_deploy_refuses_what_it_cannot_deploy(stack: Service, cloudformation: CloudFormation) -> None:
    assert "deploy/prod.parameters is missing" in stack.make("deploy", "ENV=prod").stderr
    (stack.path / "deploy/prod.parameters").write_text(PARAMETERS)
    assert f"Cannot read the stack {stack.name}-prod-environment" in stack.make("deploy", "ENV=prod").stderr
    certificate = "\nCertificateArn=arn:aws:acm:us-east-1:111122223333:certificate/1"
    for wrong, said in (
        ("\nVpcId=10.0.0.0", "VpcId failed"),
        (certificate, "needs HostName"),
        ("\nVpc=1", "Vpc is no parameter"),
    ):
        (stack.path / "deploy/qa-2.parameters").write_text(PARAMETERS + wrong)
        commit(stack.path)
        refused = stack.make("deploy", "ENV=qa-2")
        assert refused.returncode != 0
        assert said in refused.stderr
    assert cloudformation.stacks.keys() == {f"{stack.name}-qa-2-environment"}


def test_deploy_waits_until_the_service_says_that_it_is_the_commit(
    stack: Service, cloudformation: CloudFormation
) -> None:
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
    done = stack.make("deploy", "ENV=qa-2", SERVICE_URL=url)
    assert done.returncode == 0, done.stderr
    assert next(answers, None) is None, "an old task answered, and nobody waited for the end of it"
    last = "0" * 40
    late = stack.make("deploy", "ENV=qa-2", f"IMAGE_TAG={head}", SERVICE_URL=url, WAIT_SECONDS="3")
    assert late.returncode != 0
    assert f"does not run {head}" in late.stderr
