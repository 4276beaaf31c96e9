"""The CloudFormation templates by what checks them without AWS: cfn-lint, botocore's models of the API, moto."""

import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

from tests.deploy.cloudformation import CloudFormation, Loader, RefusedError
from tests.deploy.stack import make
from tests.support.commands import GITHUB_SHELL, run
from tests.support.documents import blocks
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
GOOD = {
    "ImageUri": f"registry/my-service@sha256:{'0' * 64}",
    "Environment": "stage",
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "ClusterName": "main",
}
CERTIFICATE = f"arn:aws:acm:us-east-1:{ACCOUNT}:certificate/1"
SHARED = {
    "ListenerArn": f"arn:aws:elasticloadbalancing:us-east-1:{ACCOUNT}:listener/app/shared/0123456789abcdef/01234567",
    "HostName": "my-service.example.com",
    "LoadBalancerFullName": "app/shared/0123456789abcdef",
    "LoadBalancerSecurityGroupId": "sg-0123456789abcdef0",
}
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


def check(repository: Path, given: dict[str, str]) -> dict[str, str]:
    """Return the parameters of service.yml with their defaults; what CloudFormation would refuse raises."""
    query = {f"Parameters.member.{n}.ParameterKey": name for n, name in enumerate(given)}
    query |= {f"Parameters.member.{n}.ParameterValue": value for n, value in enumerate(given.values())}
    return CloudFormation().check(yaml.load((repository / "deploy/service.yml").read_text(), Loader), query, {})


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
    more |= {"worker": True, "database": "postgres"} if partition == "aws-cn" else {}
    path = render(deploy="cloudformation", architecture=architecture, aws_region=region, service_name=name, **more)
    files = [path / f"deploy/{file}.yml" for file in ("registry", "environment", "service")]
    run("cfn-lint", "--include-checks", "I", "--regions", region, "--", *files)


def test_the_secret_of_the_page_becomes_a_variable(repository: Path, tmp_path: Path) -> None:
    (entry,) = re.findall(r"`- (\{Name: [^`]*\})`", (ROOT / "docs/operating.md").read_text())
    template = tmp_path / "deploy/service.yml"
    template.parent.mkdir()
    template.write_text((repository / "deploy/service.yml").read_text().replace("Secrets: []", f"Secrets: [{entry}]"))
    run("cfn-lint", "--include-checks", "I", "--", template)
    (secret,) = properties(tmp_path, "TaskDefinition")["ContainerDefinitions"][0]["Secrets"]
    assert secret == {"Name": "GREETING", "ValueFrom": "${SecretArn}:GREETING::"}


def test_every_finding_of_checkov_has_its_reason_in_place(render: Render) -> None:
    repository = render(deploy="cloudformation", worker=True)
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
    alarm = make(repository / "deploy/service.yml", NAMES)["ErrorsAlarm"].properties
    metrics = {each["Id"]: each for each in alarm["Metrics"]}
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


@pytest.mark.parametrize("strategy", ["rolling", "canary"])
def test_an_alarm_waits_for_minutes_that_come_late(render: Render, strategy: str) -> None:
    """FILL has 0 for the newest minutes, whose metrics are late: an alarm on all minutes would never go off."""
    made = make(render(deploy="cloudformation", strategy=strategy) / "deploy/service.yml", NAMES)
    alarms = {name: each.properties for name, each in made.items() if "FILL" in str(each.properties.get("Metrics"))}
    assert alarms.keys() == {"ErrorsAlarm"} | ({"UnhealthyTasksAlarm"} if strategy == "canary" else set())
    for alarm in alarms.values():
        assert int(alarm["EvaluationPeriods"]) >= int(alarm["DatapointsToAlarm"]) + 2


