"""What ECS knows of the running service: its tasks, its deployments, and why a task stopped. Kept by the template."""

import os
import re
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from aws import POLL, SERVICE, AwsError, Json, Place, call, moment
from image import REPOSITORY, named, processor

PATIENCE = 60  # seconds until a deployment has begun
CRASHES = 3  # new tasks that failed, after which nobody waits for the next
ENDED = {
    "ROLLBACK_SUCCESSFUL": "was rolled back",
    "ROLLBACK_IN_PROGRESS": "is being rolled back",
    "ROLLBACK_FAILED": "failed, and so did its rollback",
    "STOPPED": "was stopped",
}
# What a task's stop code, exit code and reason hold, in ECS's words, and why it failed; the first that fits counts.
REASONS = {
    "OutOfMemory": "killed (137): it used more than its memory{limit}{who}",
    "^EssentialContainerExited 137": "killed (137) while nobody stopped it: most likely by the memory limit{limit}{who}",
    r"^\w+ 137": "killed (137): it did not stop within its stop timeout, {timeout} s{who}. {reason}",
    "CannotPull": "the image cannot be pulled. Is it there, may the execution role pull it, is there a way to ECR? {reason}",
    "ResourceInit.*(secret|ssm)": "a secret cannot be read. Does it exist, and may the execution role read it? {reason}",
    "ResourceInit": "it could not be prepared. Is there a way to ECR, Secrets Manager and CloudWatch Logs? {reason}",
    "container health checks": "it failed the container's health check",
    "health checks": "it failed the load balancer's health checks",
    "[Ss]pot": "AWS took the Spot capacity back",
    "^TaskFailedToStart": "it could not start: {reason}",
    "^EssentialContainerExited": "it ended by itself with exit code {code}{who}",
}


