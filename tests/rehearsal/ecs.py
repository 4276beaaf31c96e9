"""ECS: tasks as their definition says, and deployments as their service says."""

import json
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil, floor
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tests.deploy.stack import Parameters, Stack, make
from tests.rehearsal.balancer import Balancer, Target
from tests.support.commands import wait_until
from tests.support.containers import docker

TICK = 0.5  # seconds between two looks at the tasks


def referred(stack: Stack, reference: str) -> dict[str, Any]:
    """Return the properties of a resource that another one refers to, as `<Name>` or `<Name.Attribute>`."""
    return stack[reference.strip("<>").partition(".")[0]].properties


class Definition:
    """What a deployment makes of the file."""

    def __init__(self, template: Path, parameters: Parameters) -> None:
        self.stack = make(template, parameters)
        services = [each.properties for each in self.stack.values() if each.type == "AWS::ECS::Service"]
        (self.service,) = (each for each in services if "LoadBalancers" in each)
        self.task = referred(self.stack, self.service["TaskDefinition"])
        (self.container,) = self.task["ContainerDefinitions"]
        (self.attached,) = self.service["LoadBalancers"]
        self.group = referred(self.stack, self.attached["TargetGroupArn"])

    def arguments(self, secrets: dict[str, str]) -> list[str]:
        """Return the options and the image for `docker run`; secrets are by key, as in `ARN:KEY::`."""
        container = self.container
        linux = container["LinuxParameters"]
        environment = {each["Name"]: each["Value"] for each in container["Environment"]}
        environment |= {each["Name"]: secrets[each["ValueFrom"].split(":")[-3]] for each in container["Secrets"]}
        cpus = min(int(self.task["Cpu"]) / 1024, os.cpu_count() or 1)  # it cannot have more than there are
        health = container["HealthCheck"]
        assert health["Command"][0] == "CMD"
        options = [
            f"--cpus={cpus}",
            f"--memory={self.task['Memory']}m",
            f"--memory-swap={self.task['Memory']}m",
            f"--user={container['User']}",
            *(["--read-only"] if container["ReadonlyRootFilesystem"] == "True" else []),
            *(["--init"] if linux["InitProcessEnabled"] == "True" else []),
            *(f"--cap-drop={each}" for each in linux["Capabilities"]["Drop"]),
            *(
                f"--tmpfs={each['ContainerPath']}:size={each['Size']}m,{','.join(each['MountOptions'])}"
                for each in linux["Tmpfs"]
            ),
            f"--health-cmd={shlex.join(health['Command'][1:])}",
            f"--health-interval={health['Interval']}s",
            f"--health-start-interval={health['Interval']}s",  # ECS knows no other interval at the start
            f"--health-timeout={health['Timeout']}s",
            f"--health-start-period={health['StartPeriod']}s",
            f"--health-retries={health['Retries']}",
            *(f"--env={name}={value}" for name, value in environment.items()),
            *(f"--publish=127.0.0.1::{each['ContainerPort']}" for each in container["PortMappings"]),
        ]
        return [*options, container["Image"]]


class Task:
    """A running container that the load balancer knows."""

    def __init__(self, definition: Definition, name: str, target: Target) -> None:
        self.definition = definition
        self.name = name
        self.target = target
        self.began = time.monotonic()
        self.status = "starting"
        self.trusted = False  # of the tasks that were there before the rehearsal
        self.was_healthy = False
        self.stopping = False

    @property
    def healthy(self) -> bool:
        well = self.status == "healthy" or (self.trusted and self.status == "starting")
        return well and self.target.state == "healthy" and not self.stopping

    @property
    def failing(self) -> bool:
        """Whether ECS replaces it: the load balancer's checks count after the grace period."""
        grace = float(self.definition.service["HealthCheckGracePeriodSeconds"])
        late = time.monotonic() - self.began > grace
        return self.status == "unhealthy" or (late and self.target.state == "unhealthy")


