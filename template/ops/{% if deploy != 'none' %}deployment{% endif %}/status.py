"""`make status`: what runs, why tasks stopped, and whether the environment fits the service. Kept by the template.

It changes nothing. What it may not read it names, and goes on.
"""

import os
from datetime import UTC, datetime
from typing import Any

from aws import HEALTH_PATH, PORT, STOP_TIMEOUT, WORKERS, AwsError, Json, Place, call, moment
from image import commit_of
from service import Service, describe

DELAY = 30  # seconds that running requests have after their task has left the load balancer
MEMORY = 128  # MiB for each worker

wrong: list[str] = []  # what makes the exit code 1
notes: list[str] = []


def line(name: str, text: str, fault: str = "") -> None:
    """Print a fact, and keep what is wrong with it."""
    print(f"{name:<12}{text}".rstrip())
    wrong.extend([fault] if fault else [])


def read(nothing: Any, ask: Any, *arguments: Any, **parameters: Any) -> Any:
    """Return the answer of a function that asks AWS; where it may not be read, note that and return nothing."""
    try:
        return ask(*arguments, **parameters)
    except AwsError as error:
        if not any(text in str(error) for text in ("AccessDenied", "UnauthorizedOperation", "NotFound")):
            raise
        notes.append(f"Not known: {error}")
        return nothing