class Service:
    """A service as ECS describes it now: its newest deployment, the task definition, and its own container in that."""

    def __init__(self, place: Place, described: Json) -> None:
        self.place, self.described, self.newest = place, described, primary(described)
        self.at = {"cluster": place.cluster, "service": place.service}
        answer = call("ecs", "describe-task-definition", taskDefinition=described["taskDefinition"], include=["TAGS"])
        self.definition: Json = answer["taskDefinition"]
        self.tags: list[Json] = answer.get("tags", [])
        configuration = described.get("deploymentConfiguration", {})
        self.rolling = configuration.get("strategy", "ROLLING") == "ROLLING"
        self.breaker: Json = configuration.get("deploymentCircuitBreaker", {})  # of a rolling deployment
        self.container: Json = max(self.definition["containerDefinitions"], key=self.likeness)
        self.image = str(self.container["image"])

    def likeness(self, container: Json) -> list[bool]:
        """Return why a container may be the service's own, the best reason first; a sidecar may be essential, too."""
        name = container["name"]
        return [
            name == self.place.parameters.get("ContainerName"),
            name == SERVICE,
            container["image"].startswith((f"{REPOSITORY}@", f"{REPOSITORY}:")),
            name in [each.get("containerName") for each in self.described.get("loadBalancers", [])],
            container.get("essential", True),
        ]

    def use(self, image: str) -> None:
        """Run another image in the definition, on the processor that it is for."""
        platform: Json = self.definition.get("runtimePlatform", {})
        needed = processor(image) if image != self.image else ""
        if needed and needed != platform.get("cpuArchitecture", "X86_64"):
            self.definition["runtimePlatform"] = platform | {"cpuArchitecture": needed}
        self.container["image"] = image

    def update(self, **change: Any) -> str:
        """Change the service, and return the id of the deployment that begins."""
        return str(primary(call("ecs", "update-service", **self.at, **change)["service"])["id"])

    def register(self) -> str:
        """Register the task definition as it has been changed here; return its ARN."""
        # What ECS adds to a task definition and does not take back, and tags that CloudFormation gave.
        added = {"compatibilities", "deregisteredAt", "registeredAt", "registeredBy", "requiresAttributes"}
        added |= {"deleteRequestedAt", "revision", "status", "taskDefinitionArn"}
        definition = {key: value for key, value in self.definition.items() if key not in added}
        if own := [tag for tag in self.tags if not tag["key"].startswith("aws:")]:
            definition["tags"] = own
        return str(call("ecs", "register-task-definition", **definition)["taskDefinition"]["taskDefinitionArn"])

    def tasks(self, status: str) -> list[Json]:
        """Return the tasks that run, or those that have stopped in the last hour."""
        of = {"cluster": self.place.cluster, "serviceName": self.place.service, "desiredStatus": status}
        arns = call("ecs", "list-tasks", **of)["taskArns"]
        parts = [arns[at : at + 100] for at in range(0, len(arns), 100)]
        found = [call("ecs", "describe-tasks", cluster=self.place.cluster, tasks=part)["tasks"] for part in parts]
        return [task for part in found for task in part]

    def running(self) -> list[tuple[Json, Json]]:
        """Return the service's container in each task that runs, and the task."""
        name = self.container["name"]
        return [(each, task) for task in self.tasks("RUNNING") for each in task["containers"] if each["name"] == name]

    def failures(self, definition: str = "") -> list[tuple[datetime, str, str]]:
        """Return when, which and why: tasks that failed in the last hour, the newest first; of one definition or of all."""
        stopped = [task for task in self.tasks("STOPPED") if definition in ("", task["taskDefinitionArn"])]
        found = []
        for arn in {task["taskDefinitionArn"] for task in stopped}:
            ran = call("ecs", "describe-task-definition", taskDefinition=arn)["taskDefinition"]
            for task in (each for each in stopped if each["taskDefinitionArn"] == arn):
                if reason := why(task, ran, self.container["name"]):
                    found.append((moment(task.get("stoppedAt") or task["createdAt"]), task["taskArn"], reason))
        return sorted(found, reverse=True)

    def unable(self) -> list[str]:
        """Return what ECS was last unable to do, or nothing."""
        events = self.described.get("events", [])[:10]
        return [each["message"] for each in events if "unable to" in each["message"]][:1]

    def report(self, definition: str) -> None:
        """Print why tasks of a definition failed, each reason once; or else what ECS was unable to do."""
        reasons = dict.fromkeys(reason for *_, reason in self.failures(definition))
        for reason in list(reasons)[:5] or self.unable():
            print(f"A new task: {reason}", file=sys.stderr)

    def crashes(self) -> bool:
        """Return whether new tasks fail, and ECS would start others for hours."""
        ends = self.rolling and self.breaker.get("enable")
        return not ends and len(self.failures(self.newest["taskDefinition"])) >= CRASHES

    def deployments(self) -> list[Json]:
        """Return the deployments that ECS has kept, the newest first."""
        found = call("ecs", "list-service-deployments", **self.at)["serviceDeployments"]
        return sorted(found, key=lambda each: moment(each["createdAt"]), reverse=True)

    def ending(self) -> str:
        """Return how the newest deployment failed and by what, or "" if it did not fail."""
        newest = next(iter(self.deployments()), {"status": ""})
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

    def ran(self) -> str:
        """Return what runs after a deployment that failed, and how that ended."""
        ended = self.newest.get("rolloutStateReason", "")
        with suppress(AwsError):  # the role may not read it
            ended = self.ending() or ended
        return f"{self.place.service} runs {named(self.image)}{'; the deployment ' if ended else ''}{ended}"

    def before(self) -> str:
        """Return the image that ran before this one, or "" if nothing ran before."""
        arns = [each["targetServiceRevisionArn"] for each in self.deployments() if each["status"] == "SUCCESSFUL"]
        for arn in list(dict.fromkeys(arns))[:20]:
            (revision,) = call("ecs", "describe-service-revisions", serviceRevisionArns=[arn])["serviceRevisions"]
            for each in revision.get("containerImages", []):
                if each["containerName"] == self.container["name"] and each["image"] != self.image:
                    return str(each["image"])
        return ""


