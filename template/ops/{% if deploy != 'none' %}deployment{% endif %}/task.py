"""`make task` runs a command once as the service runs; `make logs` follows its log. Kept by the template."""

import re
import shlex
import sys
import time
from datetime import UTC, datetime, timedelta

from aws import POLL, AwsError, Json, Place, call
from image import push
from service import Service, describe


class Log:
    """The log of a container, printed as far as CloudWatch has it."""

    def __init__(self, container: Json, begin: datetime, task: str = "", pattern: str = "") -> None:
        log = container.get("logConfiguration", {})
        self.driver, options = log.get("logDriver", "nowhere"), log.get("options", {})
        self.ask: Json = {"logGroupName": options.get("awslogs-group"), "startTime": int(begin.timestamp() * 1000)}
        if prefix := options.get("awslogs-stream-prefix"):
            self.ask["logStreamNamePrefix"] = f"{prefix}/{container['name']}/{task}"
        if pattern:  # in quotes it is text; without, CloudWatch reads signs as its own
            self.ask["filterPattern"] = pattern if re.match(r'[\w ]+$|["{\[%?-]', pattern) else f'"{pattern}"'
        self.printed: set[str] = set()
        self.exists = True

    def show(self) -> None:
        """Print new lines; a task that has not begun may have no log group yet."""
        try:
            events = call("logs", "filter-log-events", **self.ask)["events"] if self.driver == "awslogs" else []
        except AwsError as error:
            if "ResourceNotFoundException" not in str(error):
                raise
            self.exists = False
            return
        for event in events:
            if event["eventId"] not in self.printed:
                print(event["message"].rstrip("\n"), flush=True)
        self.printed = {event["eventId"] for event in events}
        if events:  # those of several tasks arrive in any order, some seconds late
            self.ask["startTime"] = max(self.ask["startTime"], events[-1]["timestamp"] - 10_000)


def logs(place: Place, since: str = "", pattern: str = "") -> int:
    """Follow the logs of the service and of its worker, from some time on; return 1 if CloudWatch has none."""
    ago = re.fullmatch(r"(\d+)([smhd])", since or "10m")
    if not ago:
        sys.exit("SINCE is how long ago, as in 30s, 10m, 2h or 1d.")
    begin = datetime.now(UTC) - timedelta(seconds=int(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]])
    followed = [Log(describe(each).container, begin, pattern=pattern) for each in place.services()]
    for each, log in zip(place.services(), followed, strict=True):
        if log.driver != "awslogs":
            print(f"The log of {each.service} goes to {log.driver}, not to CloudWatch.", file=sys.stderr)
        log.show()
        if not log.exists:
            print(f"There is no log group {log.ask['logGroupName']}: nothing that runs is logged.", file=sys.stderr)
    while any(log.driver == "awslogs" for log in followed):
        time.sleep(POLL)
        for log in followed:
            log.show()
    return 1


def run_alone(place: Place, command: str = "", commit: str = "") -> int:
    """Run a command in a task of its own, by the image of a commit or else the one that runs; return its exit code."""
    if not command.strip():
        sys.exit('CMD is missing: make task ENV=stage CMD="python -m …"')
    service = describe(place)
    return run(service, command, push(commit) if commit else service.image)


def run(service: Service, command: str, image: str) -> int:
    """Run a command in a task of its own and return its exit code."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        sys.exit(f"CMD is no command of a shell: {error}")
    # An override of a task cannot change its image, so the task has a definition of its own.
    service.definition["family"] += "-task"
    for each in service.definition["containerDefinitions"]:
        each["essential"] = each is service.container
        each.pop("portMappings", None)  # on EC2, the service may have the host's port
    service.use(image)
    service.container["command"] = words
    service.container.pop("healthCheck", None)  # the command answers no health check
    registered = service.register()
    try:
        settings = ("capacityProviderStrategy", "launchType", "networkConfiguration", "platformVersion")
        same = {key: service.described[key] for key in settings if service.described.get(key)}
        at = {"cluster": service.place.cluster, "taskDefinition": registered, "startedBy": "make-task"}
        started = call("ecs", "run-task", **at, **same)
        if started.get("failures"):
            sys.exit(f"The task cannot run: {started['failures'][0].get('reason')}")
        return follow(service, started["tasks"][0]["taskArn"])
    finally:
        call("ecs", "deregister-task-definition", taskDefinition=registered)


def follow(service: Service, task: str) -> int:
    """Print the log of a task until it ends and return its exit code."""
    cluster, name = service.place.cluster, service.container["name"]
    log = Log(service.container, datetime.now(UTC) - timedelta(hours=1), task.rpartition("/")[2])
    state: Json = {"lastStatus": ""}
    try:
        while state["lastStatus"] != "STOPPED":
            time.sleep(POLL)
            # ECS may not know yet a task that it has just started.
            state = (call("ecs", "describe-tasks", cluster=cluster, tasks=[task])["tasks"] or [state])[0]
            log.show()
    except BaseException:
        call("ecs", "stop-task", cluster=cluster, task=task, reason="make task was stopped")
        raise
    ended: Json = next((each for each in state["containers"] if each["name"] == name), {})
    if ended.get("exitCode") is None:
        sys.exit(f"The task has not run: {state.get('stoppedReason')} {ended.get('reason', '')}".rstrip())
    return int(ended["exitCode"])
