"""`deploy: ecs`, a release into a service that exists: the real AWS CLI against moto, and the policy of who deploys."""

import json
import sys
import threading
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from tests.deploy.account import NEW, OLD, Account, image_of, operations, without
from tests.deploy.operating import Operated, operate
from tests.support.template import Render

Json = dict[str, Any]
RESPONSE = ("ResponseMetadata",)
WORKER = "my-service-worker"


class Moto(Account):
    """Services and definitions are moto's. It starts no tasks and keeps no deployments: those are known here."""

    api: Any
    cluster = ""
    known = ""  # id of moto's last deployment

    def ecs_describe_services(self, ask: Json) -> Json:
        found = self.real_answer("describe_services", ask)
        if not found["services"] or ask["services"] == [WORKER]:
            return found
        (service,) = found["services"]
        arn = service["taskDefinition"]
        if arn != self.service["taskDefinition"] or self.restarted(service):
            containers = self.api.describe_task_definition(taskDefinition=arn)["taskDefinition"]["containerDefinitions"]
            image = next(each["image"] for each in containers if each["name"] == "my-service")
            self.service["taskDefinition"] = arn
            self.begin(int(arn.rpartition(":")[2]), image.partition("sha256:")[2][:40])
            self.proceed()
        (deployment,) = self.service["deployments"]
        # moto's own id is what update-service has answered.
        kept = {"id": service["deployments"][0]["id"], "taskDefinition": arn}
        service["deployments"] = [deployment | kept]
        service["desiredCount"] = service["runningCount"] = len(self.running)
        return found

    def ecs_list_tasks(self, ask: Json) -> Json:
        return {"taskArns": []} if ask["serviceName"] == WORKER else super().ecs_list_tasks(ask)

    def restarted(self, service: Json) -> bool:
        """Return whether moto has another deployment than the one that is known here."""
        changed: bool = self.known != service["deployments"][0]["id"]
        self.known = service["deployments"][0]["id"]
        return changed

    def real_answer(self, operation: str, ask: Json) -> Json:
        answer: Json = getattr(self.api, operation)(**ask)
        return {name: each for name, each in answer.items() if name not in RESPONSE}


# moto answers these; the real `aws` asks it.
for operation in (
    "describe_task_definition",
    "register_task_definition",
    "deregister_task_definition",
    "update_service",
    "run_task",
):
    setattr(Moto, f"ecs_{operation}", None)


