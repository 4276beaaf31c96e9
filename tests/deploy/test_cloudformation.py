"""The CloudFormation templates by what checks them without AWS: cfn-lint, botocore's models of the API, moto."""

import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

from tests.deploy.cloudformation import Loader
from tests.deploy.stack import make
from tests.support.commands import run
from tests.support.template import ROOT, Render

PAIRS = [
    (cpu, memory)
    for cpu, sizes in yaml.safe_load((ROOT / "extensions/fargate.yml").read_text()).items()
    for memory in sizes
]
PARTITIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
ACCOUNT = "111122223333"
GITHUB = dict.fromkeys(("GitHubOwner", "GitHubOwnerId", "GitHubRepository", "GitHubRepositoryId"), "x")
NAMES = GITHUB | dict.fromkeys(("ImageUri", "Environment", "VpcId", "SubnetIds", "ClusterName"), "x")
VALUES = {
    "Environment": "prod",
    "ImageUri": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/my-service@sha256:{'0' * 64}",
    "LogGroup": "/ecs/my-service-prod",
    "AWS::Region": "us-east-1",
    "ExecutionRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/my-service-prod-execution",
    "TaskRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/my-service-prod-task",
}


def fill_in(value: Any) -> Any:
    """Return a part of a template with values in place of its functions, or with None."""
    match value:
        case {"Ref": name} | {"Fn::GetAtt": name}:
            return VALUES.get(name, name)
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{(.*?)\}", lambda name: VALUES.get(name[1], name[0]), text)
        case dict():
            is_function = any(name.startswith("Fn::") for name in value)
            return None if is_function else {name: fill_in(content) for name, content in value.items()}
        case list():
            return [fill_in(item) for item in value]
    return value


def load(repository: Path, name: str) -> Any:
    """Return a template of a repository as it is deployed."""
    return fill_in(yaml.load((repository / f"deploy/{name}.yml").read_text(), Loader))


def as_api(value: Any) -> Any:
    """Return a resource's properties as the API spells them: with a small first letter, but for the log's options."""
    if isinstance(value, dict):
        return {
            name[0].lower() + name[1:]: content if name == "Options" else as_api(content)
            for name, content in value.items()
        }
    return [as_api(item) for item in value] if isinstance(value, list) else value


def properties(repository: Path, resource: str) -> dict[str, Any]:
    found: dict[str, Any] = load(repository, "service")["Resources"][resource]["Properties"]
    return found


@pytest.fixture(scope="module")
def repository(render: Render) -> Path:
    """The repository of the default answers, deployed by CloudFormation; tests only read it."""
    return render(deploy="cloudformation")


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_cloudformation_templates_pass_cfn_lint(render: Render, partition: str, architecture: str) -> None:
    region = PARTITIONS[partition]
    kafka = architecture == "arm64"
    name = "an-extraordinarily-long-name-for-service" if kafka else "my-service"
    more = {"kafka": True, "telemetry": True, "strategy": "canary", "ci": "none"} if kafka else {}
    path = render(deploy="cloudformation", architecture=architecture, aws_region=region, service_name=name, **more)
    files = [path / f"deploy/{file}.yml" for file in ("registry", "environment", "service")]
    run("cfn-lint", "--include-checks", "I", "--regions", region, "--", *files)


def test_every_finding_of_checkov_has_its_reason_in_place(repository: Path) -> None:
    checkov = ("uv", "tool", "run", "--from", "checkov==3.3.30", "checkov", "--framework", "cloudformation")
    done = run(*checkov, "--directory", repository / "deploy", "--compact", "--skip-download", LOG_LEVEL="CRITICAL")
    assert re.search(r"Passed checks: [1-9]\d*, Failed checks: 0, Skipped checks: 14", done.stdout)


def test_cfn_lint_accepts_every_task_size(repository: Path, tmp_path: Path) -> None:
    text = (repository / "deploy/service.yml").read_text()
    task = re.search(r"^  TaskDefinition:\n.*?(?=\n  \w)", text, re.MULTILINE | re.DOTALL)
    assert task
    tasks = [
        task[0]
        .replace("TaskDefinition:", f"TaskDefinition{number}:", 1)
        .replace('Cpu: "1024"', f'Cpu: "{cpu}"')
        .replace('Memory: "2048"', f'Memory: "{memory}"')
        for number, (cpu, memory) in enumerate(PAIRS)
    ]
    assert len(set(tasks)) == len(PAIRS)
    every = tmp_path / "every.yml"
    every.write_text(text.replace("\n  LoadBalancer:", "\n" + "\n".join(tasks) + "\n\n  LoadBalancer:"))
    run("cfn-lint", every)
    every.write_text(text.replace('Memory: "2048"', 'Memory: "2047"'))
    assert "E3047" in run("cfn-lint", every, check=False).stdout


