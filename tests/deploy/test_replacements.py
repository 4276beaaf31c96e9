"""Every change of a stack that is up: what it replaces, and that nothing new needs what something old still has."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.stack import Parameters, make, problems, read, replaced
from tests.support.template import COMPUTED, DEFAULTS, QUESTIONS, ROOT, Render
from tests.support.template import copy as copied
from tests.update.versions import versions

EVERYTHING: dict[str, Any] = {"database": "postgres", "kafka": True, "telemetry": True, "worker": True}
REQUIRED = {
    "ImageUri": f"registry/my-service@sha256:{'0' * 64}",
    "Environment": "stage",
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "ClusterName": "main",
    "DatabaseHost": "db.example.com",
    "MskClusterArn": "arn:aws:kafka:us-east-1:111122223333:cluster/main/1",
    "KafkaBrokers": "b-1.example.com:9098",
}
HOST = {"HostName": "my-service.example.com"}
CERTIFICATE = HOST | {"CertificateArn": "arn:aws:acm:us-east-1:111122223333:certificate/1"}
PUBLIC = {"Scheme": "internet-facing", "LoadBalancerSubnetIds": "subnet-3,subnet-4", "TargetGroupPorts": "80,8000"}
TASKS = {"TaskDefinition", "WorkerTaskDefinition"}
SHARED = HOST | {
    "ListenerArn": "arn:aws:elasticloadbalancing:us-east-1:111122223333:listener/app/shared/1/1",
    "ListenerPriority": "10",
    "LoadBalancerFullName": "app/shared/1",
    "LoadBalancerSecurityGroupId": "sg-1",
}
# Stacks that are up, by what their parameters say.
STACKS: dict[str, Parameters] = {
    "plain": {},
    "encrypted": CERTIFICATE,
    "encrypted from the beginning": CERTIFICATE | {"ListenerPort": "443"},
    "public": PUBLIC,
    "public and encrypted from the beginning": PUBLIC | CERTIFICATE | {"ListenerPort": "443"},
    "shared": SHARED,
}
# `make deploy` refuses a change of these, or keeps them.
FIXED = {"Environment", "VpcId", "ClusterName", "ListenerArn", "ListenerPort", "TargetGroupPorts"}
PARAMETERS: dict[str, Parameters] = {
    "ImageUri": {"ImageUri": f"registry/my-service@sha256:{'1' * 64}"},
    "SubnetIds": {"SubnetIds": "subnet-1,subnet-5"},
    "AssignPublicIp": {"AssignPublicIp": "ENABLED"},
    "MinTasks": {"MinTasks": "4"},
    "MaxTasks": {"MaxTasks": "40"},
    "MinWorkers": {"MinWorkers": "2"},
    "MaxWorkers": {"MaxWorkers": "0"},
    "RequestsPerTask": {"RequestsPerTask": "100"},
    "Scheme": {"Scheme": "internet-facing"},
    "LoadBalancerSubnetIds": {"LoadBalancerSubnetIds": "subnet-6,subnet-7"},
    "LoadBalancerIngress": {"LoadBalancerIngress": "0.0.0.0/0"},
    "CertificateArn": {"CertificateArn": "", "HostName": ""},
    "HostName": {"HostName": "other.example.com"},
    "HostedZoneId": HOST | {"HostedZoneId": "Z1"},
    "ListenerPriority": {"ListenerPriority": "20"},
    "LoadBalancerFullName": {"LoadBalancerFullName": "app/renamed/1"},
    "LoadBalancerSecurityGroupId": {"LoadBalancerSecurityGroupId": "sg-2"},
    "SecretArn": {"SecretArn": "arn:aws:secretsmanager:us-east-1:111122223333:secret:my-service-1"},
    "AlarmTopicArn": {"AlarmTopicArn": "arn:aws:sns:us-east-1:111122223333:alarms"},
    "DatabaseHost": {"DatabaseHost": "other.example.com"},
    "DatabaseName": {"DatabaseName": "other"},
    "DatabaseUser": {"DatabaseUser": "other"},
    "DatabaseCa": {"DatabaseCa": "/app/src/my_service/rds.pem"},
    "DatabaseResourceId": {"DatabaseResourceId": "db-ABCDEFGHIJKL"},
    "CollectorImage": {"CollectorImage": "111122223333.dkr.ecr.us-east-1.amazonaws.com/ecr-public/collector"},
    "MskClusterArn": {"MskClusterArn": "arn:aws:kafka:us-east-1:111122223333:cluster/other/1"},
    "KafkaBrokers": {"KafkaBrokers": "b-2.example.com:9098"},
}
# Another answer than the default one; what is not here makes another stack, or does not reach the template.
ANSWERS: dict[str, Any] = {
    "cpu": 2048,
    "memory": 4096,
    "workers": 2,
    "kafka": True,
    "database": "postgres",
    "worker": True,
    "port": 9000,
    "health_path": "/healthz",
    "min_tasks": 3,
    "max_tasks": 20,
    "architecture": "arm64",
    "stop_timeout": 60,
    "strategy": "canary",
    "telemetry": True,
}
ANOTHER_STACK = {"service_name", "package_name", "aws_account_id", "aws_region", "deploy"}
ELSEWHERE: dict[str, Any] = {
    "description": "Another one",
    "pack": "other",
    "python_version": "3.13",
    "final_image": "registry.example.com/python:3.13-bare",
    "base_image": "registry.example.com/python:3.13",
    "system_packages": "jq",
    "build_packages": "gcc",
    "log_retention_days": 90,
    "base_image_registry": "public.ecr.aws/docker/library",
    "uv_image_registry": "registry.example.com/astral-sh",
    "package_index_url": "https://packages.example.com/simple",
    "ci": "none",
    "default_branch": "trunk",
}
MINIMAL = {"runtime": "minimal"}  # which has no final_image


@pytest.fixture(scope="module")
def service(render: Render) -> dict[str, Path]:
    """The template of a rolling service with everything, of a canary, and of the default answers."""
    answers: dict[str, dict[str, Any]] = {
        "rolling": EVERYTHING,
        "canary": EVERYTHING | {"strategy": "canary"},
        "default": {},
    }
    return {name: render(deploy="cloudformation", **each) / "deploy/service.yml" for name, each in answers.items()}


@pytest.mark.parametrize("strategy", ["rolling", "canary"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_parameter_can_change_there_and_back(service: dict[str, Path], strategy: str, stack: str) -> None:
    template = service[strategy]
    before = REQUIRED | STACKS[stack]
    for name, change in PARAMETERS.items():
        if name == "CertificateArn" and stack in ("plain", "public"):
            change = CERTIFICATE
        if name == "Scheme" and stack.startswith("public"):
            change = {"Scheme": "internal"}
        old, new = make(template, before), make(template, before | change)
        assert problems(old, new) == [], name
        assert problems(new, old) == [], f"{name}, back"


def test_every_parameter_and_every_answer_is_tried(service: dict[str, Path]) -> None:
    parameters = re.findall(
        r"^  (\w+):\n    Type: (?:String|Number|CommaDelimitedList)$", service["rolling"].read_text(), re.M
    )
    assert set(parameters) == PARAMETERS.keys() | FIXED
    assert QUESTIONS.keys() - COMPUTED == ANSWERS.keys() | ELSEWHERE.keys() | MINIMAL.keys() | ANOTHER_STACK
    assert not [name for name, answer in (ANSWERS | ELSEWHERE).items() if DEFAULTS[name] == answer]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_can_change_there_and_back(service: dict[str, Path], render: Render, name: str) -> None:
    changed = render(deploy="cloudformation", **{name: ANSWERS[name]}) / "deploy/service.yml"
    for stack, parameters in STACKS.items():
        if (name, stack) == ("strategy", "shared"):
            continue  # `make deploy` refuses the parameters, which a canary does not have
        # `make deploy` keeps the ports that the stack began with.
        kept = {"TargetGroupPorts": "8000,80"} | parameters
        old, new = make(service["default"], REQUIRED | kept), make(changed, REQUIRED | kept)
        assert old != new
        assert problems(old, new) == []
        assert problems(new, old) == []


@pytest.mark.parametrize("answers", [ELSEWHERE, MINIMAL], ids=["all", "minimal"])
def test_other_answers_change_no_resource(service: dict[str, Path], render: Render, answers: dict[str, Any]) -> None:
    changed = render(deploy="cloudformation", **answers) / "deploy/service.yml"
    assert make(service["default"], REQUIRED) == make(changed, REQUIRED)


@pytest.fixture(scope="module")
def released(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that renders the template of a release."""

    def rendered(version: str, **answers: Any) -> Path:
        destination = tmp_path_factory.mktemp(version) / "service"
        chosen = {"deploy": "cloudformation", **answers}
        return copied(template, destination, chosen, versions(template)[version]) / "deploy/service.yml"

    return rendered


