"""`make task` with the real AWS CLI, against moto; what moto cannot do is said by a stand-in before it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from tests.deploy.service import Service
from tests.support.template import PYTHON, Render

# moto runs nothing and ends every task with code 0; this gives a task a log and another exit code, and knows it late.
# It takes tags that begin with aws:, which ECS refuses.
AWS = f"""#!{sys.executable}
import json, os, subprocess, sys, time
if sys.argv[2] == "register-task-definition" and '"aws:' in " ".join(sys.argv):
    sys.exit("InvalidParameterException: Tag keys must not begin with aws:")
if sys.argv[1:3] != ["ecs", "describe-tasks"]: os.execv(os.environ["REAL_AWS"], sys.argv)
seen = sys.argv[0] + ".seen"
if not os.path.exists(seen):  # as ECS may answer just after the start
    open(seen, "w").close()
    sys.exit(print('{{"tasks": [], "failures": [{{"reason": "MISSING"}}]}}'))
import botocore.session
done = subprocess.run([os.environ["REAL_AWS"], *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
answer = json.loads(done.stdout)
(task,) = answer["tasks"]
task["containers"] = [{{"name": "my-service", "exitCode": 3}}]
logs = botocore.session.get_session().create_client("logs", region_name="us-east-1")
stream = {{"logGroupName": "/ecs/my-service/stage"}}
stream["logStreamName"] = "ecs/my-service/" + task["taskArn"].rpartition("/")[2]
try:
    logs.create_log_stream(**stream)
    now = int(time.time() * 1000)
    logs.put_log_events(**stream, logEvents=[{{"timestamp": now, "message": text}} for text in ("one", "two")])
except logs.exceptions.ResourceAlreadyExistsException: pass
print(json.dumps(answer))
"""


@pytest.fixture
def ecs(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster `main` with the service my-service-stage, which has a sidecar and a health check."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    session = botocore.session.get_session()
    ecs, ec2 = (session.create_client(name, region_name="us-east-1") for name in ("ecs", "ec2"))
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})  # moto runs no task without
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    tasks = ec2.create_security_group(VpcId=vpc, GroupName="tasks", Description="tasks")["GroupId"]
    group = "/ecs/my-service/stage"
    ecs.logs = session.create_client("logs", region_name="us-east-1")
    ecs.logs.create_log_group(logGroupName=group)
    options = {"awslogs-group": group, "awslogs-stream-prefix": "ecs", "awslogs-region": "us-east-1"}
    service = {
        "name": "my-service",
        "image": "registry/my-service@sha256:0",
        "memory": 512,
        "essential": True,
        "environment": [{"name": "ENVIRONMENT", "value": "stage"}],
        "healthCheck": {"command": ["CMD", "true"]},
        "logConfiguration": {"logDriver": "awslogs", "options": options},
    }
    ecs.create_cluster(clusterName="main")
    registered = ecs.register_task_definition(
        family="my-service-stage",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="1024",
        taskRoleArn="arn:aws:iam::111122223333:role/task",
        executionRoleArn="arn:aws:iam::111122223333:role/execution",
        containerDefinitions=[{"name": "collector", "image": "collector", "memory": 256, "essential": True}, service],
        tags=[
            {"key": "pack", "value": "my-pack"},
            {"key": "aws:cloudformation:stack-name", "value": "my-service-stage"},
        ],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(
        cluster="main",
        serviceName="my-service-stage",
        taskDefinition=registered,
        desiredCount=0,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [tasks]}},
    )
    ecs.subnet = subnet
    return ecs


@pytest.fixture(scope="module")
def repository(render: Render) -> Path:
    """A service that FSD deploys; tests only read it."""
    return render(python_version=PYTHON)


def test_a_task_runs_as_the_service_does_and_its_log_and_exit_code_are_passed_on(
    ecs: Any, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "aws").write_text(AWS)
    (tmp_path / "aws").chmod(0o755)
    done = Service(repository, "my-service").make(
        "task",
        "ENV=stage",
        "ECS_CLUSTER=main",
        "CMD=python -m my_service.backfill --name 'two words'",
        f"PYTHON3={sys.executable}",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        REAL_AWS=str(Path(sys.executable).parent / "aws"),
    )
    assert done.stdout == "one\ntwo\n"
    assert "Error 3" in done.stderr

    (stream,) = ecs.logs.describe_log_streams(logGroupName="/ecs/my-service/stage")["logStreams"]
    ran = ecs.describe_tasks(cluster="main", tasks=[stream["logStreamName"].rpartition("/")[2]])["tasks"][0]
    assert ran["launchType"] == "FARGATE"
    assert ecs.subnet in json.dumps(ran["attachments"])
    made = ecs.describe_task_definition(taskDefinition=ran["taskDefinitionArn"], include=["TAGS"])
    definition = made["taskDefinition"]
    assert definition["family"] == "my-service-stage-task"
    assert definition["status"] == "INACTIVE"
    assert made["tags"] == [{"key": "pack", "value": "my-pack"}]
    collector, container = definition["containerDefinitions"]
    assert (collector["essential"], container["essential"]) == (False, True)
    assert container["command"] == ["python", "-m", "my_service.backfill", "--name", "two words"]
    assert "healthCheck" not in container
    running = ecs.describe_task_definition(taskDefinition="my-service-stage")["taskDefinition"]
    for same in ("taskRoleArn", "executionRoleArn", "cpu", "memory", "networkMode"):
        assert definition[same] == running[same]
    for same in ("image", "environment", "logConfiguration"):
        assert container[same] == running["containerDefinitions"][1][same]