def primary(described: Json) -> Json:
    """Return the newest deployment of a service."""
    newest: Json = next(each for each in described["deployments"] if each["status"] == "PRIMARY")
    return newest


def why(task: Json, definition: Json, name: str) -> str:
    """Return in plain words why a task failed, or "" if nothing was wrong with it."""
    # The container that says most: an exit code or a reason, of the service rather than of a sidecar.
    ends: list[Json] = task.get("containers") or [{"name": name}]
    end = min(ends, key=lambda each: (not (each.get("exitCode") or each.get("reason")), each["name"] != name))
    container: Json = next((each for each in definition["containerDefinitions"] if each["name"] == end["name"]), {})
    memory = container.get("memory") or definition.get("memory")  # on EC2, there may be no limit
    reason = " ".join(f"{task.get('stoppedReason', '')} {end.get('reason', '')}".split())
    said = f"{task.get('stopCode')} {end.get('exitCode')} {reason}"
    return next((meaning for pattern, meaning in REASONS.items() if re.search(pattern, said)), "").format(
        limit=f", {memory} MiB" if memory else "",
        timeout=container.get("stopTimeout", 30),
        code=end.get("exitCode"),
        reason=reason,
        who="" if end["name"] == name else f" (container {end['name']})",
    )


def find(place: Place) -> Service | None:
    """Return the service, or None if there is none; ECS itself must deploy it."""
    if not place.cluster:
        file = f"deploy/{place.environment}.parameters"
        raise AwsError(f"Nothing says where {place.environment} is: write ClusterName=… into {file}.")
    found = call("ecs", "describe-services", cluster=place.cluster, services=[place.service])["services"]
    if not found or found[0]["status"] != "ACTIVE":
        return None
    controller = found[0].get("deploymentController", {}).get("type", "ECS")
    if controller != "ECS":
        raise AwsError(f"{place.service} has the deployment controller {controller}: only that can deploy it.")
    return Service(place, found[0])


def describe(place: Place) -> Service:
    """Return the service, which must be there."""
    if service := find(place):
        return service
    raise AwsError(f"There is no service {place.service} in the cluster {place.cluster}.")


def wait(place: Place, image: str, deployment: str, since: datetime, failed: str) -> None:
    """Wait until a deployment, known by its id or its image, is completed; if it fails, end with `failed` and the reason.

    `since` is when it was asked for: if nothing has begun since then, that may follow.
    """
    began, limit = time.monotonic(), int(os.environ.get("WAIT_SECONDS") or 1800)
    definition = ""  # of the deployment, once it is seen
    while True:
        service, seconds, fault = describe(place), time.monotonic() - began, ""
        newest = service.newest
        state = newest.get("rolloutState", "COMPLETED")
        if newest["id"] == deployment if deployment else service.image == image:
            definition, running = newest["taskDefinition"], service.running()
            old = [container for container, _ in running if container.get("image") != image]
            if state == "COMPLETED" and not old and (running or not service.described["desiredCount"]):
                print(f"{len(running)} tasks run it, and the deployment is completed.", file=sys.stderr)
                return
            if service.crashes():
                fault = f"new tasks fail, and ECS goes on starting others: make rollback ENV={place.environment}"
            elif state == "FAILED":
                fault = service.ran()
        elif definition or moment(newest["createdAt"]) >= since or seconds > PATIENCE:
            fault = service.ran()
        if not fault and seconds > limit:
            fault = f"the deployment has not ended after {limit} s: make status ENV={place.environment}"
        if fault:
            if definition:
                service.report(definition)
            sys.exit(f"{failed}: {fault}")
        time.sleep(POLL)


def restart(place: Place) -> None:
    """Replace the tasks by new ones of the same image, which read today's secrets."""
    for service in [describe(each) for each in place.services()]:  # each must be there before one is restarted
        since, image = datetime.now(UTC), service.image
        print(f"Restarting {service.place.service}, which runs {named(image)}.", file=sys.stderr)
        wait(service.place, image, service.update(forceNewDeployment=True), since, "The restart has failed")
