"""`make deploy` where CloudFormation deploys: the real AWS CLI, and stand-ins for CloudFormation and ECS."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.deploy.account import NEW, OLD, Account, image_of
from tests.deploy.cloudformation import CloudFormation, Loader, Query, Stack, asked
from tests.deploy.operating import Operated, operate
from tests.support.commands import commit, edit
from tests.support.template import Render

ROLE = "arn:aws:iam::111122223333:role/cloudformation"
PARAMETERS = "# Made by the network's owners\nVpcId=vpc-1\nSubnetIds=subnet-1,subnet-2\n\nClusterName=main"
NAME = "my-service-qa-2"


class Slow(CloudFormation):
    """A deployment goes on until it is cancelled; `operated` is the service whose new tasks fail meanwhile."""

    operated: Operated

    def execute_change_set(self, query: Query) -> str:
        stack = self.stack(query["StackName"])
        stack.status = "UPDATE_IN_PROGRESS" if stack.parameters else "CREATE_IN_PROGRESS"
        self.operated.account.outcome = "crashing"
        self.operated.account.release(stack.planned["ImageUri"])
        return ""

    def cancel_update_stack(self, query: Query) -> str:
        stack = self.stack(query["StackName"])
        assert stack.status == "UPDATE_IN_PROGRESS"
        stack.status = "UPDATE_ROLLBACK_COMPLETE"
        stack.events.append(("2099-01-01T00:00:00Z", "Service", "UPDATE_FAILED", "Resource update cancelled"))
        return ""


@pytest.fixture
def made(request: pytest.FixtureRequest) -> CloudFormation:
    """CloudFormation with the stack that sets up the environment qa-2."""
    kind: type[CloudFormation] = getattr(request, "param", CloudFormation)
    return kind({f"{NAME}-environment": Stack("CREATE_COMPLETE", {"CloudFormationRoleArn": ROLE})})


@pytest.fixture
def cloudformation(made: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudFormation]:
    with asked(made, monkeypatch):
        yield made


def operated_by(render: Render, folder: Path, cloudformation: CloudFormation, **answers: str) -> Operated:
    """The service with its parameters for qa-2, which runs what CloudFormation deploys."""
    account = Account(real=True)
    account.service["serviceName"] = NAME
    rendered = render(aws_account_id="111122223333", deploy="cloudformation", **answers)
    operated = operate(rendered, folder, account, str(Path(sys.executable).parent / "aws"))
    cloudformation.deployed = lambda parameters: account.release(parameters["ImageUri"])
    (operated.path / "deploy/qa-2.parameters").write_text(PARAMETERS)
    return operated


@pytest.fixture
def operated(render: Render, tmp_path: Path, cloudformation: CloudFormation) -> Operated:
    return operated_by(render, tmp_path, cloudformation)


def test_a_commit_is_deployed_with_its_own_template(operated: Operated, cloudformation: CloudFormation) -> None:
    before = commit(operated.path)
    edit(operated.path / "deploy/service.yml", "\nParameters:\n", "\nParameters:\n  Fresh: {Type: String}\n")
    (operated.path / "deploy/qa-2.parameters").write_text(f"{PARAMETERS}\nFresh=1")
    after = commit(operated.path)
    for each, fresh in ((after, True), (before, False)):
        done = operated.run("deploy", "qa-2", each)
        assert done.returncode == 0, done.stderr
        assert ("Fresh" in cloudformation.stacks[NAME].parameters) == fresh
        said = f"Taking deploy/service.yml of commit {before}, which differs from this one's.\n"
        assert (said in done.stderr) != fresh


def test_a_first_deployment_that_failed_is_repeated(operated: Operated, cloudformation: CloudFormation) -> None:
    cloudformation.fails = "LoadBalancer"
    failed = operated.run("deploy", "qa-2", NEW)
    assert failed.returncode != 0
    assert "LoadBalancer: Resource handler returned message: LoadBalancer cannot be made" in failed.stderr
    assert cloudformation.stacks[NAME].status == "ROLLBACK_COMPLETE"

    cloudformation.fails = ""
    done = operated.run("deploy", "qa-2", NEW)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "http://lb.example.com\n"
    assert done.stderr.splitlines()[-1] == f"Commit {NEW} serves in qa-2."
    made = cloudformation.stacks[NAME]
    assert (made.status, made.role) == ("CREATE_COMPLETE", ROLE)
    assert made.parameters["ImageUri"] == image_of(NEW)
    given = {"Environment": "qa-2", "VpcId": "vpc-1", "SubnetIds": "subnet-1,subnet-2", "ClusterName": "main"}
    assert given.items() <= made.parameters.items()

    # A failed update is undone by CloudFormation, keeps the stack, and shows nothing that failed earlier.
    cloudformation.fails = "Service"
    failed = operated.run("deploy", "qa-2", OLD)
    assert failed.returncode != 0
    assert "Service: Resource handler" in failed.stderr
    assert "of long ago" not in failed.stderr
    assert made.status == "UPDATE_ROLLBACK_COMPLETE"

    # A rollback that failed is continued by the next deployment.
    cloudformation.fails, cloudformation.breaks = "", True
    (operated.path / "deploy/qa-2.parameters").write_text(f"{PARAMETERS}\nMinTasks=3")
    failed = operated.run("deploy", "qa-2", NEW)
    assert "A listener exists on this port" in failed.stderr
    assert "CloudFormation cannot undo it (UPDATE_ROLLBACK_FAILED)" in failed.stderr
    failed = operated.run("deploy", "qa-2", NEW)
    assert "The last deployment cannot be undone" in failed.stderr
    cloudformation.breaks = False
    done = operated.run("deploy", "qa-2", OLD)
    assert done.returncode == 0, done.stderr
    assert made.status == "UPDATE_COMPLETE"
    assert 'Changed: MinTasks is "3", and was "2".' in done.stderr

    # A rollback deploys the commit that ran before.
    done = operated.run("rollback", "qa-2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == f"Rolling back from commit {OLD} to {NEW}."

    # What was called is what the role of a GitHub environment may call; for a task, see test_permissions.py.
    may = allowed(operated)
    called = {f"cloudformation:{action}" for action in cloudformation.calls}
    assert called == {action for action in may if action.startswith("cloudformation:")}
    assert set(operated.account.calls) <= may


def allowed(operated: Operated) -> set[str]:
    """Return what the role of a GitHub environment may call."""
    environment = yaml.load((operated.path / "deploy/environment.yml").read_text(), Loader)
    statements = environment["Resources"]["DeployRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    actions = [each["Action"] for each in statements]
    return {action for each in actions for action in ([each] if isinstance(each, str) else each)}


@pytest.mark.parametrize("made", [Slow], indirect=True)
@pytest.mark.parametrize("first", [False, True])
def test_a_canary_whose_image_never_starts_is_cancelled(
    render: Render, tmp_path: Path, cloudformation: Slow, first: bool
) -> None:
    operated = operated_by(render, tmp_path, cloudformation, strategy="canary")
    cloudformation.operated, operated.account.service["deploymentConfiguration"] = operated, {"strategy": "CANARY"}
    if first:
        operated.account.service["status"] = "INACTIVE"
    else:
        values = dict(line.split("=") for line in PARAMETERS.splitlines() if "=" in line)
        cloudformation.stacks[NAME] = Stack("UPDATE_COMPLETE", parameters=values)
    done = operated.run("deploy", "qa-2", NEW)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert "A new task: it ended by itself with exit code 1" in said
    assert "The new tasks fail: cancelling the deployment." in said
    if first:
        assert NAME not in cloudformation.stacks
        assert said[-1] == "Nothing has been deployed; the reason is above."
    else:
        assert cloudformation.stacks[NAME].status == "UPDATE_ROLLBACK_COMPLETE"
        assert said[-2:] == [
            "Service: Resource update cancelled",
            "The deployment has failed, and CloudFormation has undone it.",
        ]
    called = {f"cloudformation:{action}" for action in cloudformation.calls} | set(operated.account.calls)
    assert called <= allowed(operated)
    assert {"cloudformation:CancelUpdateStack", "cloudformation:DeleteStack"} & called


def test_deploy_refuses_what_it_cannot_deploy(operated: Operated, cloudformation: CloudFormation) -> None:
    assert "deploy/prod.parameters is missing" in operated.run("deploy", "prod", NEW).stderr
    (operated.path / "deploy/prod.parameters").write_text(PARAMETERS)
    assert "There is no stack my-service-prod-environment" in operated.run("deploy", "prod", NEW).stderr
    certificate = "\nCertificateArn=arn:aws:acm:us-east-1:111122223333:certificate/1"
    for wrong, said in (
        ("\nVpcId=10.0.0.0", "VpcId failed"),
        (certificate, "needs HostName"),
        ("\nVpc=1", "Vpc is no parameter"),
    ):
        (operated.path / "deploy/qa-2.parameters").write_text(PARAMETERS + wrong)
        refused = operated.run("deploy", "qa-2", NEW)
        assert refused.returncode != 0
        assert said in refused.stderr
    assert cloudformation.stacks.keys() == {f"{NAME}-environment"}


def test_deploy_waits_until_the_service_says_that_it_is_the_commit(
    operated: Operated, cloudformation: CloudFormation
) -> None:
    answers = iter([OLD, NEW, OLD])

    class Version(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health/version" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"version": next(answers, last)}, separators=(",", ":")).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Version)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    last = NEW
    done = operated.run("deploy", "qa-2", NEW, SERVICE_URL=url)
    assert done.returncode == 0, done.stderr
    assert next(answers, None) is None, "an old task answered, and nobody waited for the end of it"
    last = OLD
    late = operated.run("deploy", "qa-2", NEW, SERVICE_URL=url, WAIT_SECONDS="3")
    server.shutdown()
    assert late.returncode != 0
    assert f"does not run {NEW}: {OLD}" in late.stderr
