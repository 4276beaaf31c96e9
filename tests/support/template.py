"""The template under test: where it is, what it asks, and how it is copied."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import yaml

Render = Callable[..., Path]  # the `render` fixture
Copy = Callable[..., Path]  # the `copy` fixture of tests/update

ROOT = Path(__file__).parent.parent.parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # the Python that runs the tests
NEWEST = "v9999.0.0"  # what the working tree is called as a version of the template
COPIER_YML: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS: dict[str, dict[str, Any]] = {name: spec for name, spec in COPIER_YML.items() if name[0] != "_"}
# What a terminal shows in grey: the question starts empty, and --defaults takes this.
EXAMPLES = {name: str(spec["placeholder"]) for name, spec in QUESTIONS.items() if "placeholder" in spec}
DEFAULTS: dict[str, Any] = {name: spec["default"] for name, spec in QUESTIONS.items()} | EXAMPLES
COMPUTED = {name for name, spec in QUESTIONS.items() if spec.get("when") is False}
ASKED = [name for name in QUESTIONS if name not in COMPUTED and QUESTIONS[name].get("ask") is not False]

# What yamllint checks in rendered files.
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 140}, document-start: disable, truthy: {check-keys: false}}}"
)

# Answer sets that between them take every value of every choice that changes what is rendered.
ANSWERS: dict[str, dict[str, Any]] = {
    "default": {},
    "short": {
        "service_name": "svc",
        "python_version": "3.11",
        "cpu": 256,
        "memory": 512,
        "workers": 1,
        "deploy": "none",
        "port": 9000,
        "health_path": "/healthz",
        "worker": True,
    },
    "long": {
        "service_name": "an-extraordinarily-long-name-for-service",
        "description": "It's 100 % {{ fine }}, <b>`$(really)`</b>: # {% raw %} & no quotes quotes quotes quotes",
        "pack": "the-team-with-the-long-name-of-forty-ch",
        "python_version": "3.15",
        "workers": 8,
        "cpu": 16384,
        "memory": 122880,
        "architecture": "arm64",
        "aws_account_id": "012345670123",
        "aws_region": "cn-north-1",
        "port": 65535,
        "health_path": "/internal/health_check/v1",
        "min_tasks": 3,
        "max_tasks": 3,
        "log_retention_days": 3653,
        "base_image_registry": "public.ecr.aws/docker/library",
        "uv_image_registry": "registry.example.com:5000/mirror/astral-sh",
        "package_index_url": "https://packages.example.com:8443/api/pypi/python-all/simple",
        "database": "postgres",
    },
    "middle": {
        "build_packages": "gcc libc6-dev",
        "service_name": "orders-2-by-a-name-that-is-40-characters",
        "python_version": "3.13",
        "workers": 2,
        "cpu": 2048,
        "deploy": "cloudformation",
        "stop_timeout": 60,
        "runtime": "minimal",
        "system_packages": "jq libpq5",
        "kafka": True,
        "telemetry": True,
        "strategy": "canary",
        "default_branch": "release/2.x",
        "database": "postgres",
        "worker": True,
    },
    "old": {
        "python_version": "3.12",
        "system_packages": "ffmpeg",
        "build_packages": "git",
        "cpu": 512,
        "deploy": "ecs",
        "stop_timeout": 45,
        "ci": "none",
        "kafka": True,
    },
}


def first_line(question: str) -> str:
    """Return what stands on the screen when the question is asked."""
    return str(QUESTIONS[question]["help"]).splitlines()[0]


def copy(template: Path, destination: Path, answers: dict[str, Any], version: str = NEWEST) -> Path:
    """Run `copier copy` as a user does, without trust; a refused answer raises ValueError."""
    copier.run_copy(str(template), destination, answers, vcs_ref=version, defaults=True, quiet=True, unsafe=False)
    return destination
