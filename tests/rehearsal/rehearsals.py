"""What is rehearsed, each under load, with the requests that were lost."""

import json
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

from tests.database.cluster import Server
from tests.rehearsal.balancer import DOCKERFILE
from tests.rehearsal.ecs import Definition, Service
from tests.rehearsal.load import Load
from tests.support.commands import edit, run, wait_until
from tests.support.containers import docker

PARAMETERS = {
    "Environment": "stage",
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "ClusterName": "main",
}
QUICK = "/hello/Ada"
ROUTE = '''

@router.get("/sleep/{seconds}")
async def sleep(seconds: float) -> None:
    """Answer late."""
    await asyncio.sleep(seconds)
'''
# Images of the same service, by what differs from the first.
IMAGES = {
    "first": "",
    "second": "ENV SERVICE_VERSION=second",
    "crashing": 'CMD ["gunicorn", "my_service.gone:app"]',
    "never healthy": 'CMD ["python", "-m", "http.server", "8000"]',  # 404 at the health path
}


@dataclass
class Outcome:
    """What a rehearsal has counted."""

    what: str
    sent: int
    lost: list[str]
    seconds: float


class Stage:
    """A rendered service, its images, and the proxy's image."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.template = repository / "deploy/service.yml"
        self.prefix = f"rehearsal-{uuid.uuid4().hex[:8]}"
        route = repository / "src/my_service/routers/hello.py"
        edit(route, "\nfrom fastapi", "\nimport asyncio\n\nfrom fastapi")
        route.write_text(route.read_text() + ROUTE)

    @classmethod
    @contextmanager
    def built(cls, repository: Path) -> Iterator["Stage"]:
        """Build the images; they are removed at the end."""
        stage = cls(repository)
        try:
            run("make", "build", f"IMAGE={stage.image('first')}", "VERSION=first", cwd=repository)
            for name, difference in list(IMAGES.items())[1:]:
                stage.build(name, difference)
            stage._build("proxy", DOCKERFILE)
            yield stage
        finally:
            images = docker("images", "--quiet", f"--filter=reference={stage.prefix}:*").split()
            subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True)

    def image(self, name: str) -> str:
        return f"{self.prefix}:{name.replace(' ', '-')}"

    def build(self, name: str, difference: str) -> None:
        """Build an image from the first one, with files of the repository's source."""
        self._build(name, f"FROM {self.image('first')}\n{difference}\n")

    def _build(self, name: str, dockerfile: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".Dockerfile") as file:
            file.write(dockerfile)
            file.flush()
            run(
                "docker",
                "build",
                "--quiet",
                f"--tag={self.image(name)}",
                f"--file={file.name}",
                self.repository / "src",
            )

    def definition(self, image: str, edits: dict[str, str] | None = None, **parameters: str) -> Definition:
        """Return what an image and these parameters make of the file, or of the file with these edits."""
        template = self.template
        if edits:
            text = template.read_text()
            for old, new in edits.items():
                assert old in text, f"the file has no {old!r}"
                text = text.replace(old, new)
            template = self.repository / f"deploy/{uuid.uuid4().hex}.yml"
            template.write_text(text)
        return Definition(template, PARAMETERS | parameters | {"ImageUri": self.image(image)})


@dataclass
class Rehearsal:
    """A service that is up on a stage, and how many requests a second it gets."""

    stage: Stage
    service: Service
    rate: float
    path: str = QUICK

    @classmethod
    @contextmanager
    def on(cls, stage: Stage, rate: float, definition: Definition | None = None, **options: Any) -> Iterator[Self]:
        """Have the service up, as the first image is or as a definition says."""
        with Service.running(stage.image("proxy"), definition or stage.definition("first"), **options) as service:
            yield cls(stage, service, rate)

    def under_load(self, what: str, happens: Callable[[], object]) -> Outcome:
        """Let something happen while requests are sent, until the service is steady again."""
        with Load.on(self.service.balancer.port, self.rate, self.path) as load:
            time.sleep(3)
            began = time.monotonic()
            happens()
            self.service.wait()
            seconds = time.monotonic() - began
            time.sleep(1)
        return Outcome(what, load.sent, load.lost, seconds)

    def deploy(self, image: str) -> None:
        self.service.deploy(self.stage.definition(image))

    def answers(self, path: str) -> set[str]:
        """Return the different answers of the tasks that serve."""
        found = set()
        for _ in range(4 * self.service.desired):
            connection = HTTPConnection("127.0.0.1", self.service.balancer.port, timeout=10)
            connection.request("GET", path)
            found.add(connection.getresponse().read().decode())
            connection.close()
        return found

    def check(self, image: str, rolled_back: bool = False) -> None:
        """Check which image serves now, and whether that is so because ECS went back to it."""
        (answer,) = self.answers("/health/version")
        assert json.loads(answer)["version"] == image
        assert self.service.rolled_back == rolled_back


def rolling_deployment(stage: Stage, rate: float) -> Outcome:
    with Rehearsal.on(stage, rate) as rehearsal:
        outcome = rehearsal.under_load("a rolling deployment", lambda: rehearsal.deploy("second"))
        rehearsal.check("second")
    return outcome


def ten_in_a_row(stage: Stage, rate: float) -> Outcome:
    def deploy() -> None:
        for number in range(10):
            rehearsal.deploy(("second", "first")[number % 2])
            rehearsal.service.wait()

    with Rehearsal.on(stage, rate) as rehearsal:
        outcome = rehearsal.under_load("ten rolling deployments in a row", deploy)
        rehearsal.check("first")
    return outcome


