"""The rights of CloudFormation's role are those that the resources of service.yml need, no more and no fewer."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from tests.deploy.cloudformation import Loader
from tests.deploy.stack import make
from tests.support.template import ROOT, Render

Facts = dict[str, Any]
GITHUB = ("GitHubOwner", "GitHubOwnerId", "GitHubRepository", "GitHubRepositoryId")
REQUIRED = ("ImageUri", "Environment", "VpcId", "SubnetIds", "ClusterName", "DatabaseHost")
ECS = "arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>:"
NAMES = dict.fromkeys((*GITHUB, *REQUIRED, "KafkaBrokers"), "x") | {"MskClusterArn": "a:cluster/b"}


@pytest.fixture(scope="module")
def facts() -> Facts:
    """What AWS's resource schemas say: actions by type and operation."""
    found: Facts = yaml.safe_load((ROOT / "tests/deploy/permissions.yml").read_text())
    return found


def needed(repository: Path, facts: Facts) -> set[str]:
    """Return every action that some operation on some resource of service.yml calls."""
    template = yaml.load((repository / "deploy/service.yml").read_text(), Loader)
    types = {resource["Type"] for resource in template["Resources"].values()}
    actions: set[str] = {action for name in types for calls in facts["types"][name].values() for action in calls}
    return (actions | {action for name in types for action in tagging(name)}) - set(facts["unused"])


def tagging(name: str) -> list[str]:
    """Return the actions that give a resource of a type the tags of its stack."""
    rules = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", name).schema.get("tagging", {})
    return list(rules["permissions"]) if rules.get("taggable") else []


def granted(environment: str, role: str = "CloudFormationRole") -> set[str]:
    """Return the actions that the role has; a pattern would hide what it grants."""
    template = yaml.load(environment, Loader)
    (policy,) = template["Resources"][role]["Properties"]["Policies"]
    actions = [each["Action"] for each in policy["PolicyDocument"]["Statement"]]
    found = {action for each in actions for action in listed(each)}
    assert not [action for action in found if "*" in action]
    return found


@pytest.mark.parametrize("answers", [{}, {"strategy": "canary"}, {"worker": True}])
def test_the_role_has_every_right_that_a_resource_needs_and_no_other(
    render: Render, facts: Facts, answers: dict[str, Any]
) -> None:
    repository = render(deploy="cloudformation", **answers)
    environment = (repository / "deploy/environment.yml").read_text()
    wanted = needed(repository, facts) | facts["beyond"].keys()
    assert sorted(wanted - granted(environment)) == [], "missing"
    assert sorted(granted(environment) - wanted) == [], "needless"


def test_every_exception_to_the_rights_is_needed(render: Render, facts: Facts) -> None:
    """What is said to be unused or beyond the schemas is so."""
    named = {action for calls in facts["types"].values() for each in calls.values() for action in each}
    assert facts["unused"].keys() <= named
    assert not facts["beyond"].keys() & named


