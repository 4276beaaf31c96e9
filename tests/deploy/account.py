"""An AWS account with one ECS service, for the command `aws`: requests and answers fit botocore's models.

The stand-in for `aws` asks this process. What is not known here goes to the real `aws`, if a test has one.
"""

import json
import socketserver
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.validate import ParamValidator

Json = dict[str, Any]
NOW = datetime.now(UTC).replace(microsecond=0)
ACCOUNT, REGION = "111122223333", "us-east-1"
ARN = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
REPOSITORY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/my-service"
GROUP = f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup/my-service/1"
BALANCER = f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:loadbalancer/app/my-service/1"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:payments-AbCdEf"
OLD, NEW, NEWER, ARM = ("1" * 40, "2" * 40, "3" * 40, "a" * 40)
# In bash, because it starts ten times faster than Python. The first line of an answer is the exit code.
AWS = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' $# "$@" >&3
read -r code <&3
case $code in
  real) exec {real} "$@" ;;
  0) exec cat <&3 ;;
  *) cat <&3 >&2; exit $code ;;
esac
"""
# As far as deployments ask it: an image of a commit has the digest that is made of the commit's first letter.
# It is for ARM if the commit begins with four `a`.
DOCKER = """#!/bin/sh
case "$*" in
  info* | login*) cat >/dev/null ;;
  "buildx imagetools inspect"*) commit=${4##*:}
    case $commit in
      0000*) echo "$4: not found" >&2; exit 1 ;;
      aaaa*) architecture=arm64 ;;
      *) architecture=amd64 ;;
    esac
    printf '"sha256:%.64s" ' "$commit$commit"
    echo "{\\"architecture\\":\\"$architecture\\",\\"org.opencontainers.image.revision\\":\\"$commit\\"}" ;;
  *) echo "docker $* is not known here" >&2; exit 1 ;;
esac
"""


# test_push_and_deploy.py has one that looks at what it is given.
FSD = """#!/bin/sh
exec aws fsd deploy "$7"
"""


class RefusedError(Exception):
    """What AWS answers in place of a result."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@cache
def operations(service: str) -> dict[str, Any]:
    """Return the operations of a service by the names that `aws` gives them."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name, "-"): model.operation_model(name) for name in model.operation_names}


def image_of(commit: str) -> str:
    """Return the address of a commit's image; see DOCKER."""
    return f"{REPOSITORY}@sha256:{(commit * 2)[:64]}"


def commit_of(image: str) -> str:
    """Return the commit of such an image."""
    return image.partition("@sha256:")[2][:40]


def task(number: int, commit: str, revision: int, **more: Any) -> Json:
    """Return a task that runs a commit's image."""
    return {
        "taskArn": f"{ARN}:task/main/{number:032x}",
        "taskDefinitionArn": f"{ARN}:task-definition/my-service-stage:{revision}",
        "lastStatus": "RUNNING",
        "createdAt": NOW - timedelta(hours=3),
        "startedAt": NOW - timedelta(hours=3),
        "availabilityZone": f"{REGION}{'abc'[number % 3]}",
        "containers": [{"name": "my-service", "image": image_of(commit)}],
    } | more


def stopped(number: int, commit: str, revision: int, code: str, reason: str, /, **container: Any) -> Json:
    """Return a task that has stopped for a reason."""
    end = {"name": "my-service", "image": image_of(commit), **container}
    at = {"stopCode": code, "stoppedReason": reason, "stoppedAt": NOW - timedelta(minutes=5)}
    return task(number, commit, revision, lastStatus="STOPPED", containers=[end], **at)


