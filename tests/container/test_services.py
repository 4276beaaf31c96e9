"""The first day with a database, a worker and events, all in Compose; and what is said when one of them fails."""

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.rig.images import KAFKA, POSTGRES
from tests.support.commands import edit, run, wait_until
from tests.support.containers import docker
from tests.support.documents import blocks
from tests.support.template import ROOT, Render

PORT = 8161
# Nothing else on this machine has to give way, or be idle.
OVERRIDE = """\
services:
  api:
    healthcheck: {start_period: 120s, timeout: 30s, retries: 9}
  worker:
    healthcheck: {start_period: 120s, timeout: 30s, retries: 9}
  database:
    ports: !reset []
  kafka:
    ports: !reset []
"""
SEED = (
    OVERRIDE
    + """\
  seed:
    image: python:3.14-slim-trixie
    command: ["true"]
"""
)
BROKEN = (
    SEED
    + """\
  broken:
    image: python:3.14-slim-trixie
    command: ["python", "-c", "raise SystemExit('no luck')"]
    healthcheck:
      test: ["CMD", "false"]
      interval: 1s
"""
)
UNHEALTHY = """\
services:
  api:
    healthcheck: {test: ["CMD", "false"], interval: 1s}
  database:
    ports: !reset []
"""
MIGRATION = '''\
"""nothing yet"""

revision = "9999"
down_revision = "HEAD"
unsafe = ""


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
'''
PRODUCE = """\
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "kafka:9092"})
producer.produce("greetings", b'{"name": "Ada"}')
assert producer.flush(20) == 0
"""
CONSUME = """\
from confluent_kafka import Consumer
consumer = Consumer({"bootstrap.servers": "kafka:9092", "group.id": "test", "auto.offset.reset": "earliest"})
consumer.subscribe(["answers"])
while (message := consumer.poll(60)).error():
    pass
print(message.value().decode())
"""


