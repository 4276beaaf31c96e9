"""The parameters of `make deploy`: the template's defaults and the environment's file, and what is said of them."""

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest

from tests.deploy.account import NEW, Account, image_of
from tests.deploy.cloudformation import CloudFormation, Stack, asked
from tests.deploy.operating import Operated, operate
from tests.support.commands import edit
from tests.support.template import Render

NAME = "my-service-qa-2"
ROLE = "arn:aws:iam::111122223333:role/cloudformation"
PARAMETERS = "# Made by the network's owners\nVpcId=vpc-1\nSubnetIds=subnet-1,subnet-2\n\nClusterName=main"
IMAGE = image_of(NEW)
# What moto can make, changed by every parameter that the test looks at.
TOPIC = """Resources:
  Topic:
    Type: AWS::SNS::Topic
    Properties:
      DisplayName: !Sub "${MinTasks} ${LoadBalancerIngress} ${ListenerPort}"
"""
ENVIRONMENT = f"""
Resources: {{Topic: {{Type: "AWS::SNS::Topic"}}}}
Outputs: {{CloudFormationRoleArn: {{Value: "{ROLE}"}}}}
"""


@pytest.fixture
def operated(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operated:
    """A service whose tasks run IMAGE already; the real `aws` asks CloudFormation."""
    account = Account(real=True)
    account.service["serviceName"] = NAME
    account.release(IMAGE)
    for credential in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(credential, "testing")
    rendered = render(deploy="cloudformation", aws_account_id="111122223333")
    return operate(rendered, tmp_path, account, str(Path(sys.executable).parent / "aws"))


@pytest.fixture
def repository(operated: Operated) -> Path:
    return operated.path


@pytest.fixture
def cloudformation(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudFormation]:
    """CloudFormation with the stack that sets up the environment qa-2."""
    made = CloudFormation({f"{NAME}-environment": Stack("CREATE_COMPLETE", {"CloudFormationRoleArn": ROLE})})
    with asked(made, monkeypatch):
        yield made


def deploy(operated: Operated, *lines: str, **env: str) -> tuple[int, str]:
    """Deploy with these lines in the environment's file; return the exit code and what was said."""
    (operated.path / "deploy/qa-2.parameters").write_text("\n".join((PARAMETERS, *lines)))
    done = operated.run("deploy", "qa-2", NEW, **env)
    return done.returncode, done.stderr


def changes(said: str) -> list[str]:
    return re.findall(r"^Changed: (.*)$", said, re.MULTILINE)


def test_a_line_that_goes_brings_the_default_back_and_a_changed_default_arrives(
    operated: Operated, repository: Path, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aws alone would keep the old values of both."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    api = botocore.session.get_session().create_client("cloudformation", region_name="us-east-1", endpoint_url=moto)
    api.create_stack(StackName=f"{NAME}-environment", TemplateBody=ENVIRONMENT)
    template = repository / "deploy/service.yml"
    text = template.read_text()
    template.write_text(text[: text.index("Rules:")] + TOPIC)

    code, said = deploy(operated, "LoadBalancerIngress=0.0.0.0/0")
    assert (code, changes(said)) == (0, []), said
    edit(template, "Default: 2\n", "Default: 3\n")
    code, said = deploy(operated)
    assert code == 0, said
    # moto returns a list as Python writes it.
    assert [line for line in changes(said) if "['" not in line] == [
        'MinTasks is "3", and was "2".',
        'LoadBalancerIngress is "10.0.0.0/8", and was "0.0.0.0/0".',
    ]
    (stack,) = api.describe_stacks(StackName=NAME)["Stacks"]
    values = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    assert values["MinTasks"] == "3"
    assert values["LoadBalancerIngress"] == "10.0.0.0/8"
    assert values["ImageUri"] == IMAGE


def test_a_stack_keeps_what_it_began_with(operated: Operated, repository: Path, cloudformation: CloudFormation) -> None:
    template = repository / "deploy/service.yml"
    for before, kept in (
        ({}, ("80", "8000,80")),
        ({"CertificateArn": "arn:aws:acm:us-east-1:111122223333:certificate/1"}, ("443", "8000,80")),
        ({"Scheme": "internet-facing"}, ("80", "80,8000")),
    ):
        # A stack that is older than these two parameters.
        old = dict(line.split("=") for line in PARAMETERS.splitlines() if "=" in line) | before
        cloudformation.stacks[NAME] = Stack("UPDATE_COMPLETE", parameters=old)
        assert deploy(operated)[0] == 0
        edit(template, "Default: 8000,80", "Default: 9000,80")
        assert deploy(operated)[0] == 0
        edit(template, "Default: 9000,80", "Default: 8000,80")
        now = cloudformation.stacks[NAME].parameters
        assert (now["ListenerPort"], now["TargetGroupPorts"]) == kept
    # All that a deployment makes has the tags of the stack.
    assert cloudformation.stacks[NAME].tags == {"pack": "my-pack", "environment": "qa-2"}


def test_the_network_of_a_stack_that_is_up_cannot_change(
    operated: Operated, repository: Path, cloudformation: CloudFormation
) -> None:
    assert deploy(operated)[0] == 0
    before = cloudformation.stacks[NAME].parameters
    listener = "arn:aws:elasticloadbalancing:us-east-1:111122223333:listener/app/shared/1/1"
    for name, value in (("ClusterName", "other"), ("VpcId", "vpc-2"), ("ListenerArn", listener)):
        code, said = deploy(operated, f"{name}={value}")
        assert code != 0
        assert f"{name} cannot change" in said
    edit(repository / "deploy/service.yml", "  VpcId:\n", "  Zone: {Type: String}\n  VpcId:\n")
    code, said = deploy(operated)
    assert code != 0
    assert "deploy/qa-2.parameters is wrong: Zone is missing." in said
    assert cloudformation.stacks[NAME].parameters == before


@pytest.mark.parametrize("environment", ["registry", "a-environment"])
def test_no_environment_has_the_name_of_another_stack(operated: Operated, environment: str) -> None:
    done = operated.run("deploy", environment)
    assert done.returncode != 0
    assert done.stderr.startswith("ENV cannot be registry or end in -environment: my-service-")


def test_it_says_what_is_true_of_a_busy_stack(
    operated: Operated, repository: Path, cloudformation: CloudFormation
) -> None:
    assert deploy(operated)[0] == 0
    made = cloudformation.stacks[NAME]
    busy = f"The stack {NAME} is busy (UPDATE_IN_PROGRESS). To stop it: "
    made.status = "UPDATE_IN_PROGRESS"
    code, said = deploy(operated, WAIT_SECONDS="1")
    assert code != 0
    assert busy in said
    threading.Timer(5, lambda: setattr(made, "status", "UPDATE_COMPLETE")).start()
    code, waited = deploy(operated)
    assert (code, waited.count(f"Waiting. {busy}")) == (0, 1)
    # Another deployment begins after the script has looked.
    made.status = "UPDATE_COMPLETE"
    cloudformation.taken = True
    code, late = deploy(operated)
    assert code != 0
    assert "is in UPDATE_IN_PROGRESS state and can not be updated" in late
    assert "This deployment has not ended, or another one is running." in late
    assert "undone" not in said + late


def test_what_is_refused_has_changed_nothing(
    operated: Operated, repository: Path, cloudformation: CloudFormation
) -> None:
    assert deploy(operated)[0] == 0
    cloudformation.stacks[NAME].status = "UPDATE_ROLLBACK_COMPLETE"  # of the deployment before
    code, said = deploy(operated, "LoadBalancerIngress=everybody")
    assert code != 0
    assert "LoadBalancerIngress failed to satisfy constraint" in said
    assert "Nothing has been deployed" in said
    assert "undone" not in said
