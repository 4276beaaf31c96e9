"""Any accepted answers render a repository that is clean and agrees with itself; any refused ones write nothing.

FUZZ_EXAMPLES sets how many answer sets are tried.
"""

import ast
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st

from tests.support.commands import run, tree
from tests.support.containers import docker, running
from tests.support.template import QUESTIONS, ROOT, YAML_RULES, copy

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
SIZES: dict[int, list[int]] = yaml.safe_load((ROOT / "extensions/fargate.yml").read_text())
REGIONS = [r for p in yaml.safe_load((ROOT / "extensions/regions.yml").read_text()).values() for r in p["regions"]]

SIGNS = "#} {{ $HOME $(id) `id` ' \" \\ &a *a !a %a @a null ~ yes 1e3 0x1 ''' ]]> ${ENV} a] {}"
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(SIGNS.split()),
    st.sampled_from(["{% raw %}", "a\nb", "a\0b", "\u202eb", "a" * 10_000, "a: b", "- a", "# a", "a #b"]),
)
NAME = st.from_regex(r"[a-z][a-z0-9]{1,9}(-[a-z0-9]{1,9}){0,3}", fullmatch=True)
REGISTRY = st.from_regex(r"[a-z]{1,9}\.[a-z]{2,3}(:[1-9][0-9]{3})?(/[a-z]{1,9}){0,3}", fullmatch=True)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    """A task's size with workers that fit."""
    cpu = draw(st.sampled_from(sorted(SIZES)))
    memory = draw(st.sampled_from(SIZES[cpu]))
    return {"cpu": cpu, "memory": memory, "workers": draw(st.integers(1, min(64, memory // 128)))}


GOOD: dict[str, st.SearchStrategy[Any]] = {
    "service_name": NAME,
    "description": st.text(
        st.characters(categories=("L", "N", "P", "S"), exclude_characters='"\\'), min_size=1, max_size=100
    ),
    "pack": NAME,
    "aws_account_id": st.from_regex("[0-9]{12}", fullmatch=True),
    "aws_region": st.sampled_from(REGIONS),
    "package_name": st.from_regex("[a-z][a-z0-9]{0,9}(_[a-z0-9]{1,9}){0,2}", fullmatch=True),
    "port": st.integers(1024, 65535),
    "health_path": st.from_regex("(/[a-zA-Z0-9_-]{1,9}){1,4}", fullmatch=True),
    "default_branch": st.from_regex(r"[a-z0-9]{1,9}([./-][a-z0-9]{1,9}){0,2}", fullmatch=True),
    "min_tasks": st.integers(1, 9),
    "max_tasks": st.integers(9, 5000),
    "base_image_registry": REGISTRY,
    "base_image": st.one_of(st.just(""), REGISTRY.map("{}/python:3".format)),
    "final_image": st.just(""),
    "uv_image_registry": REGISTRY,
    "build_packages": st.sampled_from(["", "git", "gcc libc6-dev"]),
    "system_packages": st.sampled_from(["", "jq", "ffmpeg libstdc++6"]),
    "package_index_url": st.one_of(st.just(""), REGISTRY.map("https://{}/simple".format)),
}
CHOICES = {
    name: st.sampled_from(list(spec["choices"].values()) if isinstance(spec["choices"], dict) else spec["choices"])
    for name, spec in QUESTIONS.items()
    if isinstance(spec.get("choices"), list | dict)
} | {name: st.booleans() for name in ("kafka", "telemetry", "worker")}


@st.composite
def answer_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Some of the questions answered well, and now and then one of them badly."""
    answers = draw(st.fixed_dictionaries({}, optional=GOOD | CHOICES)) | draw(st.one_of(st.just({}), sizes()))
    if answers.get("worker"):
        answers.setdefault("deploy", "none")  # the default is FSD, which has no worker
    if draw(st.integers(0, 3)) == 3:
        name = draw(st.sampled_from(sorted(GOOD)))
        answers[name] = draw(HOSTILE if QUESTIONS[name]["type"] == "str" else st.integers(-9, 99999))
    return answers


def check(repository: Path, answers: dict[str, Any]) -> None:
    """Check that every file parses and that what was answered is where it belongs, unchanged."""
    recorded = yaml.safe_load((repository / ".copier-answers.yml").read_text())
    assert {name: recorded[name] for name in answers} == answers
    package = repository / "src" / recorded["package_name"]
    for path, text in tree(repository).items():
        if path.endswith(".py"):
            ast.parse(text)
    (described,) = [
        keyword.value.value
        for node in ast.walk(ast.parse((package / "main.py").read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant)
    ]
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert described == project["description"] == recorded["description"]
    assert project["name"] == recorded["service_name"]
    compose = yaml.safe_load((repository / "compose.yaml").read_text())
    assert compose["services"]["api"]["ports"] == [f"127.0.0.1:${{PORT:-{recorded['port']}}}:{recorded['port']}"]
    if recorded["deploy"] == "fsd":
        manifest = yaml.safe_load((repository / f"{recorded['service_name']}.yml").read_text())
        assert manifest["metadata"]["name"] == recorded["service_name"]
        assert manifest["metadata"]["owners"] == [f"@{recorded['pack']}"]
        assert manifest["service"]["port"] == recorded["port"]
        assert manifest["service"]["healthCheck"]["path"] == recorded["health_path"]
        assert manifest["service"]["environment"]["WEB_CONCURRENCY"] == str(recorded["workers"])
        resources = manifest["service"]["resources"]
        assert resources["memory"] in SIZES[resources["cpu"]]
        assert recorded["workers"] * 128 <= resources["memory"]
        assert resources["minCapacity"] <= resources["desiredCount"] <= resources["maxCapacity"]


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where accepted answers are rendered to; all of it is linted at the end."""
    folder = tmp_path_factory.mktemp("fuzz")
    yield folder
    rendered = sorted(path for path in folder.iterdir() if path.name != "new")
    assert rendered, "no answers have been accepted"
    run("ruff", "format", "--check", "--no-cache", "--quiet", ".", cwd=folder)
    run("ruff", "check", "--no-cache", "--quiet", ".", cwd=folder)
    dockerfiles = [repository / name for repository in rendered for name in ("Dockerfile", "Dockerfile.dev")]
    run("hadolint", "--failure-threshold", "style", *dockerfiles)
    run("yamllint", "--strict", "-d", YAML_RULES, folder)
    shutil.rmtree(folder)


def test_any_answers_are_rendered_well_or_refused(plain: Path, destination: Path) -> None:
    accepted = refused = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(answer_sets())
    def render(answers: dict[str, Any]) -> None:
        nonlocal accepted, refused
        new = destination / "new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            copy(plain, new, answers)
        except ValueError as refusal:
            assert not new.exists()
            message = str(refusal)
            assert message.startswith(("Validation error for question", "Invalid choice")), message
            assert "undefined" not in message
            refused += 1
            event("refused")
            return
        check(new, answers)
        accepted += 1
        event("accepted")
        new.rename(destination / f"{accepted}")

    render()
    print(f"{accepted} answer sets rendered, {refused} refused")
    assert accepted > EXAMPLES // 2


@pytest.mark.usefixtures("engine")
def test_any_answers_build_and_run(plain: Path, default: Path, tmp_path: Path) -> None:
    here: dict[str, Any] = {
        "python_version": "3.14",
        "base_image_registry": "docker.io/library",
        "base_image": "",
        "uv_image_registry": "ghcr.io/astral-sh",
        "package_index_url": "",
    }
    here |= {"system_packages": "", "build_packages": "", "architecture": "x86_64", "cpu": 1024, "memory": 2048}

    @settings(
        max_examples=max(3, EXAMPLES // 100), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.fixed_dictionaries(GOOD), st.integers(1, 4))
    def build(answers: dict[str, Any], workers: int) -> None:
        repository = tmp_path / "new"
        shutil.rmtree(repository, ignore_errors=True)
        answers = answers | here | {"workers": workers}
        try:
            copy(plain, repository, answers)
        except ValueError:
            reject()
        # One layer of dependencies for all; the test above looks at what this file has of the answers.
        shutil.copy(default / "pyproject.toml", repository)
        image = f"{answers['service_name']}:fuzz"
        run("docker", "build", "--tag", image, ".", cwd=repository)
        try:
            with running(image, "--env=SERVE_DOCS=true", port=answers["port"]) as container:
                container.wait_until_healthy()
                assert container.get(answers["health_path"]) == {"status": "healthy"}
                assert container.get("/openapi.json")["info"]["description"] == answers["description"]
        finally:
            docker("image", "rm", image)

    build()
