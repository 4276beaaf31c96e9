"""`make status`: what runs, why tasks stopped, and whether the environment fits the service. Kept by the template.

It changes nothing. What it may not read it names, and goes on.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from answers import HEALTH_PATH, PORT, STOP_TIMEOUT, WORKERS
from aws import AwsError, Place, call, moment
from image import commit_of
from service import Json, complaints, container_of, definition_of, describe, ending, failures, primary, tasks

DELAY = 30  # seconds that running requests have after their task has left the load balancer
MEMORY = 128  # MiB for each worker

wrong: list[str] = []  # what makes the exit code 1
notes: list[str] = []


def line(name: str, text: str) -> None:
    """Print a fact."""
    print(f"{name:<12}{text}".rstrip())


def read(nothing: Any, ask: Any, *arguments: Any, **parameters: Any) -> Any:
    """Return the answer of a function that asks AWS; where it may not be read, note that and return nothing."""
    try:
        return ask(*arguments, **parameters)
    except AwsError as error:
        if not any(text in error.code for text in ("AccessDenied", "UnauthorizedOperation", "NotFound")):
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
    definition = definition_of(service["taskDefinition"])
    container = container_of(definition, service, place)
    running = read([], tasks, place, "RUNNING")
    environment = {each["name"]: each["value"] for each in container.get("environment", [])}
    print(f"{place.service} in the cluster {place.cluster}")
    show_tasks(place, service, running, container["name"])
    groups, balancer = show_balancer(place, service)
    show_alarms(service)
    check_secrets(place, definition, running)
    if worker := place.worker():
        second = describe(worker)
        name = container_of(definition_of(second["taskDefinition"]), second, worker)["name"]
        print(f"{worker.service} in the cluster {worker.cluster}")
        show_tasks(worker, second, read([], tasks, worker, "RUNNING"), name)
    wrong.extend(task_faults(service, definition, container, environment))
    wrong.extend(network_faults(service, running, balancer, groups, environment))
    for text in notes:
        line("note", text)
    for text in dict.fromkeys(wrong):
        line("WRONG", text)
    if not wrong:
        line("check", "the environment fits the service")
    return 1 if wrong else 0


def show_tasks(place: Place, service: Json, running: list[Json], name: str) -> None:
    """Print the newest deployment and how it ended, what the tasks run, and why tasks failed."""
    newest, count = primary(service), service["runningCount"]
    state, said = newest.get("rolloutState", "COMPLETED"), newest.get("rolloutStateReason", "")
    line("deployment", f"{state.lower().replace('_', ' ')}, since {since(moment(newest['updatedAt']))}")
    said = said if state == "FAILED" or "rolling back" in said else ""
    if ended := read("", ending, place) or said:
        wrong.append(f"The last deployment {ended}")
    if state == "IN_PROGRESS" and newest.get("failedTasks"):
        wrong.append(f"{newest['failedTasks']} tasks of the deployment in progress have failed")
    line("tasks", f"{count} of {service['desiredCount']} run, {service['pendingCount']} start")
    if count < service["desiredCount"]:
        wrong.extend([*([] if count else ["No task runs"]), *complaints(service)[:1]])
    ran = [(each, task) for task in running for each in task["containers"] if each["name"] == name]
    for image in dict.fromkeys(each.get("image", "") for each, _ in ran):
        same = [(each, task) for each, task in ran if each.get("image", "") == image]
        began = min(moment(task.get("startedAt") or task["createdAt"]) for _, task in same)
        line("commit", f"{commit_of(image) or 'not known'} on {len(same)} tasks, since {since(began)}")
        line("image", image if "@" in image else f"{image}, {same[0][0].get('imageDigest', '')}")
    for at, task, reason in read([], failures, place, name)[:5]:
        line("stopped", f"{task[-8:]}, {since(at)}: {reason}")
        wrong.append(f"A task failed: {reason}")


def show_balancer(place: Place, service: Json) -> tuple[list[Json], Json]:
    """Print the URL and the load balancer's view of each target; return the target groups and the load balancer."""

    def elb(operation: str, key: str, **of: Any) -> Any:
        return read({key: []}, call, "elbv2", operation, **of)[key]

    listed = service.get("loadBalancers", [])
    arns = [each.get("targetGroupArn") for each in listed]
    arns += [each.get("advancedConfiguration", {}).get("alternateTargetGroupArn") for each in listed]
    arns = [arn for arn in arns if arn]
    groups = elb("describe-target-groups", "TargetGroups", TargetGroupArns=arns) if arns else []
    balancer: Json = {}
    if balancers := [arn for group in groups for arn in group.get("LoadBalancerArns", [])]:
        of = {"LoadBalancerArn": balancers[0]}
        balancer = next(iter(elb("describe-load-balancers", "LoadBalancers", LoadBalancerArns=balancers[:1])), {})
        balancer["Attributes"] = elb("describe-load-balancer-attributes", "Attributes", **of)
        listeners = elb("describe-listeners", "Listeners", **of)
        scheme = "https" if any(each.get("Protocol") in ("HTTPS", "TLS") for each in listeners) else "http"
        host = place.parameters.get("HostName") or balancer.get("DNSName", "")
        line("url", os.environ.get("SERVICE_URL") or f"{scheme}://{host}")
    for group in groups:
        of = {"TargetGroupArn": group["TargetGroupArn"]}
        group["Attributes"] = elb("describe-target-group-attributes", "Attributes", **of)
        for each in elb("describe-target-health", "TargetHealthDescriptions", **of):
            target, health = each["Target"], each["TargetHealth"]
            text = f"{target['Id']}:{target.get('Port')} is {health['State']} {health.get('Description', '')}".rstrip()
            line("target", text)
            if health["State"] in ("unhealthy", "unused"):
                wrong.append(f"The load balancer says that {text}")
    return groups, balancer