@pytest.mark.parametrize(
    ("all_errors", "first", "second", "worst"),
    [
        ((1000, 0), (900, 0), (100, 0), 0),
        ((1000, 40), (900, 0), (100, 40), 40),  # 4 % of all, and 40 % of the canary's
        ((1000, 40), (100, 40), (900, 0), 40),  # the next canary, in the other target group
        ((100, 10), (90, 0), (10, 10), 10),  # too few requests to judge it alone
    ],
)
def test_the_errors_of_a_canary_count_by_its_own_requests(
    render: Render, all_errors: tuple[int, int], first: tuple[int, int], second: tuple[int, int], worst: int
) -> None:
    made = make(render(deploy="cloudformation", strategy="canary") / "deploy/service.yml", NAMES)
    metrics = {each["Id"]: each for each in made["ErrorsAlarm"].properties["Metrics"]}
    assert [name for name, each in metrics.items() if each.get("ReturnData") != "False"] == ["worst"]
    counted = {"requests": all_errors[0], "errors": all_errors[1], "refused": 0}
    for name, (requests, errors) in (("first", first), ("second", second)):
        counted |= {f"{name}_requests": requests, f"{name}_errors": errors}
        group = {"first": "<TargetGroup.TargetGroupFullName>", "second": "<AlternateTargetGroup.TargetGroupFullName>"}[
            name
        ]
        for kind, metric in (("requests", "RequestCount"), ("errors", "HTTPCode_Target_5XX_Count")):
            asked = metrics[f"{name}_{kind}"]["MetricStat"]["Metric"]
            assert (asked["MetricName"], asked["Dimensions"][1]["Value"]) == (metric, group)
    math: dict[str, Any] = {"FILL": lambda value, _: value, "IF": lambda test, yes, no: yes if test else no, "MAX": max}
    for name in ("total", "percent", "first", "second", "worst"):
        counted[name] = eval(metrics[name]["Expression"], math, counted)
    assert counted["worst"] == worst


def test_who_can_reach_the_load_balancer_is_a_range_or_a_list_of_them(repository: Path) -> None:
    for value, key in (("172.31.0.0/16", "CidrIp"), ("pl-0123456789abcdef0", "SourcePrefixListId")):
        made = make(repository / "deploy/service.yml", {"LoadBalancerIngress": value, "CertificateArn": "arn", **NAMES})
        rules = made["LoadBalancerSecurityGroup"].properties["SecurityGroupIngress"]
        assert [(rule["FromPort"], rule[key]) for rule in rules] == [("80", value), ("443", value)]
        assert all(len(rule.keys() & {"CidrIp", "SourcePrefixListId"}) == 1 for rule in rules)