def test_ecs_accepts_the_task_definition(repository: Path) -> None:
    model = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    task = as_api(properties(repository, "TaskDefinition"))
    validate = ParamValidator().validate
    assert not validate(task, model.input_shape).has_errors()
    mistakes: list[dict[str, Any]] = [{"cpu": 1024}, {"famliy": "x"}, {"volumes": {}}]
    for broken in mistakes:
        assert validate(task | broken, model.input_shape).has_errors(), broken


@pytest.fixture
def aws(moto: str) -> Any:
    """Return a function that makes a client of moto."""
    session = botocore.session.Session()
    return lambda service: session.create_client(service, region_name="us-east-1", endpoint_url=moto)


def test_ecs_registers_the_task_and_runs_the_service(repository: Path, aws: Any) -> None:
    ecs, ec2, elb = aws("ecs"), aws("ec2"), aws("elbv2")
    task = as_api(properties(repository, "TaskDefinition"))
    for cpu, memory in PAIRS:
        size = {"cpu": str(cpu), "memory": str(memory)}
        registered = ecs.register_task_definition(**task | size)["taskDefinition"]
        assert registered.items() >= size.items()
    container = task["containerDefinitions"][0]
    kept = registered["containerDefinitions"][0]
    for name in ("healthCheck", "linuxParameters", "stopTimeout", "user", "readonlyRootFilesystem", "logConfiguration"):
        assert kept[name] == container[name], name
    assert registered["runtimePlatform"] == {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"}

    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="tasks", Description="tasks")["GroupId"]
    target = properties(repository, "TargetGroup") | {"VpcId": vpc, "Name": "my-service", "Port": 8000}
    attributes = target.pop("TargetGroupAttributes")
    arn = elb.create_target_group(**target)["TargetGroups"][0]["TargetGroupArn"]
    elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=attributes)

    service = as_api(properties(repository, "Service"))
    ecs.create_cluster(clusterName="main")
    service |= {"cluster": "main", "taskDefinition": registered["taskDefinitionArn"], "desiredCount": 2}
    service["networkConfiguration"]["awsvpcConfiguration"] |= {"subnets": [subnet], "securityGroups": [group]}
    service["loadBalancers"][0]["targetGroupArn"] = arn
    assert ecs.create_service(**service)["service"]["serviceName"] == "my-service-prod"


def test_ecr_accepts_the_repository_template(repository: Path, aws: Any) -> None:
    ecr = aws("ecr")
    wanted = load(repository, "registry")["Resources"]["Repository"]["Properties"]
    ecr.create_repository(repositoryName=wanted["RepositoryName"], imageTagMutability=wanted["ImageTagMutability"])
    ecr.put_lifecycle_policy(
        repositoryName=wanted["RepositoryName"], lifecyclePolicyText=wanted["LifecyclePolicy"]["LifecyclePolicyText"]
    )
    assert wanted["ImageTagMutability"] == "IMMUTABLE"


