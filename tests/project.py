"""The template under test: where it is, what it asks, how a command is run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import yaml

ROOT = Path(__file__).parent.parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # the Python that runs the tests
NEWEST = "v9999.0.0"  # what the working tree is called as a version of the template
COPIER_YML: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS: dict[str, dict[str, Any]] = {name: spec for name, spec in COPIER_YML.items() if name[0] != "_"}
COMPUTED = {name for name, spec in QUESTIONS.items() if spec.get("when") is False}
ASKED = [name for name in QUESTIONS if name not in COMPUTED and "ask" not in QUESTIONS[name]]

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
        "trusted_proxies": "172.16.0.0/12",
        "log_retention_days": 3653,
        "base_image_registry": "public.ecr.aws/docker/library",
        "uv_image_registry": "registry.example.com:5000/mirror/astral-sh",
        "package_index_url": "https://packages.example.com:8443/api/pypi/python-all/simple",
    },
    "middle": {
        "service_name": "orders-2",
        "python_version": "3.13",
        "workers": 2,
        "cpu": 2048,
        "deploy": "cloudformation",
        "runtime": "minimal",
        "kafka": True,
        "telemetry": True,
    },
    "old": {"python_version": "3.12", "cpu": 512, "ci": "none", "kafka": True},
}

GITHUB_SHELL = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c")  # how GitHub runs a step


def first_line(question: str) -> str:
    """Return what stands on the screen when the question is asked."""
    return str(QUESTIONS[question]["help"]).splitlines()[0]


def run(*command: str | Path, cwd: Path = ROOT, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed, stderr with stdout; a failure raises with its output."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}")
    return done


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    """Return when it is true; an answer that does not come counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if is_true():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


def copy(template: Path, destination: Path, answers: dict[str, Any], version: str = NEWEST) -> Path:
    """Run `copier copy` as a user does, without trust; a refused answer raises ValueError."""
    copier.run_copy(str(template), destination, answers, vcs_ref=version, defaults=True, quiet=True, unsafe=False)
    return destination


def commit(repository: Path, message: str = "Saved") -> str:
    """Commit all there is, in a new Git repository if need be, and return the commit's id."""
    if not (repository / ".git").exists():
        run("git", "init", "--quiet", cwd=repository)
    run("git", "add", "--all", cwd=repository)
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")  # a machine may know no name
    run("git", *author, "commit", "--quiet", "--allow-empty", "--message", message, cwd=repository)
    return run("git", "rev-parse", "HEAD", cwd=repository).stdout.strip()


def tree(root: Path) -> dict[str, str]:
    """Return every file below `root` but Git's: its path and its text."""
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(files)}