@pytest.fixture(scope="module")
def repository(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service with everything, and with the route of docs/workers.md, in a folder whose name is not ASCII."""
    for image in (POSTGRES, KAFKA):
        if run("docker", "image", "inspect", image, check=False).returncode:
            pytest.skip(f"there is no {image}")
    answers: dict[str, Any] = {"database": "postgres", "kafka": True, "worker": True, "deploy": "none"}
    path = tmp_path_factory.mktemp("services") / "Dienste für alle"
    shutil.copytree(render(port=PORT, **answers), path)
    (route,) = [block for block in blocks((ROOT / "docs/workers.md").read_text(), "python") if "router." in block]
    (path / "src/my_service/routers/reminders.py").write_text(route.replace("PACKAGE", "my_service"))
    edit(path / "src/my_service/main.py", "import hello, notes", "import hello, notes, reminders")
    edit(
        path / "src/my_service/main.py",
        "(notes.router)\n",
        "(notes.router)\napp.include_router(reminders.router)\n",
    )
    (path / "compose.override.yaml").write_text(OVERRIDE)
    run("make", "engine", cwd=path)  # names Compose's project
    yield path
    run("docker", "compose", "down", "--rmi", "local", "--volumes", "--remove-orphans", cwd=path)


def ask(path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}", data, {"content-type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def compose(repository: Path, *arguments: str) -> str:
    return run("docker", "compose", *arguments, cwd=repository, COMPOSE_BAKE="false").stdout  # as make does here


def sql(repository: Path, statement: str) -> str:
    where = ("--username=my_service", "my_service", "--quiet", "--tuples-only", "--no-align")
    return compose(repository, "exec", "-T", "database", "psql", *where, f"--command={statement}").strip()


def test_the_first_day_with_a_database_events_and_a_worker(repository: Path) -> None:
    assert "The service is healthy" in run("make", "up", cwd=repository).stdout
    assert ask("/notes", {"text": "buy milk"})["text"] == "buy milk"

    with pytest.raises(HTTPError, match="422"):
        ask("/reminders", {"text": "\0"})
    ask("/reminders", {"text": "buy bread"})
    wait_until(lambda: [note["text"] for note in ask("/notes")] == ["buy milk", "buy bread"])
    assert sql(repository, "SELECT count(*) FROM jobs") == "0"

    compose(repository, "exec", "-T", "api", "python", "-c", PRODUCE)
    assert "Hello, Ada!" in compose(repository, "exec", "-T", "api", "python", "-c", CONSUME)

    models = repository / "src/my_service/models.py"
    edit(models, "    text: Mapped[str] = mapped_column(Text)\n", "    text: Mapped[str] = mapped_column(Text)\n" * 2)
    before = models.read_text()
    models.write_text(before.replace("    text: Mapped[str]", "    title: Mapped[str | None]", 1))
    run("make", "migration", "NAME=add a title", cwd=repository)
    (written,) = (repository / "src/my_service/migrations/versions").glob("*_add_a_title.py")
    assert written.stat().st_uid == os.getuid()
    run("make", "migrate", cwd=repository)
    assert sql(repository, "SELECT title FROM notes LIMIT 1") == ""

    assert " passed" in run("make", "test", "ON_HOST=", cwd=repository).stdout
    assert [note["text"] for note in ask("/notes")] == ["buy milk", "buy bread"], "tests have written here"
    run("make", "down", cwd=repository)


def test_a_service_that_fails_shows_its_log_and_one_that_has_ended_well_does_not(repository: Path) -> None:
    override = repository / "compose.override.yaml"
    try:
        override.write_text(SEED)
        assert "The service is healthy" in run("make", "up", cwd=repository).stdout
        override.write_text(BROKEN)
        failed = run("make", "up", cwd=repository, check=False)
        assert failed.returncode != 0
        assert re.findall("The service (.*) does not start", failed.stdout) == ["broken"]
        assert "no luck" in failed.stdout.partition("The service broken does not start")[2]
    finally:
        run("make", "down", cwd=repository)
        override.write_text(OVERRIDE)


def test_make_migration_says_its_own_reason_while_the_service_is_unhealthy(repository: Path) -> None:
    override = repository / "compose.override.yaml"
    try:
        override.write_text(UNHEALTHY)
        compose(repository, "up", "--build", "--detach", "api")
        wait_until(lambda: "unhealthy" in compose(repository, "ps", "--format", "{{.Health}}", "api"))
        failed = run("make", "migration", "MERGE=yes", cwd=repository, check=False)
        assert failed.returncode != 0
        assert "There is nothing to merge" in failed.stdout
        assert "does not start" not in failed.stdout
    finally:
        run("make", "down", cwd=repository)
        override.write_text(OVERRIDE)


def test_make_lint_leaves_the_development_database_alone(repository: Path) -> None:
    run("make", "migrate", cwd=repository)
    written = repository / "src/my_service/migrations/versions/9999_written.py"
    head = sql(repository, "SELECT version_num FROM alembic_version")
    written.write_text(MIGRATION.replace("HEAD", head))
    try:
        assert " passed" in run("make", "lint", "ON_HOST=", cwd=repository).stdout
        assert sql(repository, "SELECT version_num FROM alembic_version") == head
    finally:
        written.unlink()
        run("make", "down", cwd=repository)


def test_a_migration_that_fails_shows_its_own_log(repository: Path) -> None:
    broken = repository / "src/my_service/migrations/versions/9999_broken.py"
    broken.write_text("raise RuntimeError('no such column')\n")
    try:
        for command in (("up",), ("test", "ON_HOST=")):
            failed = run("make", *command, cwd=repository, check=False)
            assert failed.returncode != 0
            assert re.findall("The service (.*) does not start", failed.stdout) == ["migrate"]
            assert "no such column" in failed.stdout.partition("The service migrate does not start")[2]
    finally:
        broken.unlink()
        run("make", "down", cwd=repository)


def test_the_database_of_an_older_postgresql_is_kept_until_it_has_been_moved(repository: Path, image: str) -> None:
    project = re.findall("^COMPOSE_PROJECT_NAME=(.*)$", (repository / ".env").read_text(), re.MULTILINE)[0]
    new, old = f"{project}_database-{POSTGRES.partition(':')[2].partition('-')[0]}", f"{project}_database"
    run("docker", "compose", "down", "--volumes", cwd=repository)
    # The older image keeps its files in another place.
    run("sh", "-c", f"printf 'FROM {POSTGRES}\nENV PGDATA=/var/lib/postgresql/data\n' | docker build --tag {image} -")
    owner = ("--env=POSTGRES_USER=my_service", "--env=POSTGRES_PASSWORD=local")
    docker("run", "--detach", f"--name={image}", f"--volume={old}:/var/lib/postgresql/data", *owner, image)
    try:
        psql = ("docker", "exec", image, "psql", "--username=my_service", "my_service", "--command")
        create = "CREATE TABLE kept AS SELECT 'milk' AS text"
        wait_until(lambda: run(*psql, "SELECT 1", check=False).returncode == 0)
        wait_until(lambda: run(*psql, create, check=False).returncode == 0)
    finally:
        docker("rm", "--force", image)

    for target in ("up", "migrate", "test"):
        refused = run("make", target, "ON_HOST=", cwd=repository, check=False)
        assert refused.returncode != 0
        assert "The development database is of PostgreSQL 17" in refused.stdout
    assert run("docker", "volume", "inspect", new, check=False).returncode != 0, "nothing is started"
    commands = "\n".join(re.findall("^  (.*)$", refused.stdout, re.MULTILINE))
    (older,) = re.findall(r"\S+/postgres:17-trixie", commands)
    run("bash", "-euc", commands.replace(older, image), cwd=repository)
    assert sql(repository, "SELECT text FROM kept") == "milk"
    assert run("docker", "volume", "inspect", old, check=False).returncode != 0
    assert "The service is healthy" in run("make", "up", cwd=repository).stdout
