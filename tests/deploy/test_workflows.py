"""The workflows are clean, agree with the other files, and what they run is run here."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.service import Service
from tests.support.commands import GITHUB_SHELL, run
from tests.support.commands import commit as saved
from tests.support.template import Render

ELSEWHERE = {  # what cannot run here, and what tests/container runs
    "Install Python": "uv python install 3.14",
    "Lint": "make conflicts lint",
    "Test": "make test",
    "Contract": "make contract",
}
LOOK_FOR_NEWER_IMAGES = " PULL=yes"  # which no registry of these tests has


def workflow(repository: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((repository / f".github/workflows/{name}.yml").read_text())
    return found


def test_rendered_workflows_pass_their_linters(rendered: Path, tmp_path: Path) -> None:
    if yaml.safe_load((rendered / ".copier-answers.yml").read_text())["ci"] == "none":
        assert not (rendered / ".github").exists()
        return
    workflows = sorted((rendered / ".github/workflows").glob("*.yml"))
    names = (
        ["ci", "deploy", "release", "template-update"] if (rendered / "deploy").exists() else ["ci", "template-update"]
    )
    assert [file.stem for file in workflows] == names
    run("actionlint", *workflows)  # and shellcheck, on every `run`
    # `$/`, which it prefers to `./`, does not work on GitHub Enterprise Server.
    (tmp_path / "zizmor.yml").write_text("rules: {self-repository: {disable: true}}\n")
    strict = ("--offline", "--pedantic", "--no-ignores", "--config", tmp_path / "zizmor.yml")
    run("zizmor", *strict, rendered / ".github")
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", rendered / ".github/dependabot.yml")


def test_every_action_is_pinned_and_every_job_has_a_timeout_and_a_runner(default: Path) -> None:
    for file in (default / ".github/workflows").glob("*.yml"):
        for action, rest in re.findall(r"uses: (\S+)(.*)$", file.read_text(), re.MULTILINE):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) or action.startswith("./"), action
            assert action.startswith("./") or re.fullmatch(r"  # v\d+\.\d+\.\d+", rest), action
        for job in workflow(default, file.stem)["jobs"].values():
            assert "uses" in job or (job["timeout-minutes"] <= 60 and "vars.RUNNER ||" in job["runs-on"])
        assert workflow(default, file.stem)["permissions"] == {}
        assert set(re.findall(r"secrets\.\w+", file.read_text())) <= {
            "secrets.TEMPLATE_UPDATE_TOKEN",
            "secrets.INDEX_NETRC",
            "secrets.IMAGES_PASSWORD",
        }
        assert file.read_text().count("checkout@") == file.read_text().count("persist-credentials: false")


def test_the_commands_of_the_workflows_work(service: Service, tmp_path: Path) -> None:
    """`uv` and `docker` are this machine's, actions are left out, `${{ }}` is what GitHub would put there."""
    commit = run("git", "rev-parse", "HEAD", cwd=service.path).stdout.strip()
    run("git", "update-ref", "refs/remotes/origin/main", commit, cwd=service.path)
    output_file = tmp_path / "output"
    ran = []
    for name in ("ci", "deploy", "release"):
        for job in workflow(service.path, name)["jobs"].values():
            for step in job.get("steps", []):
                if "run" not in step:
                    continue
                if step["name"] in ELSEWHERE:
                    assert step["run"] == ELSEWHERE[step["name"]]
                    continue
                env = {key: expand(str(value), commit) for key, value in step.get("env", {}).items()}
                env["GITHUB_OUTPUT"] = str(output_file)
                assert step["name"] != "Build" or step["run"] == f"make build{LOOK_FOR_NEWER_IMAGES}"
                command = step["run"].removesuffix(LOOK_FOR_NEWER_IMAGES)
                output = run(*GITHUB_SHELL, command, cwd=service.path, check=True, **env).stdout
                ran.append(step["name"])
    assert ran == [
        "Build",
        "Size",
        "Build",
        "Size",
        "Push the image that was checked",
        "Only a commit of main",
        "Deploy, and wait until it serves",
    ]
    deployed = rf"^fsd stage {os.environ['REGISTRY']}/{service.name}@sha256:[0-9a-f]{{64}}$"
    assert re.search(deployed, output, re.MULTILINE)

    # What was pushed is the image that was checked, and the attestation names its digest.
    repository = f"{os.environ['REGISTRY']}/{service.name}"
    ids = [
        run("docker", "image", "inspect", "--format", "{{.Id}}", image).stdout
        for image in (f"{service.name}:latest", f"{repository}:{commit}")
    ]
    assert ids[0] == ids[1]
    written = dict(line.split("=", 1) for line in output_file.read_text().splitlines())
    assert written["name"] == repository
    assert f"{repository}@{written['digest']}" in output