def since(at: datetime) -> str:
    """Return a time, and how long ago it is."""
    minutes = max(0, int((datetime.now(UTC) - at).total_seconds() // 60))
    ago = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {ago} ago"


def status(place: Place) -> int:
    """Print what is true of the service; return 1 if something is wrong."""
    service = describe(place)
    running = show_tasks(service)
    balancer, groups = show_balancer(service)
    show_alarms(service)
    check_secrets(service, running)
    for worker in place.services()[1:]:
        try:
            show_tasks(describe(worker))
        except AwsError as error:
            wrong.append(str(error))
    check(service, running, balancer, groups)
    for text in notes:
        line("note", text)
    for text in dict.fromkeys(wrong):
        line("WRONG", text)
    if not wrong:
        line("check", "the environment fits the service")
    return 1 if wrong else 0


def show_tasks(service: Service) -> list[Json]:
    """Print the newest deployment and how it ended, what the tasks run, and why tasks failed; return those that run."""
    print(f"{service.place.service} in the cluster {service.place.cluster}")
    newest, count, wanted = service.newest, service.described["runningCount"], service.described["desiredCount"]
    state, said = newest.get("rolloutState", "COMPLETED"), newest.get("rolloutStateReason", "")
    line("deployment", f"{state.lower().replace('_', ' ')}, since {since(moment(newest['updatedAt']))}")
    said = said if state == "FAILED" or "rolling back" in said else ""
    if ended := read("", service.ending) or said:
        wrong.append(f"The last deployment {ended}")
    if state == "IN_PROGRESS" and newest.get("failedTasks"):
        wrong.append(f"{newest['failedTasks']} tasks of the deployment in progress have failed")
    line("tasks", f"{count} of {wanted} run, {service.described['pendingCount']} start")
    if count < wanted:
        wrong.extend([*([] if count else ["No task runs"]), *service.unable()])
    running: list[tuple[Json, Json]] = read([], service.running)
    for image in dict.fromkeys(container.get("image", "") for container, _ in running):
        same = [(container, task) for container, task in running if container.get("image", "") == image]
        began = min(moment(task.get("startedAt") or task["createdAt"]) for _, task in same)
        line("commit", f"{commit_of(image) or 'not known'} on {len(same)} tasks, since {since(began)}")
        line("image", image if "@" in image else f"{image}, {same[0][0].get('imageDigest', '')}")
    for at, arn, reason in read([], service.failures)[:5]:
        line("stopped", f"{arn[-8:]}, {since(at)}: {reason}", f"A task failed: {reason}")
    return [task for _, task in running]


def show_balancer(service: Service) -> tuple[Json, list[Json]]:
    """Print the URL and the load balancer's view of each target; return the load balancer and the target groups."""

    def elb(operation: str, key: str, **of: Any) -> Any:
        return read({key: []}, call, "elbv2", operation, **of)[key]

    def attributes(operation: str, **of: Any) -> Json:
        return {each["Key"]: each["Value"] for each in elb(operation, "Attributes", **of)}

    listed = service.described.get("loadBalancers", [])
    arns = [each.get("targetGroupArn") for each in listed]
    arns += [each.get("advancedConfiguration", {}).get("alternateTargetGroupArn") for each in listed]
    arns = [arn for arn in arns if arn]
    groups = elb("describe-target-groups", "TargetGroups", TargetGroupArns=arns) if arns else []
    balancer: Json = {}
    if balancers := [arn for group in groups for arn in group.get("LoadBalancerArns", [])]:
        of = {"LoadBalancerArn": balancers[0]}
        for found in elb("describe-load-balancers", "LoadBalancers", LoadBalancerArns=balancers[:1]):
            balancer |= found
        balancer |= attributes("describe-load-balancer-attributes", **of)
        listeners = elb("describe-listeners", "Listeners", **of)
        scheme = "https" if any(each.get("Protocol") in ("HTTPS", "TLS") for each in listeners) else "http"
        host = service.place.parameters.get("HostName") or balancer.get("DNSName", "")
        line("url", os.environ.get("SERVICE_URL") or f"{scheme}://{host}")
    for group in groups:
        of = {"TargetGroupArn": group["TargetGroupArn"]}
        group |= attributes("describe-target-group-attributes", **of)
        for each in elb("describe-target-health", "TargetHealthDescriptions", **of):
            target, health = each["Target"], each["TargetHealth"]
            text = f"{target['Id']}:{target.get('Port')} is {health['State']} {health.get('Description', '')}".rstrip()
            bad = health["State"] in ("unhealthy", "unused")
            line("target", text, f"The load balancer says that {text}" if bad else "")
    return balancer, groups


def show_alarms(service: Service) -> None:
    """Print the alarms that guard a deployment, or those that are named after the service."""
    names = service.described.get("deploymentConfiguration", {}).get("alarms", {}).get("alarmNames", [])
    ask: Json = {"AlarmNames": names} if names else {"AlarmNamePrefix": service.place.service}
    answer = read({}, call, "cloudwatch", "describe-alarms", **ask)
    for alarm in [*answer.get("MetricAlarms", []), *answer.get("CompositeAlarms", [])]:
        name, state = alarm["AlarmName"], alarm["StateValue"]
        fault = f"The alarm {name} is on: {alarm.get('StateReason', '')}"
        scales = any(":scalingPolicy:" in action for action in alarm.get("AlarmActions", []))  # it may be on for days
        line("alarm", f"{name}: {state}", fault if state == "ALARM" and not scales else "")


def check_secrets(service: Service, running: list[Json]) -> None:
    """Note the secrets that have changed since the oldest task started."""
    began = [moment(task["startedAt"]) for task in running if task.get("startedAt")]
    containers = service.definition["containerDefinitions"]
    for source in sorted({each["valueFrom"] for container in containers for each in container.get("secrets", [])}):
        if ":secretsmanager:" in source:
            found = read({}, call, "secretsmanager", "describe-secret", SecretId=":".join(source.split(":")[:7]))
            changed = found.get("LastChangedDate")
        else:
            ask = [{"Key": "Name", "Values": [source.partition(":parameter")[2] or source]}]
            found = read({}, call, "ssm", "describe-parameters", ParameterFilters=ask)
            changed = next((each["LastModifiedDate"] for each in found.get("Parameters", [])), None)
        if began and changed and moment(changed) > min(began):
            text = f"is newer than the tasks, {since(moment(changed))}: make restart ENV={service.place.environment}"
            wrong.append(f"The secret {source.split(':secret:')[-1].split(':')[0]} {text}")


def number(variables: dict[str, str], name: str, default: int) -> int:
    """Return the number that a variable of the container says; with anything else, the service does not start."""
    value = variables.get(name, str(default)).strip()
    if value.isdecimal():
        return int(value)
    wrong.append(f"{name} is {value!r}, which is no number")
    return default


def check(service: Service, running: list[Json], balancer: Json, groups: list[Json]) -> None:
    """Compare the environment with what the service needs."""
    container, targets = service.container, service.described.get("loadBalancers", [])
    variables = {each["name"]: each["value"] for each in container.get("environment", [])}
    ports = [each["containerPort"] for each in container.get("portMappings", []) if "containerPort" in each]
    sent = [each["containerPort"] for each in targets if each["containerName"] == container["name"]]
    stop = container.get("stopTimeout", 30)
    # On EC2, there may be only a reservation, or nothing.
    memory = int(container.get("memory") or service.definition.get("memory") or container.get("memoryReservation") or 0)
    workers = number(variables, "WEB_CONCURRENCY", WORKERS)
    need = workers * MEMORY
    locked = container.get("readonlyRootFilesystem")
    mounts = [*container.get("linuxParameters", {}).get("tmpfs", []), *container.get("mountPoints", [])]
    scratch = "/tmp" in [each["containerPath"] for each in mounts]
    undone = not service.rolling or (service.breaker.get("enable") and service.breaker.get("rollback"))
    network = service.described.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
    subnets = len(network.get("subnets", []))
    zones = {task["availabilityZone"] for task in running if "availabilityZone" in task}  # ECS Anywhere has none
    spread = subnets == 1 or len(running) < 2 or len(zones) != 1
    hops = number(variables, "TRUSTED_HOPS", 0)
    proxies = 1 if targets and balancer.get("Type") != "network" else 0
    idle = int(balancer.get("idle_timeout.timeout_seconds", 0))
    keep = number(variables, "KEEPALIVE", 75)

    # What must be true, and the sentence where it is not; a note where that may be meant.
    rules = [
        (wrong, not ports or PORT in ports, f"The service listens on port {PORT}, and the container maps {ports}"),
        (wrong, set(sent) <= {PORT}, f"The load balancer sends to {sent}, and the service listens on port {PORT}"),
        (wrong, stop >= STOP_TIMEOUT, f"stopTimeout is {stop} s, and the image needs {STOP_TIMEOUT} s to stop"),
        (wrong, not memory or memory >= need, f"{workers} workers need {need} MiB, and the task has {memory}"),
        (wrong, scratch or not locked, "The root file system is read-only, and /tmp cannot be written to"),
        (notes, locked, "The root file system can be written to: readonlyRootFilesystem and a tmpfs at /tmp are safer"),
        (wrong, undone, "No circuit breaker rolls back a deployment whose tasks fail"),
        (wrong, subnets != 1, "All tasks are in one subnet, and so in one availability zone"),
        (wrong, spread, f"All tasks are in one availability zone, {', '.join(zones)}"),
        (wrong, hops >= proxies, f"TRUSTED_HOPS is {hops} behind a load balancer: clients have its address"),
        (notes, hops <= proxies, f"TRUSTED_HOPS is {hops}: right if {hops - proxies} more proxies come before"),
        (wrong, idle < keep, f"The load balancer's idle timeout, {idle} s, must be below KEEPALIVE, {keep} s"),
    ]
    for group in groups:
        name, path = f"The target group {group['TargetGroupName']}", group.get("HealthCheckPath", HEALTH_PATH)
        delay = int(group.get("deregistration_delay.timeout_seconds", DELAY))
        rules += [
            (wrong, not sent or path == HEALTH_PATH, f"{name} checks {path}, and the service answers {HEALTH_PATH}"),
            (wrong, delay >= DELAY, f"{name} has a deregistration delay of {delay} s; requests need {DELAY} s"),
            (notes, delay <= 4 * DELAY, f"{name} has a deregistration delay of {delay} s; {DELAY} s are enough"),
        ]
    for found, fits, sentence in rules:
        found.extend([] if fits else [sentence])
