"""docs/terraform.md, read as Terraform reads it: it has the values of the answers and of deploy/service.yml."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hcl2
import pytest
import yaml

from tests.deploy.account import NEW, Account
from tests.deploy.cloudformation import Loader
from tests.deploy.operating import operate
from tests.support.commands import run
from tests.support.documents import blocks
from tests.support.template import ROOT, Render

Json = dict[str, Any]
PAGE = (ROOT / "docs/terraform.md").read_text()
REGISTRY, ENVIRONMENT = blocks(PAGE, "hcl")
ANSWERS: Json = {
    "service_name": "orders",
    "package_name": "my_orders",
    "aws_account_id": "111122223333",
    "aws_region": "eu-west-1",
    "architecture": "arm64",
    "cpu": 2048,
    "memory": 8192,
    "workers": 3,
    "port": 9000,
    "health_path": "/up",
    "min_tasks": 3,
    "max_tasks": 7,
    "stop_timeout": 45,
    "log_retention_days": 90,
    "default_branch": "trunk",
}
# Of Terraform, as far as values of the page are made by them.
FUNCTIONS: Json = {
    "floor": int,
    "format": lambda pattern, value: pattern % int(value),
    "length": len,
    "md5": lambda text: hashlib.md5(text.encode()).hexdigest(),
    "substr": lambda text, at, length: text[at : at + length],
    "tostring": str,
    "upper": str.upper,
}


def value_of(expression: Any, names: Json) -> Any:
    """Return the value of an expression as far as it is made of the answers; what else there is stays text."""
    if isinstance(expression, list):
        return [value_of(each, names) for each in expression]
    if isinstance(expression, dict):
        named = {value_of(name, names): value_of(each, names) for name, each in expression.items()}
        return {name: each for name, each in named.items() if not str(name).startswith("__")}
    if not isinstance(expression, str):
        return expression
    if expression[:1] == '"':
        return re.sub(r"\$\{(.*?)\}", lambda found: str(value_of(f"${{{found[1]}}}", names)), expression[1:-1])
    with suppress(NameError, AttributeError, SyntaxError):
        return eval(expression[2:-1], FUNCTIONS | names)  # such an expression is one of Python's, too
    return expression


def names_of(answers: Json, environment: str) -> Json:
    """Return what expressions refer to."""
    said = SimpleNamespace(**answers)
    name = f"{said.service_name}-{environment}"
    return {
        "local": SimpleNamespace(answers=said, environment=environment, name=name),
        "var": SimpleNamespace(image="IMAGE", pull_accounts=["444455556666"]),
    }


def blocks_of(text: str, names: Json) -> Json:
    """Return the resources and modules of a file by their names."""
    read = value_of(hcl2.loads(text), names)
    found: Json = {f"module.{name}": each for block in read.get("module", []) for name, each in block.items()}
    for block in read["resource"]:
        found |= {f"{kind}.{name}": each for kind, named in block.items() for name, each in named.items()}
    return found


@pytest.fixture(scope="module")
def recorded(render: Render) -> Json:
    found: Json = yaml.safe_load((render(deploy="ecs", **ANSWERS) / ".copier-answers.yml").read_text())
    assert found.items() >= ANSWERS.items()
    return found


@pytest.fixture(scope="module")
def terraform(recorded: Json) -> Json:
    """The page with the values of a service: blocks of each kind by their names."""
    names = names_of(recorded, "stage")
    for text in (REGISTRY, ENVIRONMENT):
        (said,) = hcl2.loads(text)["locals"]
        assert said["answers"] == '${yamldecode(file("${path.module}/../../.copier-answers.yml"))}'
    assert said["environment"] == "${terraform.workspace}"
    assert said["name"] == '"${local.answers.service_name}-${local.environment}"'
    return blocks_of(REGISTRY, names) | blocks_of(ENVIRONMENT, names)


def as_api(value: Any) -> Any:
    """Return CloudFormation's names as the API and Terraform's module have them."""
    if isinstance(value, dict):
        return {name[0].lower() + name[1:]: as_api(each) for name, each in value.items()}
    return [as_api(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def described(render: Render) -> Json:
    """The resources of deploy/service.yml of the same answers."""
    text = (render(deploy="cloudformation", **ANSWERS) / "deploy/service.yml").read_text()
    resources = yaml.load(text, Loader)["Resources"]
    return {name: as_api(each.get("Properties", {})) for name, each in resources.items()}


def test_the_container_is_the_one_of_cloudformation(terraform: Json, described: Json) -> None:
    service, task = terraform["module.service"], described["TaskDefinition"]
    (container,) = task["containerDefinitions"]
    assert str(service["cpu"]) == task["cpu"]
    assert str(service["memory"]) == task["memory"]
    platform = {"cpuArchitecture": "cpu_architecture", "operatingSystemFamily": "operating_system_family"}
    assert {name: service["runtime_platform"][name] for name in platform.values()} == {
        platform[name]: each for name, each in task["runtimePlatform"].items()
    }
    ((name, ours),) = service["container_definitions"].items()
    assert name == container["name"]
    environment = [{"name": "ENVIRONMENT", "value": "stage"}, *container["environment"][1:]]
    assert ours["environment"] == environment
    same = (
        "essential",
        "user",
        "readonlyRootFilesystem",
        "stopTimeout",
        "portMappings",
        "healthCheck",
        "linuxParameters",
    )
    assert {field: ours[field] for field in same} == {field: container[field] for field in same}
    assert ours["cloudwatch_log_group_name"] == "/ecs/orders/stage"
    assert ours["cloudwatch_log_group_retention_in_days"] == 90


def test_the_load_balancer_and_the_service_are_those_of_cloudformation(terraform: Json, described: Json) -> None:
    balancer, service = terraform["module.alb"], terraform["module.service"]
    attributes = {each["key"]: each["value"] for each in described["LoadBalancer"]["loadBalancerAttributes"]}
    assert str(balancer["idle_timeout"]) == attributes["idle_timeout.timeout_seconds"]
    assert balancer["drop_invalid_header_fields"] is True
    group, target = balancer["target_groups"]["service"], described["TargetGroup"]
    assert group["health_check"] == {
        "path": target["healthCheckPath"],
        "interval": target["healthCheckIntervalSeconds"],
        "timeout": target["healthCheckTimeoutSeconds"],
        "healthy_threshold": target["healthyThresholdCount"],
        "unhealthy_threshold": target["unhealthyThresholdCount"],
    }
    assert str(group["deregistration_delay"]) == target["targetGroupAttributes"][0]["value"]
    assert (group["port"], group["target_type"], group["protocol"]) == (9000, "ip", "HTTP")
    assert group["create_attachment"] is False
    (listener,) = balancer["listeners"].values()
    assert listener["forward"]["target_group_key"] in balancer["target_groups"]

    assert service["load_balancer"]["service"]["container_name"] == "orders"
    assert service["load_balancer"]["service"]["container_port"] == 9000
    (ingress,) = service["security_group_ingress_rules"].values()
    assert (ingress["from_port"], ingress["to_port"]) == (9000, 9000)
    assert (service["desired_count"], service["autoscaling_min_capacity"], service["autoscaling_max_capacity"]) == (
        3,
        3,
        7,
    )
    deployment = described["Service"]["deploymentConfiguration"]
    assert service["deployment_circuit_breaker"] == deployment["deploymentCircuitBreaker"]
    assert service["deployment_minimum_healthy_percent"] == deployment["minimumHealthyPercent"]
    assert service["deployment_maximum_percent"] == deployment["maximumPercent"]
    assert service["health_check_grace_period_seconds"] == described["Service"]["healthCheckGracePeriodSeconds"]
    network = terraform["module.vpc"]
    assert network["azs"] == "${slice(data.aws_availability_zones.this.names, 0, 2)}"
    assert len(network["private_subnets"]) == len(network["public_subnets"]) == 2


# The attributes that hold a name which an account has once, and how long it can be. Other kinds belong to one of these.
HELD: dict[str, dict[str, int]] = {
    "aws_ecr_repository": {"name": 256},
    "aws_ecr_repository_policy": {},
    "aws_iam_role": {"name": 64},
    "aws_iam_role_policy": {},
    "terraform-aws-modules/vpc/aws": {},
    "terraform-aws-modules/alb/aws": {"name": 32},
    "terraform-aws-modules/ecs/aws//modules/cluster": {"name": 255},
    "terraform-aws-modules/ecs/aws//modules/service": {
        "name": 255,
        "task_exec_iam_role_name": 64,
        "tasks_iam_role_name": 64,
    },
}


def held(text: str, service_name: str, environment: str = "") -> set[tuple[str, str]]:
    """Return the kinds and names of what a file makes; no other file can make the same in the account."""
    found = set()
    for block, said in blocks_of(text, names_of({"service_name": service_name}, environment)).items():
        kind = said.get("source", block.partition(".")[0])
        for attribute, longest in HELD[kind].items():
            assert "${" not in said[attribute], said[attribute]
            assert len(said[attribute]) <= longest, said[attribute]
            found.add(("aws_iam_role" if "iam_role" in attribute else kind, said[attribute]))
        groups = [each["cloudwatch_log_group_name"] for each in said.get("container_definitions", {}).values()]
        found |= {("log group", name) for name in groups}
    return found


@pytest.mark.parametrize("service_name", ["orders", "o" * 40])
def test_two_environments_of_an_account_do_not_collide(service_name: str) -> None:
    """Nor does one with what the service has once."""
    longest = "e" * 16
    made = [*held(REGISTRY, service_name)]
    for environment in ("stage", "prod", longest):
        made += held(ENVIRONMENT, service_name, environment)
    assert [thing for thing in set(made) if made.count(thing) > 1] == []


def test_what_the_service_has_once_is_in_the_account_where_images_are_looked_for(recorded: Json) -> None:
    (provider,) = value_of(hcl2.loads(REGISTRY), names_of(recorded, ""))["provider"]
    ((_, said),) = provider.items()
    assert said == {"region": "eu-west-1", "allowed_account_ids": ["111122223333"]}


def test_another_account_may_read_the_images_as_cloudformation_lets_it(terraform: Json, render: Render) -> None:
    given = terraform["aws_ecr_repository_policy.pull"]
    registry = yaml.load((render(deploy="cloudformation") / "deploy/registry.yml").read_text(), Loader)
    _, policy, _ = registry["Resources"]["Repository"]["Properties"]["RepositoryPolicyText"]["Fn::If"]
    assert set(re.findall(r'"(ecr:\w+)"', given["policy"])) == set(policy["Statement"][0]["Action"])
    assert "Principal = {AWS = var.pull_accounts}" in given["policy"]


def test_terraform_ignores_what_a_release_changes(terraform: Json) -> None:
    assert terraform["module.service"]["ignore_task_definition_changes"] is True
    assert terraform["module.service"]["track_latest"] is False


@pytest.mark.parametrize(
    ("role", "trust"),
    [
        ("build", {"sub": "repo:${var.github}:ref:refs/heads/${local.answers.default_branch}"}),
        (
            "deploy",
            {
                "sub": "repo:${var.github}:environment:${local.environment}",
                "ref": "refs/heads/${local.answers.default_branch}",
            },
        ),
    ],
)
def test_github_is_trusted_for_jobs_of_the_default_branch_alone(
    terraform: Json, role: str, trust: dict[str, str]
) -> None:
    said = terraform[f"aws_iam_role.{role}"]["assume_role_policy"]
    (condition,) = re.findall(r"Condition = \{(\w+) = \{(.*?)\}\}\}", said)
    assert condition[0] == "StringEquals"
    claims = dict(re.findall(r'"token\.actions\.githubusercontent\.com:(\w+)" = "(.*?)"(?:, |$)', condition[1]))
    assert claims == {"aud": "sts.amazonaws.com"} | trust


def test_the_policy_gets_every_name_that_it_asks_for(terraform: Json, render: Render) -> None:
    policy = (render(deploy="ecs", **ANSWERS) / "deploy/policy.json").read_text()
    given = terraform["aws_iam_role_policy.deploy"]["policy"]
    assert given.startswith('${templatefile("${path.module}/../../deploy/policy.json", {')
    assert set(re.findall(r"(\w+) = ", given)) == set(re.findall(r"\$\{(\w+)\}", policy))
    assert json.loads(policy)


def test_make_status_finds_nothing_wrong_with_it(terraform: Json, render: Render, tmp_path: Path) -> None:
    account = Account()
    ((name, container),) = terraform["module.service"]["container_definitions"].items()
    fields = ("environment", "healthCheck", "linuxParameters", "portMappings", "readonlyRootFilesystem", "stopTimeout")
    account.definitions[account.service["taskDefinition"]]["memory"] = "8192"
    account.container.update(name=name, secrets=[], **{each: container[each] for each in fields})
    account.service["loadBalancers"][0] |= {"containerName": name, "containerPort": 9000}
    account.group["HealthCheckPath"] = terraform["module.alb"]["target_groups"]["service"]["health_check"]["path"]
    account.idle = str(terraform["module.alb"]["idle_timeout"])
    account.service["serviceName"] = "orders-stage"
    for task in account.running:
        task["containers"][0]["name"] = name
    operated = operate(render(deploy="ecs", **ANSWERS | {"aws_region": "us-east-1"}), tmp_path, account)
    done = operated.run("status", "stage")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "check       the environment fits the service"), done
    assert "note" not in done.stdout
    assert NEW not in done.stdout


def test_checkov_accepts_what_is_written_out(tmp_path: Path) -> None:
    for name, text in (("registry", REGISTRY), ("environment", ENVIRONMENT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.tf").write_text(text)
    # A module has a version; only one of a Git repository could have a commit.
    checkov = (
        "uv",
        "tool",
        "run",
        "--from",
        "checkov==3.3.30",
        "checkov",
        "--framework",
        "terraform",
        "--skip-check",
        "CKV_TF_1",
    )
    done = run(*checkov, "--directory", tmp_path, "--compact", "--skip-download", check=False, LOG_LEVEL="CRITICAL")
    assert "Failed checks: 0" in done.stdout, done.stdout
    assert "Passed checks: " in done.stdout
    assert "Passed checks: 0" not in done.stdout