def test_a_commit_that_is_not_on_main_is_not_deployed(render: Render) -> None:
    repository = render()
    first = saved(repository, "First")
    run("git", "update-ref", "refs/remotes/origin/main", saved(repository, "Main"), cwd=repository)
    (step,) = [
        step for step in workflow(repository, "release")["jobs"]["release"]["steps"] if "main" in step.get("name", "")
    ]
    assert "origin/main" in step["run"]
    for commit, refused in ((first, False), (saved(repository, "Branch"), True), ("main", True), (first[:12], True)):
        done = run(*GITHUB_SHELL, step["run"], cwd=repository, check=False, COMMIT=commit)
        assert (done.returncode != 0) == refused
        assert done.stdout == (f"{commit} is no commit of main.\n" if refused else "")


@pytest.mark.parametrize("deploy", ["fsd", "ecs", "cloudformation"])
def test_a_deployment_knows_its_cluster_and_a_push_skips_older_commits(render: Render, deploy: str) -> None:
    (job,) = workflow(render(deploy=deploy), "release")["jobs"].values()
    (step,) = [step for step in job["steps"] if "make deploy" in step.get("run", "")]
    # CloudFormation needs the cluster in deploy/ENV.parameters.
    variables = {"ECS_CLUSTER": "${{ vars.ECS_CLUSTER }}", "ECS_SERVICE": "${{ vars.ECS_SERVICE }}"}
    assert variables.items() & step["env"].items() == (set() if deploy == "cloudformation" else variables.items())
    # GitHub cancels a job that waits in a group when the next one comes.
    assert job["concurrency"]["group"] == "release-${{ inputs.environment }}-${{ github.event_name }}"
    assert step["env"]["SKIP_OLDER"] == "${{ github.event_name == 'push' }}"
    (checkout,) = [step for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert checkout["with"]["fetch-depth"] == 0, "without its history nobody knows which commit is older"


def test_the_workflows_log_in_to_private_registries_and_indexes(render: Render, tmp_path: Path) -> None:
    registry, index = "registry.example.com:5000", "https://packages.example.com/simple"
    repository = render(base_image_registry=f"{registry}/mirror", package_index_url=index)
    run("actionlint", *sorted((repository / ".github/workflows").glob("*.yml")))
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$@" "$(cat)" >>"$RUNNER_TEMP/logins"\n')
    (tmp_path / "docker").chmod(0o755)
    secrets = {"INDEX_NETRC": "machine x", "IMAGES_USER": "ada", "IMAGES_PASSWORD": "pass"}
    files = {"RUNNER_TEMP": str(tmp_path), "GITHUB_ENV": str(tmp_path / "env")}
    path = f"{tmp_path}:{os.environ['PATH']}"
    for name, job in (("ci", "source"), ("ci", "image"), ("deploy", "image")):
        for step in workflow(repository, name)["jobs"][job]["steps"]:
            if "Log in" in step.get("name", ""):
                run(*GITHUB_SHELL, step["run"], cwd=repository, check=True, PATH=path, **files, **secrets)
                run(
                    *GITHUB_SHELL,
                    step["run"],
                    cwd=repository,
                    check=True,
                    PATH=path,
                    **files,
                    **dict.fromkeys(secrets, ""),
                )
    assert (tmp_path / "logins").read_text() == f"login --username ada --password-stdin {registry} pass\n" * 3
    assert (tmp_path / "env").read_text() == f"NETRC={tmp_path}/netrc\n" * 3
    assert (tmp_path / "netrc").read_text() == "machine x\n"
    assert (tmp_path / "netrc").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "answers", [{"package_index_url": "https://packages.example.com/simple"}, {}], ids=["index", ""]
)
def test_a_called_workflow_gets_all_secrets_that_it_reads(render: Render, answers: dict[str, str]) -> None:
    """GitHub passes none by itself, and one that is missing is empty."""
    repository = render(base_image_registry="registry.example.com", **answers)
    for job in workflow(repository, "deploy")["jobs"].values():
        if "uses" not in job:
            continue
        called = repository / job["uses"]
        read = set(re.findall(r"secrets\.(\w+)", called.read_text()))
        # To YAML 1.1, and so to this parser, the key `on` is true.
        declared = yaml.safe_load(called.read_text())[True]["workflow_call"].get("secrets", {})
        assert read == declared.keys() == job.get("secrets", {}).keys(), job["uses"]
        assert all(value == f"${{{{ secrets.{name} }}}}" for name, value in job.get("secrets", {}).items())


def expand(value: str, commit: str) -> str:
    known = {"inputs.environment": "stage", "inputs.commit": commit}
    known |= {"vars.SERVICE_URL": "", "vars.ECS_CLUSTER": "", "vars.ECS_SERVICE": ""}
    return re.sub(r"\$\{\{ (\S+) \}\}", lambda name: known[name[1]], value)
