"""`make deploy` of a service with a database: first the migrations, then the tasks that need them."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from tests.deploy.cloudformation import CloudFormation, Query, Stack, serve
from tests.deploy.conftest import FSD
from tests.deploy.service import load_script
from tests.deploy.stack import make
from tests.support.commands import commit, edit
from tests.support.template import Render

IMAGE = f"example.com/my-service@sha256:{'0' * 64}"
PARAMETERS = {
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "ClusterName": "main",
    "DatabaseHost": "new.example.com",
}
# test_task.py tests the real one against AWS's API.
TASK = """\
import os
import subprocess
import sys
from pathlib import Path

head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
if sys.argv[2] != "python -m my_service.ops.migrate" or os.environ["IMAGE_TAG"] != head:
    sys.exit(9)
with Path("../order").open("a") as order:
    order.write(f"task {sys.argv[1]}\\n")
Path("../planned").write_text(os.environ.get("PLANNED", "") + "\\n")
tasks = Path("../order").read_text().count("task")
sys.exit(int(Path("../exits").read_text().splitlines()[tasks - 1]))
"""


@pytest.fixture
def repository(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A committed service, with stand-ins for `fsd` and for the scripts that `ops/deployment/deploy` calls."""
    path = tmp_path / "my-service"
    shutil.copytree(render(database="postgres", deploy=getattr(request, "param", "fsd")), path)
    (tmp_path / "bin").mkdir()
    fsd = FSD.replace("print(", 'open("../order", "a").write("fsd\\n"); print(')
    shutil.copy(path / "ops/deployment/task.py", tmp_path / "task.py")
    scripts = {
        path / "ops/deployment/push": f"#!/bin/sh\necho {IMAGE}\n",
        path / "ops/deployment/task.py": TASK,
        tmp_path / "bin/fsd": fsd,
    }
    for script, text in scripts.items():
        script.write_text(text)
        script.chmod(0o755)
    commit(path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}", prepend=":")
    return path


@pytest.mark.parametrize(
    ("exits", "order", "said"),
    [
        ([0], ["task stage", "fsd"], ""),
        ([1], ["task stage"], "The migration has failed, so nothing is deployed."),
        ([3, 0], ["task stage", "fsd", "task stage"], ""),  # 3: there is no service yet
        ([3, 1], ["task stage", "fsd", "task stage"], "The migration has failed: deploy again once it can run."),
    ],
)
def test_a_deployment_migrates_first_and_ends_when_that_fails(
    repository: Path, exits: list[int], order: list[str], said: str
) -> None:
    repository.with_name("exits").write_text("".join(f"{code}\n" for code in exits))
    done = subprocess.run(
        ["ops/deployment/deploy", "stage"], cwd=repository, env=os.environ, text=True, capture_output=True
    )
    assert repository.with_name("order").read_text().splitlines() == order, done.stderr
    assert (done.returncode != 0) == bool(said), done.stderr
    assert said in done.stderr


class Planning(CloudFormation):
    """It tells what a change set would make, too."""

    template: Path

    def describe_change_set(self, query: Query) -> str:
        planned = make(self.template, self.stack(query["StackName"]).planned)["TaskDefinition"]
        after = escape(json.dumps({"Properties": planned.properties}))
        change = f"<LogicalResourceId>TaskDefinition</LogicalResourceId><AfterContext>{after}</AfterContext>"
        changes = f"<Changes><member><ResourceChange>{change}</ResourceChange></member></Changes>"
        return super().describe_change_set(query) + (changes if "IncludePropertyValues" in query else "")


@pytest.fixture
def cloudformation(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planning]:
    """CloudFormation with the environment stage, where the service runs with another database."""
    role = {"CloudFormationRoleArn": "arn:aws:iam::111122223333:role/cloudformation"}
    made = Planning({"my-service-stage-environment": Stack("CREATE_COMPLETE", role)})
    made.template = repository / "deploy/service.yml"
    made.stacks["my-service-stage"] = Stack(
        "UPDATE_COMPLETE", parameters=PARAMETERS | {"DatabaseHost": "old.example.com"}
    )
    server = serve(made)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for credential in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(credential, "testing")
    lines = "".join(f"{name}={value}\n" for name, value in PARAMETERS.items())
    (repository / "deploy/stage.parameters").write_text(lines)
    commit(repository)
    repository.with_name("exits").write_text("0\n")
    yield made
    server.shutdown()


def deploy(repository: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["ops/deployment/deploy", "stage"]
    return subprocess.run(command, cwd=repository, env=os.environ | env, text=True, capture_output=True)


@pytest.mark.parametrize("repository", ["cloudformation"], indirect=True)
def test_a_migration_gets_the_variables_that_are_about_to_be_deployed(
    repository: Path, cloudformation: Planning
) -> None:
    edit(
        cloudformation.template,
        "            - Name: LOG_LEVEL\n",
        "            - {Name: PAYMENTS_URL, Value: !Ref DatabaseName}\n            - Name: LOG_LEVEL\n",
    )
    commit(repository)
    done = deploy(repository)
    assert done.returncode == 0, done.stderr
    assert cloudformation.stacks["my-service-stage"].parameters["DatabaseHost"] == "new.example.com"

    planned = json.loads(repository.with_name("planned").read_text())["Properties"]["ContainerDefinitions"]
    script = load_script(repository.with_name("task.py"))
    old = [{"name": "DATABASE_HOST", "value": "old.example.com"}, {"name": "GONE", "value": "1"}]
    secrets = [{"name": "PAYMENTS_URL", "valueFrom": "arn:1"}, {"name": "KEY", "valueFrom": "arn:2"}]
    container: dict[str, Any] = {"name": "my-service", "environment": old, "secrets": secrets}
    assert script.has_database(container)
    script.set_environment(container, planned)
    variables = {each["name"]: each["value"] for each in container["environment"]}
    assert variables.items() >= {"DATABASE_HOST": "new.example.com", "PAYMENTS_URL": "my_service"}.items()
    assert "GONE" not in variables
    assert container["secrets"] == [{"name": "KEY", "valueFrom": "arn:2"}]
    assert not script.has_database({"environment": [{"name": "LOG_LEVEL", "value": "INFO"}]})


@pytest.mark.parametrize("repository", ["cloudformation"], indirect=True)
def test_nothing_is_migrated_where_cloudformation_refuses_the_deployment(
    repository: Path, cloudformation: Planning
) -> None:
    edit(repository / "deploy/stage.parameters", "VpcId=vpc-1", "VpcId=vpc-1\nLoadBalancerIngress=everybody")
    commit(repository)
    done = deploy(repository)
    assert done.returncode != 0
    assert "Nothing has been deployed; the reason is above." in done.stderr
    assert not repository.with_name("order").exists()


@pytest.mark.parametrize("repository", ["cloudformation"], indirect=True)
def test_a_migration_that_needs_the_new_role_runs_after_the_deployment(
    repository: Path, cloudformation: Planning
) -> None:
    done = deploy(repository, MIGRATE="after")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Migrating") == 0
    assert repository.with_name("order").read_text() == "task stage\n"
    assert repository.with_name("planned").read_text() == "\n"