@dataclass
class Account:
    """A healthy service: two tasks in two zones, behind a load balancer. Tests change what they need."""

    calls: list[str] = field(default_factory=list)
    requests: list[tuple[str, Json]] = field(default_factory=list)
    refuses: dict[str, RefusedError] = field(default_factory=dict)
    real: bool = False
    outcome: str = "completed"  # of the next deployment: completed, lingering, broken, alarmed, crashing
    service: Json = field(default_factory=dict)
    definitions: dict[str, Json] = field(default_factory=dict)
    tags: list[Json] = field(default_factory=list)
    pending: Any = field(default_factory=list)
    running: list[Json] = field(default_factory=list)
    ended: list[Json] = field(default_factory=list)
    history: list[Json] = field(default_factory=list)
    revisions: dict[str, Json] = field(default_factory=dict)
    group: Json = field(default_factory=dict)
    delay: str = "30"
    idle: str = "60"
    health: list[Json] = field(default_factory=list)
    alarms: list[Json] = field(default_factory=list)
    secret_changed: datetime = NOW - timedelta(days=9)
    log: list[Json] = field(default_factory=list)
    ran: list[Json] = field(default_factory=list)  # commands
    gains: list[Json] = field(default_factory=list)  # variables that the next release brings
    ends: list[Json] = field(default_factory=list)  # of the next commands
    ended_alone: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        container: Json = {
            "name": "my-service",
            "image": image_of(OLD),
            "essential": True,
            "readonlyRootFilesystem": True,
            "linuxParameters": {"tmpfs": [{"containerPath": "/tmp", "size": 256}]},
            "portMappings": [{"containerPort": 8000, "protocol": "tcp"}],
            "environment": [{"name": "TRUSTED_HOPS", "value": "1"}, {"name": "WEB_CONCURRENCY", "value": "1"}],
            "secrets": [{"name": "PAYMENTS", "valueFrom": f"{SECRET}:PAYMENTS::"}],
            "stopTimeout": 30,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {"awslogs-group": "/ecs/my-service/stage", "awslogs-stream-prefix": "ecs"},
            },
        }
        self.register(
            {"family": "my-service-stage", "cpu": "1024", "memory": "2048", "containerDefinitions": [container]}
        )
        self.running = [task(1, OLD, 1), task(2, OLD, 1)]
        self.service = {
            "serviceName": "my-service-stage",
            "clusterArn": f"{ARN}:cluster/main",
            "status": "ACTIVE",
            "desiredCount": 2,
            "runningCount": 2,
            "pendingCount": 0,
            "taskDefinition": f"{ARN}:task-definition/my-service-stage:1",
            "deployments": [self.deployment(1, 1, "COMPLETED")],
            "deploymentController": {"type": "ECS"},
            "deploymentConfiguration": {
                "strategy": "ROLLING",
                "deploymentCircuitBreaker": {"enable": True, "rollback": True},
                "alarms": {"alarmNames": ["my-service-stage-errors"], "enable": True, "rollback": True},
            },
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1", "subnet-2"]}},
            "launchType": "FARGATE",
            "loadBalancers": [{"containerName": "my-service", "containerPort": 8000, "targetGroupArn": GROUP}],
            "events": [],
        }
        self.remember(1, OLD, "SUCCESSFUL")
        self.group = {
            "TargetGroupArn": GROUP,
            "TargetGroupName": "my-service",
            "HealthCheckPath": "/health",
            "LoadBalancerArns": [BALANCER],
        }
        self.health = [
            {"Target": {"Id": f"10.0.0.{number}", "Port": 8000}, "TargetHealth": {"State": "healthy"}}
            for number in (1, 2)
        ]
        self.alarms = [{"AlarmName": "my-service-stage-errors", "StateValue": "OK"}]

    @property
    def container(self) -> Json:
        """The service's container in the newest definition."""
        of_service = [each for each in self.definitions.values() if each["family"] == "my-service-stage"]
        definition = max(of_service, key=lambda each: int(each["revision"]))
        return next(each for each in definition["containerDefinitions"] if each["name"] == "my-service")

    def register(self, definition: Json) -> Json:
        """Keep another revision of a definition."""
        revision = 1 + sum(each["family"] == definition["family"] for each in self.definitions.values())
        arn = f"{ARN}:task-definition/{definition['family']}:{revision}"
        self.definitions[arn] = definition | {"taskDefinitionArn": arn, "revision": revision, "status": "ACTIVE"}
        return self.definitions[arn]

    def deployment(self, number: int, revision: int, state: str, **more: Any) -> Json:
        """Return a deployment as describe-services shows it."""
        return {
            "id": f"ecs-svc/{number}",
            "status": "PRIMARY",
            "taskDefinition": f"{ARN}:task-definition/my-service-stage:{revision}",
            "rolloutState": state,
            "createdAt": NOW - timedelta(hours=3),
            "updatedAt": NOW - timedelta(hours=3),
        } | more

    def remember(self, number: int, commit: str, status: str, **more: Any) -> None:
        """Keep a deployment, and what it deployed."""
        revision = f"{ARN}:service-revision/main/my-service-stage/{number}"
        self.revisions[revision] = {
            "serviceRevisionArn": revision,
            "containerImages": [{"containerName": "my-service", "image": image_of(commit)}],
        }
        made = {
            "serviceDeploymentArn": f"{ARN}:service-deployment/main/my-service-stage/{number}",
            "createdAt": NOW - timedelta(hours=9 - number),
            "targetServiceRevisionArn": revision,
            "status": status,
        }
        self.history.append(made | {"more": more})

    def begin(self, revision: int, commit: str) -> None:
        """Begin a deployment; describe-services shows how it goes on."""
        number = len(self.history) + 1
        definition = f"{ARN}:task-definition/my-service-stage:{revision}"
        self.service["deployments"] = [
            self.deployment(number, revision, "IN_PROGRESS", createdAt=datetime.now(UTC)),
            *(each | {"status": "ACTIVE"} for each in self.service["deployments"]),
        ]
        before, self.service["taskDefinition"] = self.service["taskDefinition"], definition
        self.pending = [self.outcome, number, revision, commit, before]

    def release(self, image: str) -> None:
        """Deploy an image, as CloudFormation or FSD does it: a new definition, and the end of the deployment."""
        container: Json = self.container | {"image": image}
        container["environment"] = [*container["environment"], *self.gains]
        self.service["status"] = "ACTIVE"
        made = self.register({"family": "my-service-stage", "memory": "2048", "containerDefinitions": [container]})
        self.begin(made["revision"], commit_of(image))
        if self.outcome != "slow":
            self.proceed()

    def proceed(self) -> None:
        """Let the deployment in progress end as the test says."""
        before: str
        outcome, number, revision, commit, before = self.pending
        self.pending = []
        first = self.service["deployments"][0]
        failed = [
            stopped(
                number * 100 + each,
                commit,
                revision,
                "EssentialContainerExited",
                "Essential container exited",
                exitCode=1,
            )
            for each in range(3)
        ]
        if outcome in ("completed", "lingering"):
            self.running = [task(number * 10 + each, commit, revision) for each in (1, 2)]
            self.running += [task(1, OLD, 1)] * (outcome == "lingering")
            self.service["deployments"] = [first | {"rolloutState": "COMPLETED"}]
            self.remember(number, commit, "SUCCESSFUL")
        elif outcome == "crashing":
            self.ended += failed
        else:
            self.ended += failed if outcome == "broken" else []
            old = int(before.rpartition(":")[2])
            by: dict[str, Json] = {
                "broken": {"deploymentCircuitBreaker": {"status": "TRIGGERED", "failureCount": 3, "threshold": 3}},
                "alarmed": {"alarms": {"status": "TRIGGERED", "triggeredAlarmNames": ["my-service-stage-errors"]}},
            }
            self.remember(number, commit, "ROLLBACK_SUCCESSFUL", **by[outcome])
            self.service["deployments"] = [self.deployment(number + 1, old, "COMPLETED", createdAt=datetime.now(UTC))]
            self.service["taskDefinition"] = before

    def asked(self, action: str) -> list[Json]:
        """Return the requests of an action."""
        return [ask for name, ask in self.requests if name == action]

    # What `aws` is asked ------------------------------------------------------------------------------------

    def ecs_describe_services(self, ask: Json) -> Json:
        if ask["cluster"] != "main":
            raise RefusedError("ClusterNotFoundException", "Cluster not found.")
        if ask["services"] != [self.service["serviceName"]]:
            return {"services": [], "failures": [{"arn": "x", "reason": "MISSING"}]}
        answer = deepcopy({"services": [self.service]})
        if self.pending:
            self.proceed()
        return answer

    def ecs_describe_task_definition(self, ask: Json) -> Json:
        found = deepcopy(self.definitions[ask["taskDefinition"]])
        return {"taskDefinition": found} | ({"tags": self.tags} if "TAGS" in ask.get("include", []) else {})

    def ecs_register_task_definition(self, ask: Json) -> Json:
        if any(tag["key"].startswith("aws:") for tag in ask.get("tags", [])):
            raise RefusedError("InvalidParameterException", "Tag keys must not begin with aws:")
        ask.pop("tags", None)
        return {"taskDefinition": self.register(ask)}

    def ecs_deregister_task_definition(self, ask: Json) -> Json:
        self.definitions[ask["taskDefinition"]]["status"] = "INACTIVE"
        return {"taskDefinition": self.definitions[ask["taskDefinition"]]}

    def ecs_update_service(self, ask: Json) -> Json:
        arn: str = ask.get("taskDefinition") or self.service["taskDefinition"]
        containers = self.definitions[arn]["containerDefinitions"]
        image = next(each["image"] for each in containers if each["name"] == "my-service")
        self.begin(int(arn.rpartition(":")[2]), commit_of(image))
        return {"service": deepcopy(self.service)}

    def ecs_list_tasks(self, ask: Json) -> Json:
        listed = self.running if ask["desiredStatus"] == "RUNNING" else self.ended
        return {"taskArns": [each["taskArn"] for each in listed]}

    def ecs_describe_tasks(self, ask: Json) -> Json:
        known = [*self.running, *self.ended, *self.ended_alone]
        return {"tasks": [each for each in known if each["taskArn"] in ask["tasks"]]}

    def ecs_list_service_deployments(self, ask: Json) -> Json:
        return {"serviceDeployments": [without(each, "more") for each in self.history]}

    def ecs_describe_service_deployments(self, ask: Json) -> Json:
        found = [each for each in self.history if each["serviceDeploymentArn"] in ask["serviceDeploymentArns"]]
        kept = [without(each, "targetServiceRevisionArn", "more") | each["more"] for each in found]
        return {"serviceDeployments": kept}

    def ecs_describe_service_revisions(self, ask: Json) -> Json:
        return {"serviceRevisions": [self.revisions[arn] for arn in ask["serviceRevisionArns"]]}

    def ecs_run_task(self, ask: Json) -> Json:
        self.ran.append(ask | {"definition": self.definitions[ask["taskDefinition"]]})
        made = task(900 + len(self.ran), OLD, 1, taskDefinitionArn=ask["taskDefinition"])
        ends = self.ends.pop(0) if self.ends else {"containers": [{"name": "my-service", "exitCode": 0}]}
        self.ended_alone.append(made | {"lastStatus": "STOPPED"} | ends)
        return {"tasks": [made]}

    def ecs_stop_task(self, ask: Json) -> Json:
        return {}

    def ecr_describe_images(self, ask: Json) -> Json:
        return {"imageDetails": [{"imageTags": [commit_of("@" + ask["imageIds"][0]["imageDigest"])]}]}

    def elbv2_describe_target_groups(self, ask: Json) -> Json:
        return {"TargetGroups": [self.group]}

    def elbv2_describe_target_group_attributes(self, ask: Json) -> Json:
        return {"Attributes": [{"Key": "deregistration_delay.timeout_seconds", "Value": self.delay}]}

    def elbv2_describe_target_health(self, ask: Json) -> Json:
        return {"TargetHealthDescriptions": self.health}

    def elbv2_describe_load_balancers(self, ask: Json) -> Json:
        return {"LoadBalancers": [{"DNSName": "lb.example.com", "Type": "application"}]}

    def elbv2_describe_load_balancer_attributes(self, ask: Json) -> Json:
        return {"Attributes": [{"Key": "idle_timeout.timeout_seconds", "Value": self.idle}]}

    def elbv2_describe_listeners(self, ask: Json) -> Json:
        return {"Listeners": [{"Port": 443, "Protocol": "HTTPS"}]}

    def cloudwatch_describe_alarms(self, ask: Json) -> Json:
        return {"MetricAlarms": self.alarms}

    def secretsmanager_describe_secret(self, ask: Json) -> Json:
        assert ask["SecretId"] == SECRET
        return {"ARN": SECRET, "LastChangedDate": self.secret_changed}

    def logs_filter_log_events(self, ask: Json) -> Json:
        pattern = ask.get("filterPattern", "").strip('"')
        return {"events": [each for each in self.log if pattern in each["message"]]}

    # How it is asked ----------------------------------------------------------------------------------------

    def answer(self, arguments: list[str]) -> tuple[str, str]:
        """Return the exit code and what `aws` prints for a command line; the code `real` is for the real one."""
        if arguments[:2] == ["ecr", "get-login-password"]:
            return "0", "password\n"
        if arguments[:2] == ["fsd", "deploy"]:
            self.calls.append("fsd")
            self.release(arguments[2])
            return "0", f"fsd {arguments[2]}\n"
        service, operation, *rest = arguments
        if rest[:4] != ["--region", REGION, "--output", "json"] or rest[4:5] != ["--cli-input-json"]:
            return "real", ""
        model = operations(service)[operation]
        prefix = {"elbv2": "elasticloadbalancing"}.get(service, service)
        action = f"{prefix}:{model.name}"
        self.calls.append(action)
        ask = json.loads(rest[5])
        method: Callable[[Json], Json] | None = getattr(self, f"{service}_{operation.replace('-', '_')}", None)
        try:
            if action in self.refuses:
                raise self.refuses[action]
            if method is None and self.real:
                return "real", ""
            assert method, f"nothing is known of {action} here"
            fits(ask, model.input_shape, action)
            self.requests.append((action, dict(ask)))
            found = method(ask)
            fits(found, model.output_shape, action)
        except RefusedError as refused:
            said = f"\nAn error occurred ({refused.code}) when calling the {model.name} operation: {refused}\n"
            return "254", said if refused.code else f"\n{refused}\n"
        return "0", json.dumps(found, default=lambda value: value.isoformat())


def without(value: Json, *names: str) -> Json:
    return {name: each for name, each in value.items() if name not in names}


def fits(value: Json, shape: Any, action: str) -> None:
    """Fail unless a request or an answer fits botocore's model of it."""
    report = ParamValidator().validate(value, shape)
    assert not report.has_errors(), f"{action}: {report.generate_report()}"


def serve(account: Account, folder: Path, real: str = "/nowhere/aws") -> socketserver.ThreadingTCPServer:
    """Put an `aws` and a `docker` into a folder, which ask this account; whoever calls this shuts the server down."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            def word() -> str:
                return b"".join(iter(lambda: self.rfile.read(1), b"\0")).decode()

            arguments = [word() for _ in range(int(word()))]
            try:
                code, text = account.answer(arguments)
            except Exception as error:
                code, text = "99", f"the stand-in failed: {error!r}\n"
            self.wfile.write(f"{code}\n{text}".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder.mkdir(exist_ok=True)
    programs = {"aws": AWS.format(port=server.server_address[1], real=real), "docker": DOCKER, "fsd": FSD}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return server