def test_tasks_can_live_in_public_subnets(repository: Path, render: Render) -> None:
    """The subnets of a default VPC have no NAT, so a task needs an address of its own, also one of the worker."""
    worker = (render(deploy="cloudformation", worker=True) / "deploy/service.yml").read_text()
    assert set(re.findall(r"AssignPublicIp: (.*)", worker)) == {"!Ref AssignPublicIp"}
    for given, address in (({}, "DISABLED"), ({"AssignPublicIp": "ENABLED"}, "ENABLED")):
        made = make(repository / "deploy/service.yml", NAMES | given)
        network = made["Service"].properties["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert network["AssignPublicIp"] == address
        (rule,) = made["ServiceSecurityGroup"].properties["SecurityGroupIngress"]
        assert rule["SourceSecurityGroupId"] == "<LoadBalancerSecurityGroup.GroupId>"


def test_the_page_makes_the_parameters_of_a_default_vpc(repository: Path, moto: str, tmp_path: Path) -> None:
    (commands,) = (block for block in blocks((ROOT / "docs/deploying.md").read_text()) if "is-default" in block)
    (tmp_path / "deploy").mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    aws = {"AWS_ENDPOINT_URL": moto, "AWS_DEFAULT_REGION": "us-east-1", "PATH": path}
    run("env", *(f"{name}={value}" for name, value in aws.items()), *GITHUB_SHELL, commands, cwd=tmp_path)
    lines = (tmp_path / "deploy/stage.parameters").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines)
    assert len(set(given["SubnetIds"].split(","))) == 2
    made = make(repository / "deploy/service.yml", check(repository, GOOD | given))
    assert made["Service"].properties["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "ENABLED"
    assert made["LoadBalancer"].properties["Scheme"] == "internet-facing"


def test_the_page_adds_up_what_the_default_answers_cost(repository: Path) -> None:
    text = (ROOT / "docs/deploying.md").read_text()
    table = text.partition("| Part | Arithmetic |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    *parts, (_, _, total) = rows
    for _, arithmetic, dollars in parts:
        formula = re.sub("[a-z]", "", arithmetic).replace("\N{MULTIPLICATION SIGN}", "*")  # "hours" and the like go
        assert abs(eval(formula) - float(dollars)) < 0.01
    assert float(total) == round(sum(float(dollars) for *_, dollars in parts), 2)
    made = make(repository / "deploy/service.yml", NAMES)
    task, scaling = made["TaskDefinition"].properties, made["Scaling"].properties
    assert (scaling["MinCapacity"], task["Cpu"], task["Memory"]) == ("2", "1024", "2048")
    assert parts[0][0] == "two tasks of 1 vCPU and 2 GB"


def test_the_shared_load_balancer_of_the_page_gives_what_a_service_needs(repository: Path, tmp_path: Path) -> None:
    (text,) = (block for block in blocks((ROOT / "docs/platform.md").read_text(), "yaml") if "LoadBalancer:" in block)
    template = tmp_path / "shared.yml"
    template.write_text(text)
    run("cfn-lint", "--include-checks", "I", "--", template)
    shared = yaml.load(text, Loader)
    assert shared["Outputs"].keys() - {"Target"} == SHARED.keys() - {"HostName"}
    own = make(repository / "deploy/service.yml", NAMES | {"CertificateArn": CERTIFICATE})
    common = make(template, {"Scheme": "internal"} | dict.fromkeys(shared["Parameters"], "x"))
    attributes = "LoadBalancerAttributes"
    assert own["LoadBalancer"].properties[attributes] == common["LoadBalancer"].properties[attributes]


def test_a_shared_load_balancer_gets_one_rule(repository: Path) -> None:
    template = repository / "deploy/service.yml"
    own, shared = make(template, NAMES), make(template, NAMES | SHARED)
    assert own.keys() - shared.keys() == {"LoadBalancer", "LoadBalancerSecurityGroup", "Listener"}
    assert shared.keys() - own.keys() == {"SharedRule"}
    rule = shared["SharedRule"].properties
    assert (rule["ListenerArn"], rule["Priority"]) == (SHARED["ListenerArn"], "1")
    assert rule["Conditions"] == [{"Field": "host-header", "HostHeaderConfig": {"Values": ["my-service.example.com"]}}]
    assert shared["SharedRule"].forwards() == {"<TargetGroup>"}
    (ingress,) = shared["ServiceSecurityGroup"].properties["SecurityGroupIngress"]
    assert ingress["SourceSecurityGroupId"] == SHARED["LoadBalancerSecurityGroupId"]
    # The alarm counts this service's requests, and not those of the others.
    dimensions = [
        {"Name": "LoadBalancer", "Value": SHARED["LoadBalancerFullName"]},
        {"Name": "TargetGroup", "Value": "<TargetGroup.TargetGroupFullName>"},
    ]
    for metric in shared["ErrorsAlarm"].properties["Metrics"]:
        if "MetricStat" in metric:
            assert metric["MetricStat"]["Metric"]["Dimensions"] == dimensions
            assert "ELB" not in metric["MetricStat"]["Metric"]["MetricName"]
    assert shared["UnhealthyTasksAlarm"].properties["Dimensions"] == dimensions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"HostName": ""}, "ListenerArn needs HostName"),
        ({"LoadBalancerFullName": ""}, "ListenerArn needs LoadBalancerFullName"),
        ({"LoadBalancerSecurityGroupId": ""}, "ListenerArn needs .*LoadBalancerSecurityGroupId"),
        ({"HostedZoneId": "Z1"}, "are those of the shared load balancer"),
        ({"CertificateArn": CERTIFICATE}, "are those of the shared load balancer"),
        ({"ListenerArn": "", "HostName": "", "CertificateArn": CERTIFICATE}, "CertificateArn needs HostName"),
        ({"ListenerArn": "", "HostName": "", "HostedZoneId": "Z1"}, "HostedZoneId needs HostName"),
    ],
)
def test_what_a_parameter_needs_is_said(repository: Path, change: dict[str, str], said: str) -> None:
    given = GOOD | SHARED | change
    if said:
        with pytest.raises(RefusedError, match=said):
            check(repository, given)
    else:
        assert check(repository, given).items() >= given.items()


def test_the_collector_can_come_from_a_cache(render: Render) -> None:
    """Tasks that do not reach the internet pull no image from public.ecr.aws."""
    cache = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/ecr-public/aws-observability/aws-otel-collector:v1"
    template = render(deploy="cloudformation", telemetry=True) / "deploy/service.yml"
    made = make(template, NAMES | {"CollectorImage": cache})
    assert made["TaskDefinition"].properties["ContainerDefinitions"][1]["Image"] == cache
    statements = made["ExecutionRole"].properties["Policies"][0]["PolicyDocument"]["Statement"]
    (pull,) = (each for each in statements if each["Sid"] == "PullTheCollector")
    assert fnmatch(cache.partition("/")[2].partition(":")[0], pull["Resource"].rpartition(":repository/")[2])
    assert "ecr:BatchImportUpstreamImage" in pull["Action"]


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
