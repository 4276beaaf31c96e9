"""`make deploy` of a service with a database: first the migrations, then the tasks that need them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.deploy.account import ARM, NEW, Account, image_of
from tests.deploy.cloudformation import CloudFormation, Query, Stack, asked
from tests.deploy.operating import Operated, operate
from tests.deploy.stack import make
from tests.support.commands import edit
from tests.support.template import Render

PARAMETERS = {
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "ClusterName": "main",
    "DatabaseHost": "new.example.com",
}
HOST = {"name": "DATABASE_HOST", "value": "old.example.com"}


def account_with_database(real: bool = False) -> Account:
    account = Account(real=real)
    account.container["environment"].append(HOST)
    return account


def order(account: Account) -> list[str]:
    """Return when commands ran and when the service was deployed."""
    names = {"ecs:RunTask": "migrate", "fsd": "deploy", "ecs:UpdateService": "deploy"}
    return [names[call] for call in account.calls if call in names]


def exits(code: int) -> dict[str, object]:
    return {"containers": [{"name": "my-service", "exitCode": code}]}


@pytest.mark.parametrize("deploy", ["fsd", "ecs"])
@pytest.mark.parametrize(
    ("exit_code", "expected", "said"),
    [
        (0, ["migrate", "deploy"], f"Commit {NEW} serves in stage."),
        (1, ["migrate"], "The migration has failed, so nothing is deployed."),
    ],
)
def test_a_deployment_migrates_first_and_ends_when_that_fails(
    render: Render, tmp_path: Path, deploy: str, exit_code: int, expected: list[str], said: str
) -> None:
    account = account_with_database()
    account.ends = [exits(exit_code)]
    operated = operate(render(aws_account_id="111122223333", database="postgres", deploy=deploy), tmp_path, account)
    done = operated.run("deploy", "stage", NEW)
    assert done.stderr.splitlines()[-1] == said
    assert (done.returncode, order(account)) == (exit_code, expected)
    (container,) = account.ran[0]["definition"]["containerDefinitions"]
    assert container["command"] == ["python", "-m", "my_service.ops.migrate"]
    assert container["image"] == image_of(NEW)


@pytest.mark.parametrize("deploy", ["fsd", "ecs"])
def test_the_first_image_for_another_processor_is_migrated_and_runs_on_it(
    render: Render, tmp_path: Path, deploy: str
) -> None:
    account = account_with_database()
    account.ends = [exits(0)]
    operated = operate(render(aws_account_id="111122223333", database="postgres", deploy=deploy), tmp_path, account)
    done = operated.run("deploy", "stage", ARM)
    assert done.returncode == 0, done
    definitions = [account.ran[0]["definition"]]
    if deploy == "ecs":
        definitions.append(account.definitions[account.service["taskDefinition"]])
    assert [each.get("runtimePlatform", {}).get("cpuArchitecture") for each in definitions] == ["ARM64"] * len(
        definitions
    )


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [(0, f"Commit {NEW} serves in stage."), (1, "The migration has failed: deploy again once it can run.")],
)
def test_the_first_migration_follows_the_deployment_that_brings_the_database(
    render: Render, tmp_path: Path, exit_code: int, said: str
) -> None:
    account = Account(gains=[HOST])
    account.ends = [exits(exit_code)]
    operated = operate(render(aws_account_id="111122223333", database="postgres"), tmp_path, account)
    done = operated.run("deploy", "stage", NEW)
    assert done.stderr.splitlines()[-1] == said
    assert (done.returncode, order(account)) == (exit_code, ["deploy", "migrate"])


class Planning(CloudFormation):
    """It tells what a change set would make, too."""

    template: Path

    def describe_change_set(self, query: Query) -> str:
        planned = make(self.template, self.stack(query["StackName"]).planned)["TaskDefinition"]
        after = escape(json.dumps({"Properties": planned.properties}))
        change = f"<LogicalResourceId>TaskDefinition</LogicalResourceId><AfterContext>{after}</AfterContext>"
        changes = f"<Changes><member><ResourceChange>{change}</ResourceChange></member></Changes>"
        return super().describe_change_set(query) + (changes if "IncludePropertyValues" in query else "")


@pytest.fixture
def operated(render: Render, tmp_path: Path) -> Operated:
    """A service that CloudFormation deploys, and that runs with another database."""
    rendered = render(aws_account_id="111122223333", database="postgres", deploy="cloudformation")
    operated = operate(rendered, tmp_path, account_with_database(real=True), str(Path(sys.executable).parent / "aws"))
    lines = "".join(f"{name}={value}\n" for name, value in PARAMETERS.items())
    (operated.path / "deploy/stage.parameters").write_text(lines)
    return operated


@pytest.fixture
def cloudformation(operated: Operated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planning]:
    role = {"CloudFormationRoleArn": "arn:aws:iam::111122223333:role/cloudformation"}
    made = Planning({"my-service-stage-environment": Stack("CREATE_COMPLETE", role)})
    made.template = operated.path / "deploy/service.yml"
    made.stacks["my-service-stage"] = Stack(
        "UPDATE_COMPLETE", parameters=PARAMETERS | {"DatabaseHost": "old.example.com"}
    )
    made.deployed = lambda parameters: operated.account.release(parameters["ImageUri"])
    with asked(made, monkeypatch):
        yield made


def test_a_migration_gets_the_variables_that_are_about_to_be_deployed(
    operated: Operated, cloudformation: Planning
) -> None:
    edit(
        cloudformation.template,
        "            - Name: LOG_LEVEL\n",
        "            - {Name: PAYMENTS_URL, Value: !Ref DatabaseName}\n            - Name: LOG_LEVEL\n",
    )
    container = operated.account.container
    container["environment"].append({"name": "GONE", "value": "1"})
    container["secrets"] = [{"name": "PAYMENTS_URL", "valueFrom": "arn:1"}, {"name": "KEY", "valueFrom": "arn:2"}]
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 0, done.stderr
    assert cloudformation.stacks["my-service-stage"].parameters["DatabaseHost"] == "new.example.com"
    (ran,) = operated.account.ran
    (container,) = ran["definition"]["containerDefinitions"]
    variables = {each["name"]: each["value"] for each in container["environment"]}
    assert variables.items() >= {"DATABASE_HOST": "new.example.com", "PAYMENTS_URL": "my_service"}.items()
    assert "GONE" not in variables
    assert container["secrets"] == [{"name": "KEY", "valueFrom": "arn:2"}]


def test_nothing_is_migrated_where_cloudformation_refuses_the_deployment(
    operated: Operated, cloudformation: Planning
) -> None:
    edit(operated.path / "deploy/stage.parameters", "VpcId=vpc-1", "VpcId=vpc-1\nLoadBalancerIngress=everybody")
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == "Nothing has been deployed; the reason is above."
    assert not operated.account.ran


def test_a_migration_that_needs_the_new_role_runs_after_the_deployment(
    operated: Operated, cloudformation: Planning
) -> None:
    done = operated.run("deploy", "stage", NEW, MIGRATE="after")
    assert done.returncode == 0, done.stderr
    assert done.stderr.index("Deploying") < done.stderr.index("Migrating")
    (ran,) = operated.account.ran
    assert HOST in ran["definition"]["containerDefinitions"][0]["environment"]  # as it runs now