@pytest.mark.parametrize("answers", [{}, {"port": 9000}, EVERYTHING, EVERYTHING | {"strategy": "canary"}])
def test_an_update_of_a_running_service_replaces_its_tasks_alone(
    template: Path, released: Any, render: Render, answers: dict[str, Any]
) -> None:
    present = render(deploy="cloudformation", **answers) / "deploy/service.yml"
    internal = read(present)["Parameters"]["TargetGroupPorts"]["Default"]
    public = ",".join(reversed(internal.split(",")))
    for version in list(versions(template))[-2:]:
        past = released(version, **answers)
        for parameters in STACKS.values():
            if parameters.keys() - read(past)["Parameters"].keys() - FIXED:
                continue  # there was no such stack then
            known = parameters
            if "ListenerPort" not in past.read_text():  # then `make deploy` says what the stack began with
                known = parameters | {"ListenerPort": "443" if "CertificateArn" in parameters else "80"}
            known = known | {"TargetGroupPorts": public if "Scheme" in parameters else internal}
            old, new = make(past, REQUIRED | known), make(present, REQUIRED | known)
            assert replaced(old, new) <= TASKS, version
            assert problems(old, new) == [], version


def test_what_stood_in_the_way_is_found(released: Any) -> None:
    """Version 0.4.4 could not change these."""
    old, nine = released("v0.4.4"), released("v0.4.4", port=9000)
    plain, encrypted = make(old, REQUIRED), make(old, REQUIRED | CERTIFICATE)
    assert problems(plain, make(old, REQUIRED | {"Scheme": "internet-facing"})) == [
        "Listener and the old Listener need <TargetGroup> for two load balancers"
    ]
    assert problems(plain, encrypted) == ["Redirect and the old Listener have the same port"]
    assert problems(encrypted, plain) == ["Listener and the old Redirect have the same port"]
    assert problems(plain, make(nine, REQUIRED)) == [
        "Listener forwards to <new TargetGroup>, which has no task yet",
        "ServiceSecurityGroup shuts out port 8000 of the running tasks",
    ]


