"""Amazon SQS in place of PostgreSQL, as docs/workers.md says, against moto."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from tests.support.commands import edit, run, wait_until
from tests.support.documents import blocks
from tests.support.template import PYTHON, ROOT, Render

JOBS = """\
async def note(number: int, seconds: float = 0) -> None:
    with open("done", "a") as done:
        await asyncio.sleep(seconds)
        done.write(f"{number}\\n")


JOBS: dict[str, jobs.Job] = {"note": note}
"""


@pytest.fixture(scope="module")
def repository(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service without a database that has followed the page, and passes its checks."""
    path = tmp_path_factory.mktemp("sqs") / "sqs"
    shutil.copytree(render(worker=True, deploy="none", python_version=PYTHON), path)
    (work,) = [block for block in blocks((ROOT / "docs/workers.md").read_text(), "python") if "SQS" in block]
    package = path / "src/my_service"
    worker = package / "worker.py"
    before, _, after = worker.read_text().partition("async def work() -> bool:")
    worker.write_text(before + work + "\n\n" + after[after.index("if __name__") :])
    edit(
        worker,
        "import sys\n\nimport structlog\n",
        "import asyncio\nimport json\nimport sys\n\nimport boto3\nimport structlog\n",
    )
    edit(
        package / "settings.py",
        '    greeting: str = "Hello"\n',
        '    greeting: str = "Hello"\n    queue_url: str = ""\n',
    )
    (path / "tests/test_worker.py").unlink()
    run("uv", "add", "--quiet", "--python", sys.executable, "boto3", cwd=path)
    run("uv", "add", "--quiet", "--dev", "boto3-stubs[sqs]", cwd=path)
    for check in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "src")):
        run("uv", "run", "--quiet", *check, cwd=path)
    before, _, after = worker.read_text().partition('JOBS: dict[str, jobs.Job] = {"clean_up": clean_up}\n')
    worker.write_text(before + JOBS + after)
    return path


@pytest.fixture
def queues(moto: str) -> Iterator[tuple[Any, str, str]]:
    """A client of SQS, a queue whose messages come again after two seconds, and its queue of dead letters."""
    sqs = botocore.session.get_session().create_client("sqs", region_name="us-east-1", endpoint_url=moto)
    dead = sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    queue = sqs.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "2", "RedrivePolicy": redrive})[
        "QueueUrl"
    ]
    yield sqs, queue, dead
    for url in (queue, dead):
        sqs.delete_queue(QueueUrl=url)


def test_no_message_is_lost_and_one_that_always_fails_becomes_a_dead_letter(
    repository: Path, moto: str, queues: tuple[Any, str, str], tmp_path: Path
) -> None:
    sqs, queue, dead = queues
    done = repository / "done"
    done.touch()

    def send(name: str, **arguments: Any) -> None:
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"name": name, "arguments": arguments}))

    def start() -> subprocess.Popen[bytes]:
        environment = {"QUEUE_URL": queue, "AWS_ENDPOINT_URL": moto, "PYTHONPATH": "src"}
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen(
                (".venv/bin/python", "-m", "my_service.worker"),
                cwd=repository,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )

    def left(url: str) -> int:
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(map(int, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()))

    send("nothing")
    for number in range(20):
        send("note", number=number, seconds=0.1)
    worker = start()
    try:
        wait_until(lambda: "5\n" in done.read_text())
        worker.kill()
        worker.wait()
        worker = start()
        wait_until(lambda: (left(queue), left(dead)) == (0, 1))
        assert {*done.read_text().split()} == {str(number) for number in range(20)}
        send("note", number=20, seconds=1)
        wait_until(lambda: left(queue) == 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert left(queue) == 0 or "20" not in done.read_text()
    finally:
        worker.kill()
        worker.wait()
        print((tmp_path / "log").read_text()[-3000:])
    assert (tmp_path / "log").read_text().count("the job failed") == 2
