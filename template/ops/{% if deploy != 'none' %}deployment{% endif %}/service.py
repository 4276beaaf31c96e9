"""What ECS knows of the running service: its tasks, its deployments, and why a task stopped. Kept by the template."""

import os
import re
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from answers import SERVICE
from aws import AwsError, Place, call, moment
from image import named

Json = dict[str, Any]
POLL = 2  # seconds
PATIENCE = 60  # seconds until a deployment has begun
CRASHES = 3  # new tasks that failed, after which nobody waits for the next
ENDED = {
    "ROLLBACK_SUCCESSFUL": "was rolled back",
    "ROLLBACK_IN_PROGRESS": "is being rolled back",
    "ROLLBACK_FAILED": "failed, and so did its rollback",
    "STOPPED": "was stopped",
}
# What a task's reason holds, in ECS's words, and what it means.
REASONS = {
    "CannotPull": "the image cannot be pulled. Is it there, may the execution role pull it, is there a way to ECR?",
    "ResourceInit.*(secret|ssm)": "a secret cannot be read. Does it exist, and may the execution role read it?",
    "ResourceInit": "it could not be prepared. Is there a way to ECR, Secrets Manager and CloudWatch Logs?",
    "container health checks": "it failed the container's health check",
    "health checks": "it failed the load balancer's health checks",
    "[Ss]pot": "AWS took the Spot capacity back",
}


def find(place: Place) -> Json | None:
    """Return the service as ECS describes it, or None if there is none."""
    if not place.cluster:
        file = f"deploy/{place.environment}.parameters"
        raise AwsError(f"Nothing says where {place.environment} is: write ClusterName=… into {file}.")
    try:
        found = call("ecs", "describe-services", cluster=place.cluster, services=[place.service])["services"]
    except AwsError as error:
        if error.code == "ClusterNotFoundException":
            raise AwsError(f"There is no cluster {place.cluster} in this account and region.") from None
        raise
    return found[0] if found and found[0]["status"] == "ACTIVE" else None


def describe(place: Place) -> Json:
    """Return the service, which must be there and deployed by ECS itself."""
    service = find(place)
    if service is None:
        raise AwsError(f"There is no service {place.service} in the cluster {place.cluster}.")
    controller = service.get("deploymentController", {}).get("type", "ECS")
    if controller != "ECS":
        who = {"CODE_DEPLOY": "AWS CodeDeploy"}.get(controller, "a program of its owner")
        raise AwsError(f"{place.service} has the deployment controller {controller}: only {who} can deploy it.")
    return service


def definition_of(arn: str) -> Json:
    """Return a task definition."""
    found: Json = call("ecs", "describe-task-definition", taskDefinition=arn)["taskDefinition"]
    return found


def container_of(definition: Json, service: Json, place: Place) -> Json:
    """Return the service's container: ContainerName's, the one of its name, the load balancer's, or the first essential."""
    containers: list[Json] = definition["containerDefinitions"]
    targets = [each.get("containerName") for each in service.get("loadBalancers", [])]
    for name in (place.parameters.get("ContainerName"), SERVICE, *targets):
        if named_so := [each for each in containers if each["name"] == name]:
            return named_so[0]
    return next((each for each in containers if each.get("essential", True)), containers[0])


def container(service: Json, place: Place) -> Json:
    """Return the service's container as the running task definition describes it."""
    return container_of(definition_of(service["taskDefinition"]), service, place)


def tasks(place: Place, status: str) -> list[Json]:
    """Return the tasks of the service that run, or those that have stopped in the last hour."""
    of = {"cluster": place.cluster, "serviceName": place.service, "desiredStatus": status}
    arns = call("ecs", "list-tasks", **of)["taskArns"]
    parts = [arns[at : at + 100] for at in range(0, len(arns), 100)]
    found = [call("ecs", "describe-tasks", cluster=place.cluster, tasks=part)["tasks"] for part in parts]
    return [task for part in found for task in part]


def primary(service: Json) -> Json:
    """Return the newest deployment of the service."""
    newest: Json = next(each for each in service["deployments"] if each["status"] == "PRIMARY")
    return newest


def deployments(place: Place) -> list[Json]:
    """Return the deployments that ECS has kept, the newest first."""
    found = call("ecs", "list-service-deployments", cluster=place.cluster, service=place.service)["serviceDeployments"]
    return sorted(found, key=lambda each: moment(each["createdAt"]), reverse=True)


def ending(place: Place) -> str:
    """Return how the newest deployment failed and by what, or "" if it did not fail."""
    newest = next(iter(deployments(place)), {"status": ""})
    if newest["status"] not in ENDED:
        return ""
    arns = [newest["serviceDeploymentArn"]]
    found = call("ecs", "describe-service-deployments", serviceDeploymentArns=arns)["serviceDeployments"][0]
    breaker, alarms = found.get("deploymentCircuitBreaker", {}), found.get("alarms", {})
    reason = found.get("rollback", {}).get("reason") or found.get("statusReason", "")
    if breaker.get("status") == "TRIGGERED":
        reason = f"by the circuit breaker: {breaker.get('failureCount')} tasks failed"
    elif alarms.get("status") == "TRIGGERED":
        reason = f"by the alarm {', '.join(alarms.get('triggeredAlarmNames', []))}"
    return f"{ENDED[found['status']]} {reason}".strip()