def test_the_page_says_what_a_change_replaces(service: dict[str, Path], render: Render) -> None:
    groups: dict[str, list[str]] = {}

    def add(change: str, gone: set[str]) -> None:
        others = ", ".join(f"`{name}`" for name in sorted(gone - TASKS))
        what = others or ("the tasks, as each deployment does" if gone else "nothing")
        groups.setdefault(what, []).append(f"`{change}`")

    for name, change in PARAMETERS.items():
        before = REQUIRED | (CERTIFICATE | {"HostedZoneId": "Z0"} if name in ("HostName", "HostedZoneId") else {})
        before |= SHARED if name in SHARED.keys() - HOST else {}
        change = CERTIFICATE if name == "CertificateArn" else change
        add(name, replaced(make(service["rolling"], before), make(service["rolling"], before | change)))
    kept = REQUIRED | {"TargetGroupPorts": "8000,80"}
    for name, answer in ANSWERS.items():
        changed = render(deploy="cloudformation", **{name: answer}) / "deploy/service.yml"
        add(name, replaced(make(service["default"], kept), make(changed, kept)))
    rows = "".join(f"| {', '.join(changes)} | {what} |\n" for what, changes in groups.items())
    table = f"| Change of | Replaces |\n|---|---|\n{rows}\n"
    assert table in (ROOT / "docs/deploying.md").read_text(), (
        f"docs/deploying.md has another table than this one:\n{table}"
    )