def crash(stage: Stage, rate: float) -> Outcome:
    with Rehearsal.on(stage, rate) as rehearsal:
        outcome = rehearsal.under_load("an image that crashes", lambda: rehearsal.deploy("crashing"))
        rehearsal.check("first", rolled_back=True)
    return outcome


def never_healthy(stage: Stage, rate: float) -> Outcome:
    with Rehearsal.on(stage, rate) as rehearsal:
        outcome = rehearsal.under_load("an image that is never healthy", lambda: rehearsal.deploy("never healthy"))
        rehearsal.check("first", rolled_back=True)
    return outcome


def rollback(stage: Stage, rate: float) -> Outcome:
    """Deploy the commit of before, by hand."""
    with Rehearsal.on(stage, rate, stage.definition("second")) as rehearsal:
        outcome = rehearsal.under_load("a rollback by hand", lambda: rehearsal.deploy("first"))
        rehearsal.check("first")
    return outcome


def alarm(stage: Stage, rate: float) -> Outcome:
    """Roll back at the worst time: the new tasks serve already, and the old ones are leaving."""

    def deploy() -> None:
        rehearsal.deploy("second")
        wait_until(lambda: any(task.stopping for task in rehearsal.service.tasks))
        rehearsal.service.roll_back()

    with Rehearsal.on(stage, rate) as rehearsal:
        outcome = rehearsal.under_load("a rollback by an alarm, in the middle", deploy)
        rehearsal.check("first", rolled_back=True)
    return outcome


def scaling_in(stage: Stage, rate: float, definition: Definition | None = None) -> Outcome:
    with Rehearsal.on(stage, rate, definition, tasks=4) as rehearsal:
        return rehearsal.under_load("scaling in, from 4 tasks to 2", lambda: setattr(rehearsal.service, "desired", 2))


def spot(stage: Stage, rate: float, definition: Definition | None = None) -> Outcome:
    with Rehearsal.on(stage, rate, definition) as rehearsal:
        service = rehearsal.service
        return rehearsal.under_load("a Spot interruption", lambda: service.interrupt(service.tasks[0]))


def killed_task(stage: Stage, rate: float) -> Outcome:
    with Rehearsal.on(stage, rate) as rehearsal:
        service = rehearsal.service
        return rehearsal.under_load("a killed task", lambda: service.kill(service.tasks[0]))


def restart(stage: Stage, rate: float) -> Outcome:
    """Start new tasks of the same image, which read the secrets of today."""
    arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:my-service"
    edits = {"Secrets: []": 'Secrets: [{Name: GREETING, ValueFrom: !Sub "${SecretArn}:GREETING::"}]'}
    before, after = (stage.definition("first", edits, SecretArn=arn) for _ in range(2))
    with Rehearsal.on(stage, rate, before, secrets={"GREETING": "Hello"}) as rehearsal:
        rehearsal.service.secrets["GREETING"] = "Good morning"
        assert rehearsal.answers(QUICK) == {'{"message":"Hello, Ada!"}'}
        outcome = rehearsal.under_load("a restart for a rotated secret", lambda: rehearsal.service.deploy(after))
        assert rehearsal.answers(QUICK) == {'{"message":"Good morning, Ada!"}'}
    return outcome


@dataclass
class Migration:
    """A stage of a service with a database."""

    stage: Stage
    gateway: str  # the address of this machine for containers

    def __call__(self, _: Stage, rate: float) -> Outcome:
        """Migrate the database with the new image, as `make deploy` does, and deploy it."""
        with tempfile.TemporaryDirectory(prefix="postgres-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            server = Server(self.stage.repository, folder)
            with (server.data / "pg_hba.conf").open("a") as access:
                access.write("host all all all trust\n")
            server.start("-h", f"127.0.0.1,{self.gateway}")
            try:
                server.sql(
                    "CREATE ROLE my_service LOGIN", "CREATE DATABASE my_service OWNER my_service", database="postgres"
                )
                return self._deploy(server, rate)
            finally:
                server.stop()

    def _deploy(self, server: Server, rate: float) -> Outcome:
        edits = {
            "            - Name: USE_RDS_IAM": f'            - {{Name: DATABASE_PORT, Value: "{server.port}"}}\n'
            '            - {Name: DATABASE_TLS, Value: "false"}\n            - Name: USE_RDS_IAM',
            'in Secrets\n              Value: "true"': 'in Secrets\n              Value: "false"',
        }
        first, second = (
            self.stage.definition(image, edits, DatabaseHost=self.gateway) for image in ("first", "second")
        )
        migrate = ("python", "-m", "my_service.ops.migrate")
        with Rehearsal.on(self.stage, rate, first) as rehearsal:
            rehearsal.path = "/notes?limit=5"
            rehearsal.service.run(first, *migrate)

            def deploy() -> None:
                rehearsal.service.run(second, *migrate)
                rehearsal.service.deploy(second)

            outcome = rehearsal.under_load("a deployment with a migration", deploy)
            rehearsal.check("second")
            assert "done" in server.sql("SELECT column_name FROM information_schema.columns", database="my_service")
        return outcome


# What `make test` rehearses comes first.
SHORT = [rolling_deployment, crash, rollback]
OTHERS = [never_healthy, alarm, scaling_in, spot, killed_task, restart]