def why(task: Json, definition: Json, name: str) -> str:
    """Return in plain words why a task failed, or "" if nothing was wrong with it."""
    # The container that says most: an exit code or a reason, of the service rather than of a sidecar.
    ends = sorted(
        task.get("containers", []),
        key=lambda each: (not (each.get("exitCode") or each.get("reason")), each["name"] != name),
    )
    end: Json = next(iter(ends), {"name": name})
    described: Json = next((each for each in definition["containerDefinitions"] if each["name"] == end["name"]), {})
    code, crashed = end.get("exitCode"), task.get("stopCode") == "EssentialContainerExited"
    said = task.get("stoppedReason", "")
    reason, who = f"{said} {end.get('reason', '')}", "" if end["name"] == name else f" (container {end['name']})"
    memory = f"{described.get('memory') or definition.get('memory')} MiB{who}"
    if "OutOfMemory" in reason:
        return f"killed (137): it used more than its memory, {memory}"
    if code == 137 and crashed:
        return f"killed (137) while nobody stopped it: most likely by the memory limit, {memory}"
    if code == 137:
        timeout = f"{described.get('stopTimeout', 30)} s{who}"
        return f"killed (137): it did not stop within its stop timeout, {timeout}. {said}"
    for pattern, meaning in REASONS.items():
        if re.search(pattern, reason):
            return f"{meaning} {' '.join(reason.split())}" if meaning.endswith("?") else meaning
    if task.get("stopCode") == "TaskFailedToStart":
        return f"it could not start: {' '.join(reason.split())}"
    return f"it ended by itself with exit code {code}{who}" if crashed else ""


def failures(place: Place, name: str, arn: str = "") -> list[tuple[datetime, str, str]]:
    """Return when, which and why: the tasks that failed in the last hour, the newest first; of one definition, or of all."""
    stopped = [task for task in tasks(place, "STOPPED") if arn in ("", task["taskDefinitionArn"])]
    definitions = {of: definition_of(of) for of in {task["taskDefinitionArn"] for task in stopped}}
    found = [
        (moment(task.get("stoppedAt") or task["createdAt"]), task["taskArn"].rpartition("/")[2], reason)
        for task in stopped
        if (reason := why(task, definitions[task["taskDefinitionArn"]], name))
    ]
    return sorted(found, reverse=True)


def complaints(service: Json) -> list[str]:
    """Return what ECS says that it was unable to do, the newest first."""
    return [each["message"] for each in service.get("events", [])[:10] if "unable to" in each["message"]]


def report(service: Json, found: list[tuple[datetime, str, str]]) -> None:
    """Print why new tasks failed, each reason once; or else what ECS was unable to do."""
    for reason in list(dict.fromkeys(reason for *_, reason in found))[:5] or complaints(service)[:1]:
        print(f"A new task: {reason}", file=sys.stderr)


def wait(place: Place, image: str, deployment: str, since: datetime) -> str:
    """Wait for the end of a deployment, by its id or its image; return what is wrong, or "" if every task runs the image.

    `since` is when it was asked for: if nothing has begun since then, that may follow.
    """
    began, expected = time.monotonic(), ""
    waited = int(os.environ.get("WAIT_SECONDS") or 1800)
    while True:
        service = describe(place)
        newest, seconds = primary(service), time.monotonic() - began
        current = container_of(definition_of(newest["taskDefinition"]), service, place)
        state, name = newest.get("rolloutState", "COMPLETED"), current["name"]
        ours = newest["id"] == deployment if deployment else current["image"] == image
        if ours:
            expected = newest["taskDefinition"]
            ran = [each for task in tasks(place, "RUNNING") for each in task["containers"] if each["name"] == name]
            same = all(each.get("image") == image for each in ran) and bool(ran or not service["desiredCount"])
            if state == "COMPLETED" and same:
                print(f"{len(ran)} tasks run it, and the deployment is completed.", file=sys.stderr)
                return ""
            configuration = service.get("deploymentConfiguration", {})
            breaks = configuration.get("deploymentCircuitBreaker", {}).get("enable")
            if not breaks or configuration.get("strategy", "ROLLING") != "ROLLING":  # ECS would go on for hours
                failed = failures(place, name, expected)
                if len(failed) >= CRASHES:
                    report(service, failed)
                    return f"new tasks fail, and ECS goes on starting others: make rollback ENV={place.environment}"
        if state == "FAILED" if ours else expected or moment(newest["createdAt"]) >= since or seconds > PATIENCE:
            break
        if seconds > waited:
            return f"the deployment has not ended after {waited} s: make status ENV={place.environment}"
        time.sleep(POLL)
    if expected:
        report(service, failures(place, name, expected))
    ended = newest.get("rolloutStateReason", "")
    with suppress(AwsError):  # the role may not read it
        ended = ending(place) or ended
    return f"{place.service} runs {named(current['image'])}{'; the deployment ' if ended else ''}{ended}"


def restart(place: Place) -> None:
    """Replace the tasks by new ones of the same image, which read today's secrets."""
    image = container(describe(place), place)["image"]
    print(f"Restarting {place.service}, which runs {named(image)}.", file=sys.stderr)
    at, since = {"cluster": place.cluster, "service": place.service}, datetime.now(UTC)
    changed = call("ecs", "update-service", **at, forceNewDeployment=True)["service"]
    if wrong := wait(place, image, primary(changed)["id"], since):
        sys.exit(f"The restart has failed: {wrong}")


def before(place: Place) -> tuple[str, str]:
    """Return the image that runs and the one that ran before it, or "" if nothing ran before."""
    running = container(describe(place), place)
    arns = [each["targetServiceRevisionArn"] for each in deployments(place) if each["status"] == "SUCCESSFUL"]
    for arn in list(dict.fromkeys(arns))[:20]:
        (revision,) = call("ecs", "describe-service-revisions", serviceRevisionArns=[arn])["serviceRevisions"]
        for each in revision.get("containerImages", []):
            if each["containerName"] == running["name"] and each["image"] != running["image"]:
                return running["image"], each["image"]
    return running["image"], ""