def show_alarms(service: Json) -> None:
    """Print the alarms that guard a deployment, or those that are named after the service."""
    names = service.get("deploymentConfiguration", {}).get("alarms", {}).get("alarmNames", [])
    ask: Json = {"AlarmNames": names} if names else {"AlarmNamePrefix": service["serviceName"]}
    answer = read({}, call, "cloudwatch", "describe-alarms", **ask)
    for alarm in [*answer.get("MetricAlarms", []), *answer.get("CompositeAlarms", [])]:
        line("alarm", f"{alarm['AlarmName']}: {alarm['StateValue']}")
        if alarm["StateValue"] == "ALARM":
            wrong.append(f"The alarm {alarm['AlarmName']} is on: {alarm.get('StateReason', '')}")


def check_secrets(place: Place, definition: Json, running: list[Json]) -> None:
    """Note the secrets that have changed since the oldest task started."""
    began = [moment(task["startedAt"]) for task in running if task.get("startedAt")]
    containers = definition["containerDefinitions"]
    for source in sorted({each["valueFrom"] for container in containers for each in container.get("secrets", [])}):
        if ":secretsmanager:" in source:
            found = read({}, call, "secretsmanager", "describe-secret", SecretId=":".join(source.split(":")[:7]))
            changed = found.get("LastChangedDate")
        else:
            ask = [{"Key": "Name", "Values": [source.partition(":parameter")[2] or source]}]
            found = read({}, call, "ssm", "describe-parameters", ParameterFilters=ask)
            changed = next((each["LastModifiedDate"] for each in found.get("Parameters", [])), None)
        if began and changed and moment(changed) > min(began):
            text = f"is newer than the tasks, {since(moment(changed))}: make restart ENV={place.environment}"
            wrong.append(f"The secret {source.split(':secret:')[-1].split(':')[0]} {text}")