@pytest.fixture
def account(moto: str, monkeypatch: pytest.MonkeyPatch) -> Moto:
    """A cluster and a service with a router of logs, more ports, and tags that CloudFormation gave."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    made = Moto(real=True)
    session = botocore.session.get_session()
    made.api = session.create_client("ecs", region_name="us-east-1", endpoint_url=moto)
    ec2 = session.create_client("ec2", region_name="us-east-1", endpoint_url=moto)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})  # moto runs no task without
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="tasks", Description="tasks")["GroupId"]
    cluster = f"c{abs(hash(subnet))}"
    made.cluster = cluster
    container = deepcopy(made.container) | {
        "portMappings": [{"containerPort": 8000, "name": "http"}, {"containerPort": 9090, "name": "metrics"}],
        "logConfiguration": {"logDriver": "awsfirelens", "options": {"Name": "stdout"}},
        "dependsOn": [{"containerName": "router", "condition": "START"}],
    }
    router = {
        "name": "router",
        "image": "router",
        "memory": 64,
        "essential": True,
        "firelensConfiguration": {"type": "fluentbit"},
    }
    registered = made.api.register_task_definition(
        family=cluster,
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="1024",
        memory="2048",
        runtimePlatform={"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
        taskRoleArn="arn:aws:iam::111122223333:role/task",
        executionRoleArn="arn:aws:iam::111122223333:role/execution",
        containerDefinitions=[router, container],
        tags=[{"key": "aws:cloudformation:stack-name", "value": "x"}, {"key": "pack", "value": "my-pack"}],
    )["taskDefinition"]["taskDefinitionArn"]
    made.api.create_cluster(clusterName=cluster)
    made.api.create_service(
        cluster=cluster,
        serviceName="my-service-stage",
        taskDefinition=registered,
        desiredCount=0,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}},
    )
    made.service["taskDefinition"] = registered
    made.known = made.api.describe_services(cluster=cluster, services=["my-service-stage"])["services"][0][
        "deployments"
    ][0]["id"]
    return made


@pytest.fixture
def operated(render: Render, tmp_path: Path, account: Moto) -> Operated:
    rendered = render(aws_account_id="111122223333", deploy="ecs")
    operated = operate(rendered, tmp_path, account, str(Path(sys.executable).parent / "aws"))
    (operated.path / "deploy/stage.parameters").write_text(f"ClusterName={account.cluster}\n")
    return operated


def policy(operated: Operated) -> set[str]:
    """Return the actions that the rendered policy grants; Terraform fills in the names."""
    statements = json.loads((operated.path / "deploy/policy.json").read_text())["Statement"]
    found = {
        action
        for each in statements
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    assert not [action for action in found if "*" in action]
    return found


def test_a_service_that_exists_is_released_rolled_back_and_restarted(operated: Operated, account: Moto) -> None:
    def running() -> tuple[Json, list[Json]]:
        (service,) = account.api.describe_services(cluster=account.cluster, services=["my-service-stage"])["services"]
        described = account.api.describe_task_definition(taskDefinition=service["taskDefinition"], include=["TAGS"])
        return described["taskDefinition"], described["tags"]

    first, _ = running()
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 0, done
    assert done.stderr.splitlines()[-1] == f"Commit {NEW} serves in stage."
    second, tags = running()
    assert second["revision"] == first["revision"] + 1
    assert tags == [{"key": "pack", "value": "my-pack"}]
    # Only the image has changed.
    changed = deepcopy(first)
    changed["containerDefinitions"][1]["image"] = image_of(NEW)
    added = ("revision", "taskDefinitionArn", "registeredAt")
    assert {name: each for name, each in second.items() if name not in added} == {
        name: each for name, each in changed.items() if name not in added
    }

    back = operated.run("rollback", "stage")
    assert back.returncode == 0, back
    assert running()[0]["containerDefinitions"][1]["image"] == image_of(OLD)
    again = operated.run("restart", "stage")
    assert again.returncode == 0, again
    assert running()[0]["revision"] == first["revision"] + 2

    # A command has the same definition, and leaves none behind.
    assert operated.run("task", "stage", "true").returncode == 1  # moto ends a task without a container's exit code
    alone = account.api.describe_task_definition(taskDefinition=f"{first['family']}-task")["taskDefinition"]
    assert (alone["status"], [each["essential"] for each in alone["containerDefinitions"]]) == (
        "INACTIVE",
        [False, True],
    )

    # The policy grants what was called here, and nothing else.
    called = set(account.calls)
    assert {"ecs:UpdateService", "ecs:RunTask", "ecs:DescribeServiceRevisions", "ecs:RegisterTaskDefinition"} <= called
    docker = {"ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    implied = {"ecs:TagResource", "iam:PassRole"}  # of the tags and the roles in a definition
    # When a command or a deployment ends badly, or logs to CloudWatch; test_operate.py calls these.
    failing = {"ecs:StopTask", "logs:FilterLogEvents", "ecs:DescribeServiceDeployments"}
    assert policy(operated) == called | docker | implied | failing

    # moto keeps no deployment configuration, and that is what is said.
    done = operated.run("status", "stage")
    assert done.returncode == 1
    assert f"commit      {OLD} on 2 tasks" in done.stdout
    assert "WRONG       No circuit breaker rolls back a deployment whose tasks fail" in done.stdout


def test_the_worker_is_a_second_service(operated: Operated, account: Moto) -> None:
    def containers(name: str) -> list[Json]:
        (service,) = account.api.describe_services(cluster=account.cluster, services=[name])["services"]
        definition = account.api.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
        found: list[Json] = definition["containerDefinitions"]
        return found

    (api,) = account.api.describe_services(cluster=account.cluster, services=["my-service-stage"])["services"]
    router, own = containers("my-service-stage")
    worker = own | {"name": "worker", "command": ["python", "-m", "my_service.worker"], "portMappings": []}
    made = account.api.register_task_definition(
        family=WORKER, networkMode="awsvpc", cpu="256", memory="512", containerDefinitions=[router, worker]
    )
    account.api.create_service(
        cluster=account.cluster,
        serviceName=WORKER,
        taskDefinition=made["taskDefinition"]["taskDefinitionArn"],
        **{name: api[name] for name in ("desiredCount", "launchType", "networkConfiguration")},
    )
    for_both: Json = {"environment": {"GREETING": "Hi"}, "secrets": {"TOKEN": "arn:x"}}
    for_the_api: Json = {
        "command": ["gunicorn"],
        "healthCheck": {"command": ["CMD", "true"]},
        "portMappings": [{"containerPort": 8000}],
        "memory": 1536,
    }
    (operated.path / "deploy/container.json").write_text(json.dumps(for_both | for_the_api))
    with (operated.path / "deploy/stage.parameters").open("a") as parameters:
        parameters.write(f"WorkerServiceName={WORKER}\n")
    before = {name: containers(name) for name in ("my-service-stage", WORKER)}
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 0, done
    for name, (same, changed) in before.items():
        after, container = containers(name)
        assert after == same
        assert {"name": "GREETING", "value": "Hi"} in container["environment"]
        assert {"name": "TOKEN", "valueFrom": "arn:x"} in container["secrets"]
        told = {} if name == WORKER else {field: container[field] for field in for_the_api}
        assert container["image"] == image_of(NEW)
        assert without(container, *for_both) == without(changed | {"image": image_of(NEW)} | told, *for_both)
    assert container["command"] == ["python", "-m", "my_service.worker"]


@pytest.mark.parametrize("command", ["deploy", "restart"])
def test_a_worker_that_is_not_there_is_said_before_anything_changes(
    operated: Operated, account: Moto, command: str
) -> None:
    with (operated.path / "deploy/stage.parameters").open("a") as parameters:
        parameters.write("WorkerServiceName=wrong\n")
    done = operated.run(command, "stage", *([NEW] if command == "deploy" else []))
    assert done.returncode == 1
    assert done.stderr == f"There is no service wrong in the cluster {account.cluster}.\n"
    assert set(account.calls) == {"ecs:DescribeServices", "ecs:DescribeTaskDefinition"}


def test_the_policy_names_actions_that_aws_has_and_what_it_must_be_given(operated: Operated) -> None:
    for action in policy(operated) - {"iam:PassRole"}:
        service, _, name = action.partition(":")
        assert name in {model.name for model in operations(service).values()}, action
    text = (operated.path / "deploy/policy.json").read_text()
    names = set(part.partition("}")[0] for part in text.split("${")[1:])
    assert names == {"account", "cluster", "service", "family", "log_group", "execution_role", "task_role"}
    assert "arn:aws:ecr:us-east-1:111122223333:repository/my-service" in text


@pytest.mark.parametrize("controller", ["CODE_DEPLOY", "EXTERNAL"])
def test_a_service_that_somebody_else_deploys_is_refused(operated: Operated, account: Moto, controller: str) -> None:
    answer = account.ecs_describe_services
    other = {"deploymentController": {"type": controller}}

    def controlled(ask: Json) -> Json:
        found = answer(ask)
        return found | {"services": [each | other for each in found["services"]]}

    account.ecs_describe_services = controlled  # type: ignore[method-assign]
    done = operated.run("deploy", "stage", NEW)
    (line,) = done.stderr.splitlines()
    assert f"has the deployment controller {controller}: only" in line
    assert set(account.calls) == {"ecs:DescribeServices"}


def test_the_real_command_repeats_throttled_calls_and_says_who_must_log_in(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `aws` prints without credentials, with an expired token, and while AWS throttles."""
    errors = ["ThrottlingException", "ThrottlingException"]

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            code = errors.pop(0) if errors else ""
            answer: Json = {"__type": code, "message": "said"} if code else {"services": [], "failures": []}
            body = json.dumps(answer).encode()
            self.send_response(400 if code else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    operated = operate(render(aws_account_id="111122223333", deploy="ecs"), tmp_path, Account())
    (operated.programs / "aws").unlink()
    (operated.programs / "aws").symlink_to(Path(sys.executable).parent / "aws")
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    url = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    done = operated.run("status", "stage", **keys, **url)
    assert (done.stderr, errors) == ("There is no service my-service-stage in the cluster main.\n", [])
    errors.append("ExpiredTokenException")
    assert operated.run("status", "stage", **keys, **url).stderr == "The AWS credentials have expired: log in again.\n"
    nobody = dict.fromkeys(keys, "") | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    done = operated.run("status", "stage", **nobody, **url)
    assert done.stderr == "aws has no credentials: log in, or set AWS_PROFILE.\n"
    server.shutdown()
