"""`make status`: what it says of a service in each state, and of each thing that does not fit."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.account import GROUP, NEW, NOW, OLD, Account, RefusedError, image_of, stopped, task
from tests.deploy.operating import Operated, operate
from tests.support.template import Render

Change = Callable[[Account], Any]
EXITED, FAILED = "EssentialContainerExited", "TaskFailedToStart"
EXPIRED = "The security token included in the request is expired"


@pytest.fixture(scope="module")
def rendered(render: Render) -> Path:
    return render(aws_account_id="111122223333")


@pytest.fixture(scope="module")
def looked_at(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return operate(rendered, tmp_path_factory.mktemp("status"), Account())


@pytest.fixture
def operated(looked_at: Operated) -> Operated:
    """A service with an account that nobody has changed yet."""
    looked_at.account.__init__()  # type: ignore[misc]
    return looked_at


def wrong(said: str) -> list[str]:
    """Return what the output calls wrong."""
    return [line.removeprefix("WRONG").strip() for line in said.splitlines() if line.startswith("WRONG")]


def test_a_healthy_service(operated: Operated) -> None:
    done = operated.run("status", "stage")
    assert (done.returncode, done.stderr) == (0, "")
    began = f"{NOW - timedelta(hours=3):%Y-%m-%d %H:%M} UTC, 3 h ago"
    assert done.stdout.splitlines() == [
        "my-service-stage in the cluster main",
        f"deployment  completed, since {began}",
        "tasks       2 of 2 run, 0 start",
        f"commit      {OLD} on 2 tasks, since {began}",
        f"image       {image_of(OLD)}",
        "url         https://lb.example.com",
        "target      10.0.0.1:8000 is healthy",
        "target      10.0.0.2:8000 is healthy",
        "alarm       my-service-stage-errors: OK",
        "check       the environment fits the service",
    ]
    called = {call.partition(":")[2] for call in operated.account.calls}
    assert all(name.startswith(("Describe", "List")) for name in called), "it changes something"


def test_a_deployment_in_progress_shows_both_commits_and_what_failed(operated: Operated) -> None:
    account = operated.account
    account.outcome = "slow"
    account.begin(1, NEW)
    account.pending = []
    account.service["deployments"][0] |= {"failedTasks": 2}
    account.running.append(task(3, NEW, 1))
    done = operated.run("status", "stage")
    assert wrong(done.stdout) == ["2 tasks of the deployment in progress have failed"]
    assert "deployment  in progress" in done.stdout
    assert f"{OLD} on 2 tasks" in done.stdout
    assert f"{NEW} on 1 tasks" in done.stdout


@pytest.mark.parametrize(
    ("outcome", "faults"),
    [
        (
            "broken",
            [
                "The last deployment was rolled back by the circuit breaker: 3 tasks failed",
                "A task failed: it ended by itself with exit code 1",
            ],
        ),
        ("alarmed", ["The last deployment was rolled back by the alarm my-service-stage-errors"]),
    ],
)
def test_a_rollback_is_said_with_what_caused_it(operated: Operated, outcome: str, faults: list[str]) -> None:
    operated.account.outcome = outcome
    operated.account.begin(1, NEW)
    operated.account.proceed()
    done = operated.run("status", "stage")
    assert (done.returncode, wrong(done.stdout)) == (1, faults)
    assert f"{OLD} on 2 tasks" in done.stdout


REPLACED = "Scaling activity initiated by (deployment ecs-svc/1)"
PULL = "CannotPullContainerError: pull image manifest has been retried 7 time(s): not found"
SECRET = (
    "ResourceInitializationError: unable to pull secrets or registry auth: unable to retrieve secret from asm: denied"
)
NETWORK = "ResourceInitializationError: unable to pull registry auth: i/o timeout"
# How tasks end, and what that is in plain words; "" is no failure.
ENDS: list[tuple[tuple[str, str], Any, str]] = [
    (
        (EXITED, "Essential container in task exited"),
        {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"},
        "killed (137): it used more than its memory, 2048 MiB",
    ),
    (
        (EXITED, "Essential container in task exited"),
        {"exitCode": 137},
        "killed (137) while nobody stopped it: most likely by the memory limit, 2048 MiB",
    ),
    (
        ("ServiceSchedulerInitiated", REPLACED),
        {"exitCode": 137},
        f"killed (137): it did not stop within its stop timeout, 30 s. {REPLACED}",
    ),
    ((EXITED, "Essential container in task exited"), {"exitCode": 3}, "it ended by itself with exit code 3"),
    ((EXITED, "Essential container in task exited"), {"exitCode": 0}, "it ended by itself with exit code 0"),
    (("ServiceSchedulerInitiated", REPLACED), {"exitCode": 0}, ""),
    (("ServiceSchedulerInitiated", REPLACED), {"exitCode": 143}, ""),
    (("UserInitiated", "Stopped by a person"), {"exitCode": 0}, ""),
    (("SpotInterruption", "Your Spot Task was interrupted."), {}, "AWS took the Spot capacity back"),
    (
        (FAILED, PULL),
        {},
        "the image cannot be pulled. Is it there, may the execution role pull it, is there a way to ECR? " + PULL,
    ),
    (
        (FAILED, SECRET),
        {},
        "a secret cannot be read. Does it exist, and may the execution role read it? " + SECRET,
    ),
    (
        (FAILED, NETWORK),
        {},
        "it could not be prepared. Is there a way to ECR, Secrets Manager and CloudWatch Logs? " + NETWORK,
    ),
    (
        (FAILED, "Capacity is unavailable at this time."),
        {},
        "it could not start: Capacity is unavailable at this time.",
    ),
    (
        ("ServiceSchedulerInitiated", "Task failed ELB health checks in (target-group x)"),
        {},
        "it failed the load balancer's health checks",
    ),
    (
        ("ServiceSchedulerInitiated", "Task failed container health checks"),
        {},
        "it failed the container's health check",
    ),
]


def test_each_end_of_a_task_is_said_in_plain_words(operated: Operated) -> None:
    account = operated.account
    for at in range(0, len(ENDS), 5):  # so many are shown
        some = ENDS[at : at + 5]
        account.ended = [
            stopped(number, OLD, 1, *how, **container) | {"stoppedAt": NOW - timedelta(minutes=number)}
            for number, (how, container, _) in enumerate(some)
        ]
        done = operated.run("status", "stage")
        said = [line.partition(" ago: ")[2] for line in done.stdout.splitlines() if line.startswith("stopped")]
        assert said == [words for *_, words in some if words]
        assert wrong(done.stdout) == [f"A task failed: {words}" for words in said]


def test_a_sidecar_that_ends_the_task_is_named(operated: Operated) -> None:
    account = operated.account
    router = {"name": "router", "memory": 64, "image": "x"}
    account.definitions[account.service["taskDefinition"]]["containerDefinitions"].append(router)
    account.ended = [stopped(7, OLD, 1, EXITED, "Essential container in task exited", exitCode=0)]
    account.ended[0]["containers"].append({"name": "router", "exitCode": 137, "reason": "OutOfMemoryError"})
    done = operated.run("status", "stage")
    assert wrong(done.stdout) == [
        "A task failed: killed (137): it used more than its memory, 64 MiB (container router)"
    ]


def test_what_the_environment_says_is_wrong(operated: Operated) -> None:
    account = operated.account
    message = "(service x) was unable to place a task."
    account.service |= {"runningCount": 0, "events": [{"id": "1", "createdAt": NOW, "message": message}]}
    account.alarms[0].update(StateValue="ALARM", StateReason="Threshold crossed")
    account.health[0]["TargetHealth"].update(State="unhealthy", Description="Health checks failed")
    account.secret_changed = NOW - timedelta(hours=2, minutes=59)
    done = operated.run("status", "stage")
    *first, secret = wrong(done.stdout)
    assert first == [
        "No task runs",
        message,
        "The load balancer says that 10.0.0.1:8000 is unhealthy Health checks failed",
        "The alarm my-service-stage-errors is on: Threshold crossed",
    ]
    assert secret.startswith("The secret payments-AbCdEf is newer than the tasks, ")
    assert secret.endswith(" ago: make restart ENV=stage")
    assert "target      10.0.0.1:8000 is unhealthy Health checks failed" in done.stdout


def container(**values: Any) -> Change:
    return lambda account: account.container.update(values)


def service(**values: Any) -> Change:
    return lambda account: account.service.update(values)


def variable(name: str, value: str) -> Change:
    def change(account: Account) -> None:
        others = [each for each in account.container["environment"] if each["name"] != name]
        account.container["environment"] = [*others, {"name": name, "value": value}]

    return change


# Each changes one thing that must be wrong then; those of a list do not hide each other.
FAULTS: list[list[tuple[Change, str]]] = [
    [
        (
            container(portMappings=[{"containerPort": 80}]),
            "The service listens on port 8000, and the container maps [80]",
        ),
        (
            service(loadBalancers=[{"containerName": "my-service", "containerPort": 80, "targetGroupArn": GROUP}]),
            "The load balancer sends to [80], and the service listens on port 8000",
        ),
        (container(stopTimeout=10), "stopTimeout is 10 s, and the image needs 30 s to stop"),
        (variable("WEB_CONCURRENCY", "17"), "17 workers need 2176 MiB, and the task has 2048"),
        (container(linuxParameters={}), "The root file system is read-only, and /tmp cannot be written to"),
        (service(deploymentConfiguration={}), "No circuit breaker rolls back a deployment whose tasks fail"),
        (
            service(networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-1"]}}),
            "All tasks are in one subnet, and so in one availability zone",
        ),
        (
            variable("TRUSTED_HOPS", "0"),
            "TRUSTED_HOPS is 0 behind a load balancer: clients have its address",
        ),
        (
            lambda account: setattr(account, "idle", "75"),
            "The load balancer's idle timeout, 75 s, must be below KEEPALIVE, 75 s",
        ),
        (
            lambda account: account.group.update(HealthCheckPath="/"),
            "The target group my-service checks /, and the service answers /health",
        ),
        (
            lambda account: setattr(account, "delay", "5"),
            "The target group my-service has a deregistration delay of 5 s; requests need 30 s",
        ),
    ],
    [
        (
            service(deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": False}}),
            "No circuit breaker rolls back a deployment whose tasks fail",
        ),
        (
            lambda account: [each.update(availabilityZone="us-east-1a") for each in account.running],
            "All tasks are in one availability zone, us-east-1a",
        ),
        (
            variable("KEEPALIVE", "60"),
            "The load balancer's idle timeout, 60 s, must be below KEEPALIVE, 60 s",
        ),
    ],
    [(variable("WEB_CONCURRENCY", ""), "WEB_CONCURRENCY is '', which is no number")],
]
# What may be meant so.
NOTES: list[tuple[Change, str]] = [
    (
        container(readonlyRootFilesystem=False),
        "The root file system can be written to: readonlyRootFilesystem and a tmpfs at /tmp are safer",
    ),
    (variable("TRUSTED_HOPS", "2"), "TRUSTED_HOPS is 2: right if 1 more proxies come before"),
    (
        lambda account: setattr(account, "delay", "300"),
        "The target group my-service has a deregistration delay of 300 s; 30 s are enough",
    ),
]


@pytest.mark.parametrize("faults", FAULTS)
def test_what_does_not_fit_the_service_is_wrong(operated: Operated, faults: list[tuple[Change, str]]) -> None:
    for change, _ in faults:
        change(operated.account)
    done = operated.run("status", "stage")
    assert wrong(done.stdout) == [fault for _, fault in faults]
    assert done.returncode == 1


def test_what_may_be_meant_is_a_note(operated: Operated) -> None:
    for change, _ in NOTES:
        change(operated.account)
    done = operated.run("status", "stage")
    noted = [line.removeprefix("note").strip() for line in done.stdout.splitlines() if line.startswith("note")]
    assert noted == [note for _, note in NOTES]
    assert done.returncode == 0


MAY_BE_DENIED = [
    "ecs:ListTasks",
    "ecs:ListServiceDeployments",
    "elasticloadbalancing:DescribeTargetGroups",
    "elasticloadbalancing:DescribeTargetHealth",
    "elasticloadbalancing:DescribeLoadBalancerAttributes",
    "cloudwatch:DescribeAlarms",
    "secretsmanager:DescribeSecret",
]


@pytest.mark.parametrize("actions", [[action] for action in MAY_BE_DENIED[:3]] + [MAY_BE_DENIED[3:]])
def test_what_may_not_be_read_is_named_and_the_rest_is_said(operated: Operated, actions: list[str]) -> None:
    for action in actions:
        text = f"User: arn:aws:sts::111122223333:assumed-role/x is not authorized to perform: {action}"
        operated.account.refuses[action] = RefusedError("AccessDeniedException", text)
    done = operated.run("status", "stage")
    assert done.returncode == 0, done
    assert [action for action in actions if f"is not authorized to perform: {action}" not in done.stdout] == []
    assert "deployment  completed" in done.stdout
    assert done.stdout.splitlines()[-1] == "check       the environment fits the service"


def test_a_failed_deployment_is_wrong_for_those_who_may_not_list_deployments(operated: Operated) -> None:
    reason = "ECS deployment circuit breaker: tasks failed to start."
    operated.account.service["deployments"][0] |= {"rolloutState": "FAILED", "rolloutStateReason": reason}
    denied = RefusedError("AccessDeniedException", "User: x is not authorized to perform: that")
    operated.account.refuses["ecs:ListServiceDeployments"] = denied
    done = operated.run("status", "stage")
    assert (done.returncode, wrong(done.stdout)) == (1, [f"The last deployment {reason}"])


# What AWS says, with its code, and the one line that is printed.
REFUSALS = [
    (
        "AccessDeniedException",
        "User: x is not authorized to perform: ecs:DescribeServices",
        "is not authorized to perform",
    ),
    ("ThrottlingException", "Rate exceeded", "AWS takes no more calls now (throttling): try again in a minute."),
    ("ExpiredTokenException", EXPIRED, "The AWS credentials have expired: log in again."),
    ("InvalidParameterException", "No service expired-carts", "No service expired-carts (InvalidParameterException)"),
    (
        "UnrecognizedClientException",
        "The security token is invalid",
        "AWS does not know these credentials: log in again.",
    ),
    (
        "",
        'Unable to locate credentials. You can configure credentials by running "aws configure".',
        "aws has no credentials",
    ),
    (
        "",
        "Error when retrieving token from sso: Token has expired and refresh failed",
        "The AWS credentials have expired",
    ),
]


@pytest.mark.parametrize("command", ["status", "restart", "rollback", "logs", "task", "deploy"])
def test_every_command_says_in_one_line_why_it_cannot_begin(
    rendered: Path, render: Render, tmp_path: Path, command: str
) -> None:
    if command == "deploy":
        rendered = render(aws_account_id="111122223333", deploy="ecs")
    operated = operate(rendered, tmp_path, Account())
    more = {"task": ["true"], "deploy": [NEW]}.get(command, [])

    def said(environment: str = "stage", **env: str) -> str:
        done = operated.run(command, environment, *more, **env)
        assert done.returncode == 1, done
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        return line

    for code, text, line in REFUSALS if command == "status" else REFUSALS[:1]:
        operated.account.refuses["ecs:DescribeServices"] = RefusedError(code, text)
        assert line in said()
    operated.account.refuses.clear()
    operated.account.service["deploymentController"] = {"type": "EXTERNAL"}
    assert "has the deployment controller EXTERNAL: only that can deploy it." in said()
    assert not [call for call in operated.account.calls if not call.startswith("ecs:Describe")], "half done"
    assert said(ECS_CLUSTER="other") == "There is no cluster other in this account and region."
    assert said(ECS_SERVICE="other") == "There is no service other in the cluster main."
    if command not in ("status", "deploy"):
        return
    assert said("prod") == "Nothing says where prod is: write ClusterName=… into deploy/prod.parameters."
    assert said("Prod") == f"ENV is 1 to 16 characters of a-z, 0-9 and -, a letter first: make {command} ENV=stage"


def test_a_service_without_a_load_balancer(operated: Operated) -> None:
    operated.account.service["loadBalancers"] = []
    variable("TRUSTED_HOPS", "0")(operated.account)
    done = operated.run("status", "stage")
    assert done.returncode == 0, done
    assert not [call for call in operated.account.calls if call.startswith("elasticloadbalancing")]


def on_ec2(account: Account) -> None:
    """A bridge with ports of the host, memory that is reserved and not limited, and step scaling."""
    definition = account.definitions[account.service["taskDefinition"]]
    del definition["cpu"], definition["memory"], account.service["launchType"], account.service["networkConfiguration"]
    definition |= {"networkMode": "bridge", "requiresCompatibilities": ["EC2"]}
    account.container.update(memoryReservation=256, portMappings=[{"containerPort": 8000, "hostPort": 0}])
    account.service["capacityProviderStrategy"] = [{"capacityProvider": "instances", "weight": 1}]
    account.health = [{"Target": {"Id": "i-1", "Port": 32768}, "TargetHealth": {"State": "healthy"}}]
    policy = "arn:aws:autoscaling:us-east-1:111122223333:scalingPolicy:1:resource/ecs/service/x:policyName/less"
    account.alarms[0].update(StateValue="ALARM", AlarmActions=[policy])


def on_own_machines(account: Account) -> None:
    """ECS Anywhere: no zones, no load balancer; this one has no limit of memory either."""
    on_ec2(account)
    del account.container["memoryReservation"], account.service["capacityProviderStrategy"]
    account.definitions[account.service["taskDefinition"]]["networkMode"] = "host"
    account.service |= {"launchType": "EXTERNAL", "loadBalancers": []}
    for each in account.running:
        del each["availabilityZone"]
    variable("TRUSTED_HOPS", "0")(account)


def behind_a_proxy(account: Account) -> None:
    """The load balancer sends to a sidecar, which asks the service on loopback."""
    target = {"containerName": "proxy", "containerPort": 80, "targetGroupArn": GROUP}
    account.service["loadBalancers"] = [target]
    account.group["HealthCheckPath"] = "/"
    variable("TRUSTED_HOPS", "2")(account)
    proxy = {"name": "proxy", "image": "nginx", "portMappings": [{"containerPort": 80}]}
    definition = account.definitions[account.service["taskDefinition"]]
    del account.container["portMappings"]
    account.container["name"] = "app"
    definition["containerDefinitions"].insert(0, proxy)
    for each in account.running:
        each["containers"] = [{"name": "proxy", "image": "nginx"}, {"name": "app", "image": image_of(OLD)}]


@pytest.mark.parametrize("change", [on_ec2, on_own_machines, behind_a_proxy])
def test_a_healthy_service_that_somebody_else_made(operated: Operated, change: Change) -> None:
    change(operated.account)
    done = operated.run("status", "stage")
    assert wrong(done.stdout) == []
    assert (done.returncode, done.stderr) == (0, "")
    assert f"commit      {OLD} on 2 tasks" in done.stdout


def test_on_ec2_a_reservation_may_be_too_small_and_a_limit_unknown(operated: Operated) -> None:
    on_ec2(operated.account)
    operated.account.container["memoryReservation"] = 64
    operated.account.ended = [stopped(7, OLD, 1, EXITED, "Essential container in task exited", exitCode=137)]
    assert wrong(operated.run("status", "stage").stdout) == [
        "A task failed: killed (137) while nobody stopped it: most likely by the memory limit",
        "1 workers need 128 MiB, and the task has 64",
    ]


def test_a_worker_that_is_not_there_hides_nothing_else(operated: Operated) -> None:
    with (operated.path / "deploy/stage.parameters").open("a") as parameters:
        parameters.write("WorkerServiceName=jobs\n")
    container(stopTimeout=10)(operated.account)
    done = operated.run("status", "stage")
    (operated.path / "deploy/stage.parameters").write_text("ClusterName=main\n")
    assert wrong(done.stdout) == [
        "There is no service jobs in the cluster main.",
        "stopTimeout is 10 s, and the image needs 30 s to stop",
    ]


def test_the_line_of_the_file_names_the_service_and_its_container(operated: Operated) -> None:
    (operated.path / "deploy/stage.parameters").write_text("ClusterName=main\nServiceName=other\nContainerName=app\n")
    operated.account.service["serviceName"] = "other"
    operated.account.container["name"] = "app"
    done = operated.run("status", "stage")
    assert done.stdout.startswith("other in the cluster main\n"), done
