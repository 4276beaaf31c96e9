"""The worker and its queue: whatever is killed, no job is lost, and what a job writes is there once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.database.cluster import Server, Service
from tests.database.conftest import DOCUMENT
from tests.database.test_branches import VERSIONS, Clone, clone, database
from tests.deploy.cloudformation import Loader
from tests.support.commands import edit, run, wait_until
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, Render

__all__ = ["clone", "database"]  # fixtures
HERE = Path(__file__).parent
# Short enough for every day; by hand: JOB_KILLS=10 JOBS=10000.
KILLS = int(os.environ.get("JOB_KILLS", "1"))
JOBS = int(os.environ.get("JOBS", "200"))
STOP_TIMEOUT = 6  # the worker finishes its job in 4 s of them


@pytest.fixture(scope="session")
def repository(render: Render) -> Path:
    """A rendered repository with a worker, and with our jobs beside its own."""
    path = render(database="postgres", worker=True, deploy="none", stop_timeout=STOP_TIMEOUT, python_version=PYTHON)
    (path / "src/my_service/ledger.py").write_text((HERE / "jobs.py").read_text())
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


@pytest.fixture(scope="module", autouse=True)
def migrated(repository: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tables are there."""
    migration = Service(repository, tmp_path_factory.mktemp("service"), server.port).migrate()
    said, _ = migration.communicate(timeout=60)
    assert migration.returncode == 0, said


class Worker(Gunicorn):
    """A worker process."""

    def __init__(self, repository: Path, server: Server, folder: Path, **environment: str) -> None:
        self.repository = repository
        self.log_file = folder / "worker.log"
        self.begun = folder / "begun"
        self.begun.touch()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": "src",
            "BEGUN": str(self.begun),
            "DATABASE_HOST": "127.0.0.1",
            "DATABASE_PORT": str(server.port),
            "DATABASE_USER": "service",
            "DATABASE_NAME": "service",
            "DATABASE_TLS": "false",
            **environment,
        }

    def start(self, *arguments: str) -> None:
        command = (".venv/bin/python", "-m", "my_service.ledger", *arguments)
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.repository, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def has_begun(self, number: int) -> bool:
        return f"{number}\n" in self.begun.read_text()

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events() if line["event"] == event]


@pytest.fixture
def worker(repository: Path, server: Server, tmp_path: Path) -> Iterator[Worker]:
    """A worker that has not been started, and an empty queue."""
    server.sql("TRUNCATE jobs, notes")
    worker = Worker(repository, server, tmp_path)
    yield worker
    if hasattr(worker, "process"):
        worker.kill()
        print(worker.log_file.read_text()[-3000:])  # shown by pytest when the test fails


