"""`make deploy`, `rollback`, `restart`, `logs` and `task`: what they do, and whether what they say is true."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.deploy.account import ARN, NEW, NEWER, OLD, REPOSITORY, Account, Json, RefusedError, image_of
from tests.deploy.operating import Operated, operate
from tests.support.commands import commit, edit, run, wait_until
from tests.support.template import Render

Start = Callable[..., Operated]
DENIED = RefusedError("AccessDeniedException", "User: x is not authorized to perform: that")


@pytest.fixture
def start(render: Render, tmp_path: Path) -> Start:
    """Start with a healthy service that runs OLD, and that is deployed in this way."""

    def started(deploy: str, **answers: str) -> Operated:
        return operate(render(aws_account_id="111122223333", deploy=deploy, **answers), tmp_path, Account())

    return started


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stderr.splitlines()


@pytest.mark.parametrize("deploy", ["fsd", "ecs"])
def test_a_deployment_ends_when_every_task_runs_the_commit(start: Start, deploy: str) -> None:
    operated = start(deploy)
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 0, done
    assert lines(done) == [
        f"{REPOSITORY}:{NEW} is in the registry.",
        f"Deploying {image_of(NEW)} to stage.",
        *([f"This clone does not know commit {NEW}, and takes its own my-service.yml."] if deploy == "fsd" else []),
        "2 tasks run it, and the deployment is completed.",
        f"Commit {NEW} serves in stage.",
    ]
    assert {each["image"] for task in operated.account.running for each in task["containers"]} == {image_of(NEW)}


@pytest.mark.parametrize("deploy", ["fsd", "ecs"])
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("broken", "the deployment was rolled back by the circuit breaker: 3 tasks failed"),
        ("alarmed", "the deployment was rolled back by the alarm my-service-stage-errors"),
    ],
)
def test_a_deployment_that_was_rolled_back_is_no_success(start: Start, deploy: str, outcome: str, said: str) -> None:
    operated = start(deploy)
    operated.account.outcome = outcome
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 1
    assert lines(done)[-1] == f"Commit {NEW} does not serve: my-service-stage runs commit {OLD}; {said}"
    if outcome == "broken" and deploy == "ecs":  # whose new definition is known
        assert lines(done)[-2] == "A new task: it ended by itself with exit code 1"


def test_new_tasks_that_fail_without_a_circuit_breaker_end_the_wait(start: Start) -> None:
    operated = start("ecs")
    operated.account.outcome = "crashing"
    operated.account.service["deploymentConfiguration"] = {}
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 1
    assert lines(done)[-2:] == [
        "A new task: it ended by itself with exit code 1",
        f"Commit {NEW} does not serve: new tasks fail, and ECS goes on starting others: make rollback ENV=stage",
    ]
    operated.account.outcome = "completed"
    back = operated.run("rollback", "stage")
    assert back.returncode == 0, back
    assert lines(back)[0] == f"Rolling back from commit {NEW} to {OLD}."
    assert lines(back)[-1] == f"Commit {OLD} serves in stage."


def test_a_commit_is_deployed_with_its_own_manifest(start: Start) -> None:
    operated = start("fsd")
    before = commit(operated.path)
    manifest = operated.path / "my-service.yml"
    text = manifest.read_text()
    edit(manifest, "port: 8000", "port: 9000")
    after = commit(operated.path)
    fsd = (operated.programs / "fsd").read_text()
    (operated.programs / "fsd").write_text(fsd.replace("exec", f'cat "$5" >"{operated.programs}/manifest"\nexec'))
    for each, taken in ((after, manifest.read_text()), (before, text)):
        done = operated.run("deploy", "stage", each)
        assert done.returncode == 0, done.stderr
        assert (operated.programs / "manifest").read_text() == taken


def test_a_deployment_that_takes_too_long_says_so(start: Start) -> None:
    operated = start("ecs")
    operated.account.outcome = "broken"
    operated.account.proceed = lambda: None  # type: ignore[method-assign]
    done = operated.run("deploy", "stage", NEW, WAIT_SECONDS="1")
    assert lines(done)[-1].endswith("the deployment has not ended after 1 s: make status ENV=stage")


def test_a_wrong_time_to_wait_is_said_before_anything_changes(start: Start) -> None:
    done = start("ecs").run("deploy", "stage", NEW, WAIT_SECONDS="10m")
    assert lines(done) == ["WAIT_SECONDS is a whole number: of the seconds that a deployment may take."]


def test_a_deployment_is_no_success_while_an_old_task_runs(start: Start) -> None:
    operated = start("ecs")
    operated.account.outcome = "lingering"  # ECS calls it completed
    done = operated.run("deploy", "stage", NEW, WAIT_SECONDS="1")
    assert done.returncode == 1
    assert lines(done)[-1].endswith("the deployment has not ended after 1 s: make status ENV=stage")


def test_a_release_that_is_refused_leaves_no_definition(start: Start) -> None:
    operated = start("ecs")
    operated.account.refuses["ecs:UpdateService"] = DENIED
    done = operated.run("deploy", "stage", NEW)
    assert lines(done)[-1] == "ecs:UpdateService: User: x is not authorized to perform: that (AccessDeniedException)"
    states = {name.rpartition(":")[2]: each["status"] for name, each in operated.account.definitions.items()}
    assert states == {"1": "ACTIVE", "2": "INACTIVE"}


def test_a_release_says_what_the_repository_says_of_the_container(start: Start) -> None:
    operated = start("ecs")
    said = {"environment": {"TRUSTED_HOPS": "2", "NEW": "1"}, "stopTimeout": 60}
    (operated.path / "deploy/container.json").write_text(json.dumps(said))
    assert operated.run("deploy", "stage", NEW).returncode == 0
    container = operated.account.container
    assert {each["name"]: each["value"] for each in container["environment"]} == {
        "WEB_CONCURRENCY": "1",
        "TRUSTED_HOPS": "2",
        "NEW": "1",
    }
    assert container["stopTimeout"] == 60
    assert container["secrets"] == Account().container["secrets"]
    (operated.path / "deploy/container.json").write_text("{")
    done = operated.run("deploy", "stage", NEW)
    assert lines(done)[-1].startswith("deploy/container.json is no JSON: ")


def test_the_image_that_runs_already_is_not_deployed_again(start: Start) -> None:
    operated = start("ecs")
    done = operated.run("deploy", "stage", OLD)
    assert done.returncode == 0, done
    assert "my-service-stage has this image already." in lines(done)
    assert "ecs:RegisterTaskDefinition" not in operated.account.calls


def test_a_deployment_that_nobody_may_watch_says_that(start: Start) -> None:
    operated = start("fsd")
    operated.account.refuses["ecs:ListTasks"] = DENIED
    done = operated.run("deploy", "stage", NEW)
    assert done.returncode == 0
    assert lines(done)[-1].startswith(
        f"Nobody knows whether commit {NEW} serves: ecs:ListTasks: User: x is not authorized"
    )
    (operated.path / "deploy/stage.parameters").unlink()
    done = operated.run("deploy", "stage", NEW)
    assert (done.returncode, lines(done)[-1]) == (0, "ECS is not asked: deploy/stage.parameters has no ClusterName.")


def test_a_rollback_names_the_commit_that_ran_before_and_deploys_it(start: Start) -> None:
    operated = start("ecs")
    for each in (NEWER, NEW, NEW):
        operated.account.outcome = "broken" if each == NEWER else "completed"
        operated.account.release(image_of(each))
    operated.account.outcome = "completed"
    done = operated.run("rollback", "stage")
    assert done.returncode == 0, done
    assert lines(done)[0] == f"Rolling back from commit {NEW} to {OLD}."
    assert lines(done)[-1] == f"Commit {OLD} serves in stage."

    alone = operated.account
    alone.history = alone.history[:1]
    done = operated.run("rollback", "stage")
    assert lines(done) == ["Nobody knows which commit ran before: make deploy ENV=stage IMAGE_TAG=COMMIT"]


def test_a_restart_starts_new_tasks_of_the_same_image(start: Start) -> None:
    operated = start("fsd")
    before = {task["taskArn"] for task in operated.account.running}
    done = operated.run("restart", "stage")
    assert done.returncode == 0, done
    assert lines(done) == [
        f"Restarting my-service-stage, which runs commit {OLD}.",
        "2 tasks run it, and the deployment is completed.",
    ]
    assert not before & {task["taskArn"] for task in operated.account.running}
    operated.account.outcome = "broken"
    done = operated.run("restart", "stage")
    assert done.returncode == 1
    assert lines(done)[-1].startswith("The restart has failed: ")
    assert lines(done)[-1].endswith("was rolled back by the circuit breaker: 3 tasks failed")


def test_the_log_is_followed_from_a_time_on_and_with_a_filter(start: Start) -> None:
    operated = start("fsd")
    operated.account.log = [
        {"eventId": str(at), "message": f"{word}\n", "timestamp": at} for at, word in enumerate("abab")
    ]

    def asked() -> list[Json]:
        return operated.account.asked("logs:FilterLogEvents")

    process = operated.start("logs", "stage", "2h", "a")
    wait_until(lambda: len(asked()) > 1)  # so each line is known, and printed once
    said, error = operated.stop(process)
    assert (said, error, process.returncode) == ("a\na\n", "", 130)
    assert asked()[0]["logGroupName"] == "/ecs/my-service/stage"
    assert asked()[0]["logStreamNamePrefix"] == "ecs/my-service/"
    assert asked()[0]["filterPattern"] == "a"

    process = operated.start("logs", "stage", "1d", "status=500")
    wait_until(lambda: asked()[-1]["filterPattern"] == '"status=500"')
    operated.stop(process)
    assert lines(operated.run("logs", "stage", "yesterday")) == ["SINCE is how long ago, as in 30s, 10m, 2h or 1d."]
    operated.account.container["logConfiguration"] = {"logDriver": "awsfirelens"}
    done = operated.run("logs", "stage")
    assert lines(done) == ["The log of my-service-stage goes to awsfirelens, not to CloudWatch."]


def test_a_log_group_that_is_gone_is_said_once(start: Start) -> None:
    operated = start("fsd")
    gone = RefusedError("ResourceNotFoundException", "The specified log group does not exist.")
    operated.account.refuses["logs:FilterLogEvents"] = gone
    process = operated.start("logs", "stage")
    wait_until(lambda: operated.account.calls.count("logs:FilterLogEvents") > 2)
    said = operated.stop(process)[1]
    assert said == "There is no log group /ecs/my-service/stage: nothing that runs is logged.\n"


def test_the_log_of_the_worker_is_followed_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    operated = start("fsd")
    (operated.path / "deploy/stage.parameters").write_text("ClusterName=main\nWorkerServiceName=jobs\n")
    account = operated.account
    definition = {"family": "jobs", "memory": "2048", "containerDefinitions": [account.container | {"name": "worker"}]}
    jobs = account.service | {"taskDefinition": account.register(definition)["taskDefinitionArn"]}
    answer = account.ecs_describe_services
    monkeypatch.setattr(
        account,
        "ecs_describe_services",
        lambda ask: {"services": [jobs]} if ask["services"] == ["jobs"] else answer(ask),
    )

    def asked() -> list[str]:
        return [ask["logStreamNamePrefix"] for ask in account.asked("logs:FilterLogEvents")]

    process = operated.start("logs", "stage")
    wait_until(lambda: len(asked()) > 1)
    operated.stop(process)
    assert asked()[:2] == ["ecs/my-service/", "ecs/worker/"]


def test_a_command_that_never_starts_says_why(start: Start) -> None:
    operated = start("fsd")
    operated.account.ends = [
        {"stoppedReason": "CannotPullContainerError: denied", "containers": [{"name": "my-service"}]}
    ]
    done = operated.run("task", "stage", "true")
    assert (done.returncode, lines(done)) == (1, ["The task has not run: CannotPullContainerError: denied"])
    assert operated.account.definitions[f"{ARN}:task-definition/my-service-stage-task:1"]["status"] == "INACTIVE"


def test_spot_capacity_stays_and_a_command_has_it_too(start: Start) -> None:
    operated = start("ecs")
    strategy = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    operated.account.service["capacityProviderStrategy"] = strategy
    del operated.account.service["launchType"]
    assert operated.run("deploy", "stage", NEW).returncode == 0
    (ask,) = operated.account.asked("ecs:UpdateService")
    assert ask.keys() == {"cluster", "service", "taskDefinition"}
    assert operated.run("task", "stage", "true").returncode == 0
    assert operated.account.ran[0]["capacityProviderStrategy"] == strategy
    assert "launchType" not in operated.account.ran[0]
    (own,) = operated.account.ran[0]["definition"]["containerDefinitions"]
    assert "portMappings" not in own, "on EC2, the service may have the host's port"


def test_a_command_ends_when_it_is_stopped(start: Start) -> None:
    operated = start("fsd")
    operated.account.ends = [{"lastStatus": "RUNNING"}]
    process = operated.start("task", "stage", "sleep 1000")
    wait_until(lambda: "ecs:DescribeTasks" in operated.account.calls)
    operated.stop(process, signal.SIGTERM)
    assert process.returncode == 143
    assert operated.account.calls[-2:] == ["ecs:StopTask", "ecs:DeregisterTaskDefinition"]


@pytest.mark.parametrize("deploy", ["fsd", "ecs"])
def test_a_push_skips_a_commit_that_is_older_than_what_runs(start: Start, deploy: str) -> None:
    operated = start(deploy)
    older, newer, branch = (commit(operated.path, name) for name in ("Older", "Newer", "Branch"))
    operated.account.release(image_of(newer))
    calls = list(operated.account.calls)
    done = operated.run("deploy", "stage", older, SKIP_OLDER="true")
    assert done.returncode == 0
    assert lines(done) == [f"Skipped: stage runs {newer}, which is newer than {older}."]
    assert not {"fsd", "ecs:UpdateService"} & set(operated.account.calls[len(calls) :])
    # What is newer, what runs already, and by hand whatever is wanted.
    for each, env in ((newer, "true"), (older, "false"), (branch, "true")):
        done = operated.run("deploy", "stage", each, SKIP_OLDER=env)
        assert (done.returncode, lines(done)[-1]) == (0, f"Commit {each} serves in stage."), done


def test_without_ecs_the_service_itself_says_what_runs(start: Start) -> None:
    operated = start("fsd")
    (operated.path / "deploy/stage.parameters").unlink()
    older, newer = (commit(operated.path, name) for name in ("Older", "Newer"))

    class Version(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health/version" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"version": newer}).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Version)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    done = operated.run("deploy", "stage", older, SKIP_OLDER="true", SERVICE_URL=url)
    server.shutdown()
    assert lines(done) == [f"Skipped: stage runs {newer}, which is newer than {older}."]


@pytest.mark.parametrize("name", ["CMD", "FILTER"])
def test_make_passes_a_command_and_a_filter_on_as_they_are_written(start: Start, name: str) -> None:
    written = """{ $.status >= 500 } $HOME "it's" `ls`"""
    command = {"CMD": "task", "FILTER": "logs"}[name]
    said = run("make", "PYTHON3=printf '<%s>'", command, "ENV=stage", f"{name}={written}", cwd=start("ecs").path).stdout
    assert f"<{written}>" in said


def test_only_the_command_line_names_a_commit_a_command_or_a_package(start: Start) -> None:
    operated = start("ecs")
    env = operated.environment | {"IMAGE_TAG": NEW, "CMD": "rm", "NAME": "host"}

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", f"PYTHON3={sys.executable}", *arguments]
        return subprocess.run(command, cwd=operated.path, env=env, text=True, capture_output=True)

    assert make("task", "ENV=stage").stderr.startswith("CMD is missing")
    done = make("task", "ENV=stage", "CMD=true")
    assert done.returncode == 0, done
    (ran,) = operated.account.ran
    (container,) = ran["definition"]["containerDefinitions"]
    assert container["image"] == image_of(OLD)
    assert make("add").stderr.startswith("NAME is the package to add")


def test_fsd_that_is_not_installed_names_the_way_out(start: Start) -> None:
    operated = start("fsd")
    (operated.programs / "fsd").unlink()
    done = operated.run("deploy", "stage", NEW, PATH=f"{operated.programs}:/usr/bin:/bin")
    assert lines(done) == [
        'fsd is not installed. Without FSD, run make template-update ANSWERS="deploy=cloudformation", '
        "or with deploy=ecs for a service that exists."
    ]


def test_a_shell_wins_over_the_file(start: Start) -> None:
    operated = start("fsd")
    done = operated.run("status", "stage", ECS_SERVICE="other")
    assert lines(done) == ["There is no service other in the cluster main."]
    assert "ECS_CLUSTER" not in os.environ
    assert run("git", "status", "--porcelain", cwd=operated.path).stdout == ""
