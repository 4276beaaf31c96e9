"""`make push` and `make deploy`, with real Git, a real engine and a real registry."""

import re
import urllib.error

import pytest

from tests.deploy.service import Service
from tests.support.commands import commit, run
from tests.support.containers import running
from tests.support.registry import REGISTRY, ask, layers


def pushed(service: Service) -> str:
    """Push and return the digest that was printed."""
    done = service.make("push")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    match = re.fullmatch(rf"{REGISTRY}/{service.name}@(sha256:[0-9a-f]{{64}})", line)
    assert match
    return match[1]


def refused(service: Service, *arguments: str, **env: str) -> str:
    """Run make, which must fail with one line, and return that line."""
    done = service.make(*arguments, **env)
    assert done.returncode != 0
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, said
    return said[0]


def test_the_pushed_digest_runs_and_a_small_change_is_a_small_push(service: Service) -> None:
    first = run("git", "rev-parse", "HEAD", cwd=service.path).stdout.strip()
    digest = pushed(service)
    image = f"{REGISTRY}/{service.name}@{digest}"
    run("docker", "image", "rm", "--force", f"{REGISTRY}/{service.name}:{first}")
    run("docker", "pull", image)
    with running(image) as container:
        container.wait_until_healthy()
        assert container.get("/health/version")["version"] == first
        assert f'"version":"{first}"' in container.log()
    assert pushed(service) == digest  # again, with nothing changed

    route = next((service.path / "src").glob("*/routers/hello.py"))
    route.write_text(route.read_text().replace("{name}!", "{name}?"))
    commit(service.path)
    before, after = (layers(service.name, of) for of in (digest, pushed(service)))
    assert 0 < sum(after[layer] for layer in after.keys() - before.keys()) < 32_000


def test_a_failed_push_prints_one_line_and_pushes_nothing(service: Service) -> None:
    (service.path / "README.md").write_text("changed")
    assert "not committed" in refused(service, "push")
    run("git", "checkout", "README.md", cwd=service.path)

    assert "123456789012 is no AWS account" in refused(
        service, "push", REGISTRY="123456789012.dkr.ecr.us-east-1.amazonaws.com"
    )
    assert "Cannot log in" in refused(service, "push", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert "127.0.0.1:1" in refused(service, "push", REGISTRY="127.0.0.1:1")

    lock = (service.path / "uv.lock").read_text()
    run("git", "rm", "--quiet", "uv.lock", cwd=service.path)
    commit(service.path)
    assert "uv.lock is missing" in refused(service, "push")
    (service.path / "uv.lock").write_text(lock)
    project = service.path / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", 'dependencies = ["aiofiles"]'))
    commit(service.path)
    done = service.make("push")
    assert done.returncode != 0
    assert "needs to be updated" in done.stderr or "does not fit" in done.stderr

    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{service.name}/tags/list")


def test_a_lock_that_names_the_mirror_of_a_developer_is_noticed(service: Service) -> None:
    def said(**env: str) -> list[str]:
        """Return what a push says before it looks at the account."""
        done = service.make("push", REGISTRY="123456789012.dkr.ecr.us-east-1.amazonaws.com", **env)
        *lines, failed = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert "is no AWS account" in failed
        return lines

    mirror, lock = "https://mirror.example.com/simple", service.path / "uv.lock"
    assert said(UV_DEFAULT_INDEX=mirror) == []
    mirrored = re.sub('registry = "[^"]*"', f'registry = "{mirror}"', lock.read_text())
    lock.write_text(mirrored)
    commit(service.path)
    for env in {}, {"UV_DEFAULT_INDEX": mirror}:
        (line,) = said(**env)
        assert line.startswith(f"uv.lock takes packages from {mirror}, ")
        assert "run 'make lock ON_HOST='" in line

    run("make", "lock", "ON_HOST=", cwd=service.path, UV_DEFAULT_INDEX=mirror)
    commit(service.path)
    assert said() == []

    lock.write_text(mirrored)
    with (service.path / "pyproject.toml").open("a") as project:
        project.write(f'[[tool.uv.index]]\nname = "packages"\nurl = "{mirror}/"\ndefault = true\n')
    commit(service.path)
    assert said() == []


def test_an_image_of_another_commit_is_never_pushed_or_deployed(service: Service) -> None:
    """Neither one that was built earlier, nor one that somebody pushed under this commit's name."""
    commit(service.path, "Old")
    run("make", "build", cwd=service.path)
    head = commit(service.path, "New")
    built = f"{service.name}:latest"
    assert f"{built} is not the image of this commit" in refused(service, "push", BUILT=built)

    run("docker", "tag", built, f"{REGISTRY}/{service.name}:{head}")
    run("docker", "push", f"{REGISTRY}/{service.name}:{head}")
    assert "is not the image of that commit" in refused(service, "deploy", "ENV=prod", f"IMAGE_TAG={head}")


def test_deploy_gives_fsd_the_pushed_digest_and_a_rollback_builds_nothing(service: Service) -> None:
    first = run("git", "rev-parse", "HEAD", cwd=service.path).stdout.strip()
    deployed = service.make("deploy", "ENV=stage")
    assert deployed.returncode == 0, deployed.stderr
    verb, env, image = deployed.stdout.split()
    assert (verb, env) == ("fsd", "stage")

    (service.path / "README.md").write_text("changed")
    commit(service.path)
    assert service.make("deploy", "ENV=stage").stdout.split()[2] != image
    rollback = service.make("deploy", "ENV=prod", f"IMAGE_TAG={first}")
    assert rollback.stdout == f"fsd prod {image}\n"
    assert "load build definition" not in rollback.stderr


def test_deploy_refuses_an_unknown_environment_and_fails_when_fsd_fails(service: Service) -> None:
    assert "ENV is 1 to 16 characters" in refused(service, "deploy")
    assert "ENV is 1 to 16 characters" in refused(service, "deploy", "ENV=Stage")
    assert "IMAGE_TAG is a whole commit id" in refused(service, "deploy", "ENV=prod", "IMAGE_TAG=latest")
    assert "There is no image of commit" in refused(service, "deploy", "ENV=prod", f"IMAGE_TAG={'0' * 40}")
    failed = service.make("deploy", "ENV=prod", FSD_FAILS="yes")
    assert failed.returncode != 0
    assert "fsd: the deployment has failed" in failed.stderr