def test_the_role_that_deploys_can_see_its_tasks_and_run_one(render: Render) -> None:
    repository = render(deploy="cloudformation")
    files = (
        repository / "ops/deployment" / name
        for name in ("deploy.py", "image.py", "service.py", "task.py", "release.py")
    )
    calls = re.findall(r'"(ecs|ecr|logs)", "([a-z-]+)"', "".join(file.read_text() for file in files))
    called = {f"{service}:{operation.title().replace('-', '')}" for service, operation in calls}
    assert {"ecs:RunTask", "ecs:ListTasks", "logs:FilterLogEvents"} <= called
    called -= {"ecs:UpdateService", "ecr:GetLoginPassword"}  # a restart is for people; what aws calls otherwise
    docker = {"ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    needed = called | docker | {"ecs:TagResource", "iam:PassRole"}  # of the tags and the roles in a definition
    actions = granted((repository / "deploy/environment.yml").read_text(), "DeployRole")
    assert {action for action in actions if not action.startswith("cloudformation:")} == needed


def statements(template: Path, role: str) -> list[Facts]:
    """Return what the policy of a role says, with the names of one environment."""
    (policy,) = make(template, NAMES)[role].properties["Policies"]
    found: list[Facts] = policy["PolicyDocument"]["Statement"]
    return found


def test_who_may_do_something_to_the_service_may_do_it_to_its_worker(render: Render) -> None:
    repository = render(deploy="cloudformation", worker=True)
    resources = make(repository / "deploy/service.yml", NAMES).values()
    service, worker = (each.properties["ServiceName"] for each in resources if each.type == "AWS::ECS::Service")
    looked_at = {
        ("ecs:DescribeServices", "service/x/NAME"),
        ("ecs:ListServiceDeployments", "service/x/NAME"),
        ("ecs:DescribeServiceDeployments", "service-deployment/x/NAME/1"),
        ("ecs:DescribeServiceRevisions", "service-revision/x/NAME/1"),
    }
    kinds = {kind for _, kind in looked_at} | {"task-definition/NAME:1"}

    def rights(role: str, name: str) -> set[tuple[str, str]]:
        return {
            (action, kind)
            for statement in statements(repository / "deploy/environment.yml", role)
            for pattern in listed(statement["Resource"])
            for kind in kinds
            for action in listed(statement["Action"])
            if action.startswith("ecs:") and fnmatch(ECS + kind.replace("NAME", name), pattern)
        }

    for role in ("CloudFormationRole", "DeployRole"):
        assert rights(role, worker) == rights(role, service), role
    assert looked_at <= rights("DeployRole", service)


def test_another_account_may_read_the_images_as_its_own_roles_may(render: Render) -> None:
    """AWS grants what the role there and the repository here both allow."""
    deploy = render(deploy="cloudformation") / "deploy"
    repository = make(deploy / "registry.yml", NAMES | {"PullAccounts": "111122223333"})["Repository"].properties
    (policy,) = repository["RepositoryPolicyText"]["Statement"]
    roles = statements(deploy / "environment.yml", "DeployRole") + statements(deploy / "service.yml", "ExecutionRole")
    needed = [action for each in roles if each["Sid"] in ("Image", "Pull") for action in listed(each["Action"])]
    assert set(policy["Action"]) == set(needed)


def test_a_schedule_may_start_its_task_and_nothing_else(render: Render) -> None:
    """Scheduler starts the task and passes its roles on; it tags nothing, as the schedule does not ask for it."""
    resources = make(render(deploy="cloudformation", worker=True) / "deploy/service.yml", NAMES)
    (schedule,) = [each for each in resources.values() if each.type == "AWS::Scheduler::Schedule"]
    target = schedule.properties["Target"]
    parameters = target["EcsParameters"]
    assert not parameters.keys() & {"PropagateTags", "Tags", "EnableECSManagedTags"}
    task = resources[parameters["TaskDefinitionArn"].strip("<>")].properties
    role = resources[target["RoleArn"].strip("<>").removesuffix(".Arn")].properties
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"]["StringEquals"].keys() == {"aws:SourceAccount", "aws:SourceArn"}
    statements = role["Policies"][0]["PolicyDocument"]["Statement"]
    run, roles = sorted(statements, key=lambda statement: str(statement["Action"]))
    assert (run["Action"], roles["Action"]) == ("ecs:RunTask", "iam:PassRole")
    assert run["Resource"].endswith(f":task-definition/{task['Family']}:*")
    assert run["Condition"] == {"ArnEquals": {"ecs:cluster": target["Arn"]}}
    assert set(roles["Resource"]) == {task["ExecutionRoleArn"], task["TaskRoleArn"]}
    assert roles["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}


@pytest.mark.parametrize("worker", [False, True])
def test_every_right_of_a_role_is_within_the_boundary(render: Render, worker: bool) -> None:
    """AWS grants what a role's policies and its boundary both allow."""
    repository = render(deploy="cloudformation", worker=worker, database="postgres", kafka=True, telemetry=True)
    boundary = make(repository / "deploy/environment.yml", NAMES)["Boundary"].properties["PolicyDocument"]["Statement"]

    def allowed(action: str) -> bool:
        return any(
            action == statement.get("Action")
            or ("NotAction" in statement and not any(fnmatch(action, pattern) for pattern in statement["NotAction"]))
            for statement in boundary
        )

    roles = [each for each in make(repository / "deploy/service.yml", NAMES).values() if each.type == "AWS::IAM::Role"]
    policies = [policy["PolicyDocument"]["Statement"] for role in roles for policy in role.properties["Policies"]]
    actions = {action for each in policies for statement in each for action in listed(statement["Action"])}
    assert ("iam:PassRole" in actions) == worker
    assert sorted(action for action in actions if not allowed(action)) == []
    assert not allowed("iam:CreateRole")


def listed(value: str | list[str]) -> list[str]:
    """Return one or several as several."""
    return [value] if isinstance(value, str) else value