@pytest.fixture(scope="module")
def started(repository: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that gives its jobs two seconds."""
    worker = Worker(repository, server, tmp_path_factory.mktemp("worker"), JOB_TIMEOUT="2")
    worker.start()
    yield worker
    print(worker.log_file.read_text()[-3000:])
    worker.kill()


@pytest.fixture
def running(started: Worker, server: Server) -> Worker:
    """The same with an empty queue."""
    server.sql("TRUNCATE jobs, notes")
    started.begun.write_text("")
    return started


def add(server: Server, name: str, arguments: str = "{}") -> None:
    server.sql(f"INSERT INTO jobs (name, arguments) VALUES ('{name}', '{arguments}')")


def is_done(server: Server) -> bool:
    return server.sql("SELECT count(*) FROM jobs", check=False) == "0"


def notes(server: Server) -> list[str]:
    return server.sql("SELECT text FROM notes ORDER BY text").splitlines()


def test_no_job_is_lost(
    repository: Path, server: Server, worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "second").mkdir()
    second = Worker(repository, server, tmp_path / "second", JOB_TIMEOUT="1")
    worker.environment["JOB_TIMEOUT"] = "1"  # a killed worker's job is taken again 10 s later
    server.sql(
        "INSERT INTO jobs (name, arguments)"
        f" SELECT 'ledger', jsonb_build_object('number', n, 'seconds', 0.01) FROM generate_series(1, {JOBS}) n"
    )

    def kill_a_worker() -> None:
        worker.kill()
        worker.start()

    def kill_the_database() -> None:
        server.kill()
        server.start()
        assert (worker.process.poll(), second.process.poll()) == (None, None)

    def stop_a_worker() -> None:
        second.stop()
        second.start()

    disturb = [kill_a_worker, kill_the_database, stop_a_worker] * KILLS
    worker.start()
    second.start()
    try:
        for number, how in enumerate(disturb, 1):
            goal = number * JOBS // (len(disturb) + 1)
            wait_until(lambda goal=goal: len(notes(server)) >= goal, 300)  # type: ignore[misc]
            how()
        wait_until(lambda: is_done(server), 600)
    finally:
        second.kill()
    saved = notes(server)
    assert sorted(saved) == sorted(f"job {number}" for number in range(1, JOBS + 1)), "lost, or written twice"
    begun = (worker.begun.read_text() + second.begun.read_text()).split()
    assert {*begun} == {str(number) for number in range(1, JOBS + 1)}
    again = len(begun) - JOBS
    assert again <= 2 * len(disturb), "what is at hand when something is killed is begun again, and nothing else"
    with capsys.disabled():
        kills = f"{KILLS} kills of the worker, {KILLS} of the database and {KILLS} stops"
        print(f"\ndatabase: {JOBS} jobs across {kills}: 0 lost, 0 written twice, {again} begun twice")


@contextmanager
def killed(server: Server) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@pytest.mark.parametrize("outage", [killed, frozen])
def test_the_worker_waits_for_the_database_and_says_so_once(
    server: Server, worker: Worker, outage: Callable[[Server], Any]
) -> None:
    worker.environment["DATABASE_STATEMENT_TIMEOUT"] = "1"
    worker.start()
    add(server, "ledger", '{"number": 1}')
    wait_until(lambda: is_done(server))
    with outage(server):
        wait_until(lambda: bool(worker.said("the worker waits")), 30)
        time.sleep(3)  # in which it asks again
    add(server, "ledger", '{"number": 2}')
    wait_until(lambda: is_done(server), 30)
    assert len(worker.said("the worker waits")) == len(worker.said("the worker goes on")) == 1
    assert worker.process.poll() is None


def test_a_worker_starts_without_the_database(server: Server, worker: Worker) -> None:
    add(server, "ledger", '{"number": 1}')
    with killed(server):
        worker.start()
        wait_until(lambda: bool(worker.said("the worker waits")))
    wait_until(lambda: is_done(server), 30)


def test_the_processors_of_the_service_see_all_that_the_worker_logs(worker: Worker) -> None:
    worker.start()
    wait_until(lambda: bool(worker.said("started")))
    worker.stop()
    assert {line.get("marked") for line in worker.events()} == {True}


def test_a_stop_finishes_the_job_at_hand_and_begins_no_other(server: Server, worker: Worker) -> None:
    add(server, "ledger", '{"number": 1, "seconds": 2}')
    worker.start()
    wait_until(lambda: worker.has_begun(1))
    add(server, "ledger", '{"number": 2}')
    assert worker.stop() < STOP_TIMEOUT
    assert notes(server) == ["job 1"]
    assert server.sql("SELECT arguments ->> 'number', attempts FROM jobs") == "2|0"


def test_a_stop_leaves_a_long_job_to_another_worker_at_once(server: Server, worker: Worker) -> None:
    worker.environment["JOB_TIMEOUT"] = "600"
    add(server, "ledger", '{"number": 1, "seconds": 60}')
    worker.start()
    wait_until(lambda: worker.has_begun(1))
    assert worker.stop() < STOP_TIMEOUT
    assert notes(server) == []
    assert server.sql("SELECT attempts, run_at <= now() FROM jobs") == "0|t"


def test_a_job_that_a_worker_does_not_know_waits_for_another_worker(server: Server, worker: Worker) -> None:
    worker.environment["UNKNOWN"] = "nightly"  # as where the API has been deployed before the worker
    add(server, "nightly")
    worker.start()
    wait_until(lambda: bool(worker.said("this worker does not know the job")))
    waits = "extract(epoch FROM run_at - now()) BETWEEN 5 AND 10"
    wait_until(lambda: server.sql(f"SELECT attempts, error, {waits} FROM jobs") == "0||t")
    add(server, "ledger", '{"number": 1}')  # others do not wait for it
    wait_until(lambda: notes(server) == ["job 1"])
    worker.stop()
    line, *_ = worker.said("this worker does not know the job")
    assert (line["level"], line["job_name"]) == ("warning", "nightly")
    del worker.environment["UNKNOWN"]
    worker.start()
    wait_until(lambda: is_done(server), 30)
    assert notes(server) == ["job 1", "nightly"]


def test_the_first_statement_of_a_job_may_take_many_rows(server: Server, running: Worker) -> None:
    add(server, "many")
    wait_until(lambda: is_done(server))
    assert notes(server) == ["1", "2", "5s"]


def test_a_job_may_commit_in_parts_and_ends_at_its_first_attempt(server: Server, worker: Worker) -> None:
    worker.start("parts")
    assert worker.process.wait(30) == 0
    add(server, "parts")
    worker.start()
    wait_until(lambda: is_done(server))
    assert notes(server) == ["part 1", "part 1", "part 2", "part 2"]


def test_a_job_that_takes_too_long_is_ended(server: Server, running: Worker) -> None:
    add(server, "ledger", '{"number": 1, "seconds": 60}')
    wait_until(lambda: server.sql("SELECT error FROM jobs") == "TimeoutError()")
    assert notes(server) == []


@pytest.mark.parametrize(("name", "error"), [("fail", "RuntimeError('no')"), ("cancelled", "CancelledError()")])
def test_a_job_that_always_fails_is_tried_five_times_and_kept(
    server: Server, running: Worker, name: str, error: str
) -> None:
    add(server, name)
    for attempt in range(1, 6):
        wait_until(lambda attempt=attempt: server.sql("SELECT attempts, error FROM jobs") == f"{attempt}|{error}")  # type: ignore[misc]
        waits = server.sql("SELECT extract(epoch FROM run_at - now()) FROM jobs")
        assert (float(waits) > 5 * 2 ** (attempt - 1)) if attempt < 5 else (waits == "")
        server.sql("UPDATE jobs SET run_at = now(), error = null WHERE run_at IS NOT null")
    assert notes(server) == []
    assert len([line for line in running.said("the job failed for the last time") if line["job_name"] == name]) == 1
    assert running.process.poll() is None


def test_a_cancelled_job_of_another_queue_is_no_stop(worker: Worker) -> None:
    worker.environment["ELSEWHERE"] = "yes"
    worker.start()
    wait_until(lambda: bool(worker.said("the worker waits")))
    assert worker.process.poll() is None
    worker.stop()


def test_a_job_that_kills_its_workers_is_given_up(server: Server, running: Worker) -> None:
    server.sql("INSERT INTO jobs (name, arguments, attempts) VALUES ('ledger', '{\"number\": 1}', 5)")
    wait_until(lambda: "has died" in server.sql("SELECT error FROM jobs WHERE run_at IS null"))
    assert not running.has_begun(1)


def test_a_worker_that_has_lost_its_job_writes_nothing(server: Server, running: Worker) -> None:
    add(server, "ledger", '{"number": 1, "seconds": 1}')
    wait_until(lambda: running.has_begun(1))
    server.sql("UPDATE jobs SET attempts = 2")  # as another worker does that takes it
    wait_until(lambda: any("another worker has the job" in line.get("exception", "") for line in running.events()))
    assert notes(server) == []
    assert server.sql("SELECT attempts, run_at > now() FROM jobs") == "2|t"


def test_a_schedule_does_one_job_and_ends_with_its_exit_code(server: Server, worker: Worker) -> None:
    worker.start("nightly")
    assert worker.process.wait(30) == 0
    assert notes(server) == ["nightly"]

    worker.start("nothing")
    assert worker.process.wait(30) == 2
    (line,) = worker.said("name one job, or none")
    assert line["jobs"] == ["cancelled", "fail", "ledger", "many", "nightly", "parts", "slow"]

    for number, name in enumerate(("fail", "cancelled"), 1):
        worker.start(name)
        wait_until(lambda number=number: len(worker.said("the job failed")) == number)  # type: ignore[misc]
        worker.process.send_signal(signal.SIGTERM)  # in place of four more attempts in 150 s
        assert worker.process.wait(30) == 1


def test_a_schedule_gives_a_statement_as_long_as_its_job(render: Render, worker: Worker) -> None:
    path = render(database="postgres", worker=True, deploy="cloudformation") / "deploy/service.yml"
    schedule = yaml.load(path.read_text(), Loader)["Resources"]["CleanUp"]["Properties"]["Target"]
    (container,) = json.loads(schedule["Input"])["containerOverrides"]
    settings = {each["name"]: each["value"] for each in container["environment"]}
    assert int(settings["DATABASE_STATEMENT_TIMEOUT"]) <= int(settings["JOB_TIMEOUT"])
    worker.environment |= settings
    worker.start("slow")
    wait_until(lambda: bool(worker.said("job done") or worker.said("the job failed")))
    assert not worker.said("the job failed")
    assert worker.process.wait(30) == 0


def test_the_example_is_deleted_as_the_document_says(clone: Clone, database: Callable[[str], str]) -> None:
    package = clone.path / "src/my_service"
    (said,) = re.findall(r"^\*\*To delete the example\*\*.*?\n\n", DOCUMENT, re.MULTILINE | re.DOTALL)
    for file in re.findall(r"`((?:routers|tests)/\w+\.py)`", said):
        (clone.path / file if file.startswith("tests") else package / file).unlink()
    assert "what is in `migrations/versions/`" in said
    shutil.rmtree(clone.path / VERSIONS)  # Git keeps no empty folder
    models = package / "models.py"
    models.write_text(re.sub(r"class Note\(Base\).*?(?=class Job)", "", models.read_text(), flags=re.DOTALL))
    edit(package / "main.py", "import hello, notes", "import hello")
    edit(package / "main.py", "app.include_router(notes.router)\n", "")
    worker = package / "worker.py"
    edit(worker, "import Job, Note", "import Job")
    edit(worker, '{"remember": remember, "clean_up": clean_up}', "{}")
    worker.write_text(re.sub(r"async def remember.*?(?=JOBS)", "", worker.read_text(), flags=re.DOTALL))

    clone.done(database("without"), "--new", "tables")
    clone.done("without")
    lint = clone.lint()
    assert not lint.returncode, lint.stdout
    assert clone.server.sql("SELECT count(*) FROM jobs", database="without") == "0"