def test_github_can_build_and_deploy_from_main_alone(repository: Path) -> None:
    """A job of an environment has that environment as its subject, so `ref` is a condition of its own."""
    prefix = "token.actions.githubusercontent.com"
    ids = "repo:${GitHubOwner}@${GitHubOwnerId}/${GitHubRepository}@${GitHubRepositoryId}"
    for file, role, only in (
        ("registry", "BuildRole", {"sub": f"{ids}:ref:refs/heads/main"}),
        ("environment", "DeployRole", {"sub": f"{ids}:environment:prod", "ref": "refs/heads/main"}),
    ):
        (statement,) = load(repository, file)["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        wanted = {f"{prefix}:{claim}": value for claim, value in ({"aud": "sts.amazonaws.com"} | only).items()}
        assert statement["Condition"] == {"StringEquals": wanted}


def test_another_branch_deploys_and_where_aws_cannot_see_it_github_must_check_it(render: Render) -> None:
    """AWS reads a job's branch in its commercial regions alone; a condition that it cannot read refuses everybody."""
    for region, seen in (("us-east-1", True), ("cn-north-1", False), ("us-gov-west-1", False)):
        path = render(deploy="cloudformation", aws_region=region, default_branch="release/2.x")
        files = {name: (path / name).read_text() for name in ("deploy/registry.yml", "deploy/environment.yml")}
        assert ":ref:refs/heads/release/2.x" in files["deploy/registry.yml"]
        assert (":ref: refs/heads/release/2.x" in files["deploy/environment.yml"]) == seen
        assert ("deploy from the branch release/2.x alone" in files["deploy/environment.yml"]) != seen
        for name in ("deploy", "release"):
            workflow = (path / f".github/workflows/{name}.yml").read_text()
            assert "release/2.x" in workflow
            assert not re.search(r"\bmain\b", workflow)


@pytest.mark.parametrize(
    ("requests", "errors", "refused", "percent"),
    [(100, 6, 0, 6), (100, 0, 0, 0), (19, 19, 0, 0), (0, 0, 20, 100), (90, 0, 10, 10)],
)
def test_the_alarm_counts_what_the_load_balancer_could_not_deliver(
    repository: Path, requests: int, errors: int, refused: int, percent: int
) -> None:
    """A request without a target is no request to the load balancer's own count."""
    metrics = {each["Id"]: each for each in properties(repository, "ErrorsAlarm")["Metrics"]}
    names = {each: metrics[each]["MetricStat"]["Metric"]["MetricName"] for each in ("requests", "errors", "refused")}
    assert names == {
        "requests": "RequestCount",
        "errors": "HTTPCode_Target_5XX_Count",
        "refused": "HTTPCode_ELB_5XX_Count",
    }
    math: dict[str, Any] = {"FILL": lambda value, _: value, "IF": lambda test, yes, no: yes() if test else no}
    counted = {"requests": requests, "errors": errors, "refused": refused}
    total = eval(metrics["total"]["Expression"], math, counted)
    expression = re.sub(r"(IF\(.*?, )(.*)(, 0\))$", r"\1lambda: \2\3", metrics["percent"]["Expression"])
    assert eval(expression, math | counted | {"total": total}) == percent


def test_who_can_reach_the_load_balancer_is_a_range_or_a_list_of_them(repository: Path) -> None:
    for value, key in (("172.31.0.0/16", "CidrIp"), ("pl-0123456789abcdef0", "SourcePrefixListId")):
        made = make(repository / "deploy/service.yml", {"LoadBalancerIngress": value, "CertificateArn": "arn", **NAMES})
        rules = made["LoadBalancerSecurityGroup"].properties["SecurityGroupIngress"]
        assert [(rule["FromPort"], rule[key]) for rule in rules] == [("80", value), ("443", value)]
        assert all(len(rule.keys() & {"CidrIp", "SourcePrefixListId"}) == 1 for rule in rules)


def test_a_second_region_uses_the_boundary_of_the_first(repository: Path) -> None:
    template = repository / "deploy/environment.yml"
    first, second = make(template, NAMES), make(template, NAMES | {"OtherRegion": "us-east-1"})
    assert first.keys() - second.keys() == {"Boundary"}
    assert first["CloudFormationRole"] == second["CloudFormationRole"]


def test_the_secret_may_be_encrypted_with_a_key_of_the_customer(repository: Path) -> None:
    secret = "arn:aws:secretsmanager:us-east-1:111122223333:secret:x"
    for given in ({}, {"SecretArn": secret}):
        role = make(repository / "deploy/service.yml", NAMES | given)["ExecutionRole"].properties
        statements = {each["Sid"]: each for each in role["Policies"][0]["PolicyDocument"]["Statement"]}
        assert ("KeyOfTheSecret" in statements) == ("Secret" in statements) == bool(given)
    assert statements["KeyOfTheSecret"]["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"] == secret


def test_scaling_never_goes_to_no_task(repository: Path) -> None:
    parameters = load(repository, "service")["Parameters"]
    assert [parameters[name]["MinValue"] for name in ("MinTasks", "MaxTasks")] == [1, 1]


def test_no_parameter_is_looked_up_with_the_rights_of_who_deploys(repository: Path) -> None:
    for file in (repository / "deploy").glob("*.yml"):
        parameters = load(repository, file.stem)["Parameters"]
        assert {parameter["Type"] for parameter in parameters.values()} <= {"String", "CommaDelimitedList", "Number"}
