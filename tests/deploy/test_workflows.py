"""The workflows are clean, agree with the other files, and what they run is run here."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import Render
from tests.deploy.conftest import Service
from tests.project import GITHUB_SHELL, run
from tests.project import commit as saved

ELSEWHERE = {
    "Install Python": "needs GitHub; without it make lint and make test use the development image",
    "Contract": "tests/container",
}


def workflow(repository: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((repository / f".github/workflows/{name}.yml").read_text())
    return found


def test_workflows_are_clean(rendered: Path) -> None:
    workflows = sorted((rendered / ".github/workflows").glob("*.yml"))
    if not workflows:
        assert not (rendered / ".github").exists()
        return
    names = (
        ["ci", "deploy", "release", "template-update"] if (rendered / "deploy").exists() else ["ci", "template-update"]
    )
    assert [file.stem for file in workflows] == names
    run("actionlint", *workflows)  # and shellcheck, on every `run`
    run("zizmor", "--offline", "--pedantic", "--no-ignores", rendered / ".github")
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", rendered / ".github/dependabot.yml")


def test_every_action_is_pinned_and_every_job_ends(default: Path) -> None:
    for file in (default / ".github/workflows").glob("*.yml"):
        for action, rest in re.findall(r"uses: (\S+)(.*)$", file.read_text(), re.MULTILINE):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) or action.startswith("$/"), action
            assert action.startswith("$/") or re.fullmatch(r"  # v\d+\.\d+\.\d+", rest), action
        for job in workflow(default, file.stem)["jobs"].values():
            assert "uses" in job or job["timeout-minutes"] <= 60
        assert workflow(default, file.stem)["permissions"] == {}
        assert set(re.findall(r"secrets\.\w+", file.read_text())) <= {"secrets.TEMPLATE_UPDATE_TOKEN"}
        assert file.read_text().count("checkout@") == file.read_text().count("persist-credentials: false")


def test_without_github_there_is_no_workflow(render: Render) -> None:
    assert not (render(ci="none") / ".github").exists()


def test_what_the_workflows_run_works(service: Service) -> None:
    """`uv` and `docker` are this machine's, actions are left out, `${{ }}` is what GitHub would put there."""
    commit = run("git", "rev-parse", "HEAD", cwd=service.path).stdout.strip()
    run("git", "update-ref", "refs/remotes/origin/main", commit, cwd=service.path)
    ran = []
    for name in ("ci", "deploy", "release"):
        for job in workflow(service.path, name)["jobs"].values():
            for step in job.get("steps", []):
                if "run" not in step or step["name"] in ELSEWHERE:
                    continue
                env = {key: expand(str(value), commit) for key, value in step.get("env", {}).items()}
                output = run(*GITHUB_SHELL, step["run"], cwd=service.path, check=True, **env).stdout
                ran.append(step["name"])
    assert ran == [
        "Lint",
        "Test",
        "Build",
        "Size",
        "Build",
        "Push",
        "Only a commit of main",
        "Deploy, and wait until SERVICE_URL runs this commit",
    ]
    deployed = rf"^fsd stage {os.environ['REGISTRY']}/{service.name}@sha256:[0-9a-f]{{64}}$"
    assert re.search(deployed, output, re.MULTILINE)


def test_what_is_not_on_main_is_not_deployed(render: Render) -> None:
    repository = render()
    first = saved(repository, "First")
    run("git", "update-ref", "refs/remotes/origin/main", saved(repository, "Main"), cwd=repository)
    (step,) = [
        step for step in workflow(repository, "release")["jobs"]["release"]["steps"] if "main" in step.get("name", "")
    ]
    for commit, refused in ((first, False), (saved(repository, "Branch"), True), ("main", True), (first[:12], True)):
        done = run(*GITHUB_SHELL, step["run"], cwd=repository, check=False, COMMIT=commit)
        assert (done.returncode != 0) == refused
        assert done.stdout == (f"{commit} is no commit of main.\n" if refused else "")


def expand(value: str, commit: str) -> str:
    known = {"inputs.environment": "stage", "inputs.commit": commit}
    known |= {"vars.SERVICE_URL": "", "vars.DEPLOYMENT_ROLE_ARN": ""}
    return re.sub(r"\$\{\{ (\S+) \}\}", lambda name: known[name[1]], value)