class Service:
    """A service with its load balancer. What is deployed happens in a thread of its own."""

    def __init__(self, definition: Definition, balancer: Balancer, tasks: int, secrets: dict[str, str]) -> None:
        self.balancer = balancer
        self.desired = tasks
        self.secrets = secrets
        self.tasks: list[Task] = []
        self.primary = self.completed = definition
        self.rolled_back = False
        self._failures = 0
        self._label = f"rehearsal={uuid.uuid4().hex}"
        self._ended = Event()
        self._scheduler = Thread(target=self._schedule)
        self._doing: list[Thread] = []
        self._error: Exception | None = None

    @classmethod
    @contextmanager
    def running(
        cls, proxy: str, definition: Definition, tasks: int = 0, secrets: dict[str, str] | None = None
    ) -> Iterator["Service"]:
        """Have a service up, whose tasks are healthy, with the least number of tasks where none is given."""
        targets = [each for each in definition.stack.values() if each.type.endswith("ScalableTarget")]
        (scaling,) = (each for each in targets if each.properties["ResourceId"].endswith("/<Service.Name>"))
        listeners = [each for each in definition.stack.values() if each.type.endswith("::Listener")]
        (listener,) = (each for each in listeners if definition.attached["TargetGroupArn"] in each.forwards())
        balancer = referred(definition.stack, listener.properties["LoadBalancerArn"])
        with ExitStack() as stack:
            made = stack.enter_context(Balancer.running(proxy, balancer, definition.group))
            service = cls(definition, made, tasks or int(scaling.properties["MinCapacity"]), secrets or {})
            stack.callback(service._end)
            for _ in range(service.desired):
                service._start(definition).trusted = True
            wait_until(lambda: all(made.answers(task.target) for task in service.tasks))
            for task in service.tasks:
                task.target.state = "healthy"
            made.send_to_the_healthy()
            service._scheduler.start()
            yield service

    def deploy(self, definition: Definition) -> None:
        """Begin a deployment."""
        assert definition.group == self.balancer.group, "a change of the target group is not rehearsed"
        self.primary, self.rolled_back, self._failures = definition, False, 0

    def roll_back(self) -> None:
        """Go back to what was deployed last, as the circuit breaker and the alarms do."""
        self.primary, self.rolled_back, self._failures = self.completed, True, 0

    def wait(self, seconds: float = 600) -> None:
        """Return when the deployment is done: the new tasks are healthy, the old ones are gone."""

        def is_steady() -> bool:
            if self._error:
                raise self._error
            same = [task for task in self.tasks if task.definition is self.primary and task.healthy]
            return len(same) == len(self.tasks) == self.desired

        wait_until(is_steady, seconds)
        self.completed = self.primary

    def run(self, definition: Definition, *command: str) -> None:
        """Run a command once, in a task of this definition."""
        docker("run", "--rm", *definition.arguments(self.secrets), *command)

    def interrupt(self, task: Task) -> None:
        """Take a task of Fargate Spot away: ECS deregisters it, and sends SIGTERM at once."""
        task.stopping = True
        self._do(lambda: self.balancer.deregister(task.target))
        self._do(lambda: self._stop_container(task))

    def kill(self, task: Task) -> None:
        """End a task without a warning."""
        docker("kill", task.name)
        task.status = "unhealthy"  # until ECS sees that it has ended

    def _start(self, definition: Definition) -> Task:
        name = docker("run", "--detach", f"--label={self._label}", *definition.arguments(self.secrets))
        (found,) = json.loads(docker("inspect", name))
        port = definition.attached["ContainerPort"]
        ports = found["NetworkSettings"]["Ports"] or {}
        host = ports.get(f"{port}/tcp") or [{"HostPort": "1"}]  # of a container that has ended already
        address = f"{found['NetworkSettings']['IPAddress'] or '127.0.0.1'}:{port}"
        task = Task(definition, name, self.balancer.register(address, ("127.0.0.1", int(host[0]["HostPort"]))))
        self.tasks.append(task)
        return task

    def _stop(self, task: Task) -> None:
        """Stop a task as ECS does: it leaves the load balancer, and gets SIGTERM once it has left."""
        task.stopping = True

        def stop() -> None:
            self.balancer.deregister(task.target)
            self._stop_container(task)

        self._do(stop)

    def _do(self, what: Callable[[], None]) -> None:
        """Do something meanwhile."""
        thread = Thread(target=what)
        self._doing.append(thread)
        thread.start()

    def _stop_container(self, task: Task) -> None:
        docker("stop", "-t", task.definition.container["StopTimeout"], task.name)
        docker("rm", "--force", task.name)
        self.tasks.remove(task)

    def _schedule(self) -> None:
        try:
            while not self._ended.wait(TICK):
                self._look()
                self._act()
        except Exception as error:
            self._error = error

    def _look(self) -> None:
        """See how the tasks are, and end those that ECS gives up."""
        form = "{{.ID}}\t{{.State}}\t{{.Status}}"
        found = docker("ps", "--all", "--no-trunc", f"--filter=label={self._label}", f"--format={form}")
        states = {name: (state, status) for name, state, status in (line.split("\t") for line in found.splitlines())}
        for task in [task for task in self.tasks if not task.stopping and task.name in states]:
            state, status = states[task.name]
            task.status = next((each for each in ("unhealthy", "healthy") if f"({each})" in status), "starting")
            task.was_healthy |= task.healthy
            if state != "running" or task.failing:
                if task.definition is self.primary and not task.was_healthy:
                    self._failures += 1
                self._stop(task)

    def _act(self) -> None:
        """Start and stop tasks within the limits of the deployment."""
        configuration = self.primary.service["DeploymentConfiguration"]
        breaker = configuration.get("DeploymentCircuitBreaker", {})
        if breaker.get("Enable") == "True" and self._failures >= min(200, max(3, ceil(self.desired / 2))):
            assert breaker["Rollback"] == "True"
            self.roll_back()
        least = ceil(self.desired * int(configuration["MinimumHealthyPercent"]) / 100)
        most = floor(self.desired * int(configuration["MaximumPercent"]) / 100)
        running = [task for task in self.tasks if not task.stopping]
        new = [task for task in running if task.definition is self.primary]
        new.sort(key=lambda task: not task.healthy)
        old = [task for task in running if task.definition is not self.primary]
        for task in [*old, *new[self.desired :]]:
            if not task.healthy or sum(each.healthy for each in running) > least:
                self._stop(task)
        running = [task for task in self.tasks if not task.stopping]
        for _ in range(min(self.desired - len(new), most - len(running))):
            self._start(self.primary)

    def _end(self) -> None:
        """Remove all that is there."""
        self._ended.set()
        if self._scheduler.ident:
            self._scheduler.join()
        for thread in self._doing:
            thread.join()
        for task in self.tasks:
            task.target.left.set()
        if names := docker("ps", "--all", "--quiet", f"--filter=label={self._label}").split():
            subprocess.run(["docker", "rm", "--force", *names], capture_output=True)