def task_faults(service: Json, definition: Json, container: Json, environment: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the task definition and with how ECS replaces tasks."""
    ports = [each["containerPort"] for each in container.get("portMappings", [])]
    if PORT not in ports:
        yield f"The service listens on port {PORT}, and the container maps {ports}"
    for target in service.get("loadBalancers", []):
        if target["containerName"] == container["name"] and target["containerPort"] != PORT:
            yield f"The load balancer sends to port {target['containerPort']}, and the service listens on {PORT}"
    timeout = container.get("stopTimeout", 30)
    if timeout < STOP_TIMEOUT:
        yield f"stopTimeout is {timeout} s, and the image needs {STOP_TIMEOUT} s to stop"
    memory = int(container.get("memory") or definition.get("memory") or 0)
    workers = int(environment.get("WEB_CONCURRENCY", WORKERS))
    if memory < workers * MEMORY:
        yield f"{workers} workers need {workers * MEMORY} MiB, and the task has {memory}"
    linux = container.get("linuxParameters", {})
    writable = [each["containerPath"] for each in [*linux.get("tmpfs", []), *container.get("mountPoints", [])]]
    if not container.get("readonlyRootFilesystem"):
        notes.append("The root file system can be written to: readonlyRootFilesystem and a tmpfs at /tmp are safer")
    elif "/tmp" not in writable:
        yield "The root file system is read-only, and /tmp cannot be written to"
    configuration = service.get("deploymentConfiguration", {})
    breaker = configuration.get("deploymentCircuitBreaker", {})
    rolling = configuration.get("strategy", "ROLLING") == "ROLLING"
    if rolling and not (breaker.get("enable") and breaker.get("rollback")):
        yield "No circuit breaker rolls back a deployment whose tasks fail"


def network_faults(
    service: Json, running: list[Json], balancer: Json, groups: list[Json], environment: dict[str, str]
) -> Iterator[str]:
    """Yield what is wrong with the way from clients to tasks."""
    zones = {str(task.get("availabilityZone")) for task in running}
    if len(service.get("networkConfiguration", {}).get("awsvpcConfiguration", {}).get("subnets", [])) == 1:
        yield "All tasks are in one subnet, and so in one availability zone"
    elif len(running) > 1 and len(zones) == 1:
        yield f"All tasks are in one availability zone, {zones.pop()}"
    proxies = 1 if service.get("loadBalancers") and balancer.get("Type") != "network" else 0
    hops = int(environment.get("TRUSTED_HOPS", 0))
    if hops > proxies:
        notes.append(f"TRUSTED_HOPS is {hops}: right if {hops - proxies} more proxies stand before the load balancer")
    elif hops < proxies:
        yield f"TRUSTED_HOPS is {hops}, and the load balancer forwards requests: clients have its address"
    idle = attribute(balancer, "idle_timeout.timeout_seconds", 0)
    keepalive = int(environment.get("KEEPALIVE", 75))
    if idle >= keepalive:
        yield f"The load balancer's idle timeout is {idle} s, and KEEPALIVE {keepalive} s must be longer: requests fail"
    for group in groups:
        name, path = f"The target group {group['TargetGroupName']}", group.get("HealthCheckPath", HEALTH_PATH)
        delay = attribute(group, "deregistration_delay.timeout_seconds", DELAY)
        if path != HEALTH_PATH:
            yield f"{name} checks {path}, and the service answers {HEALTH_PATH}"
        if delay < DELAY:
            yield f"{name} cuts off requests after {delay} s (deregistration delay); give them {DELAY} s"
        elif delay > 4 * DELAY:
            notes.append(f"{name} lets a task leave after {delay} s only (deregistration delay); {DELAY} s are enough")


def attribute(thing: Json, key: str, default: int) -> int:
    """Return a number among the attributes of a load balancer or a target group."""
    return int(next((each["Value"] for each in thing.get("Attributes", []) if each["Key"] == key), default))
