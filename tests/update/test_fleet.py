"""Many services: several in one repository, and the steps of docs/platform.md."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import GITHUB_SHELL, commit, edit, run
from tests.support.documents import blocks
from tests.support.template import NEWEST, ROOT, copy
from tests.update.releases import NEXT, publish
from tests.update.script import template_update

ADDRESS = '"$TEMPLATE"'  # the documents say what to set it to
PAGE = (ROOT / "docs/platform.md").read_text().replace("v0.5.0rc1", "v9999.1.0rc1")
PLATFORM, _, MONOREPO = PAGE.partition("## Several services in one repository")


def shell(block: str, cwd: Path) -> str:
    return run(*GITHUB_SHELL, block, cwd=cwd).stdout


def changed(repository: Path) -> set[str]:
    return set(run("git", "diff", "--name-only", "HEAD", cwd=repository).stdout.split())


def recorded(service: Path) -> dict[str, Any]:
    answers: dict[str, Any] = yaml.safe_load((service / ".copier-answers.yml").read_text())
    return answers


@pytest.fixture
def monorepo(published: Path, tmp_path: Path) -> Path:
    """A repository with the two services of the document, of the version before."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (block,) = blocks(MONOREPO)
    shell(block.replace(ADDRESS, str(published)).replace("uvx copier copy", f"copier copy -lfr {NEWEST}"), repository)
    commit(repository)
    return repository


def test_each_of_two_services_in_one_repository_is_updated_by_itself(monorepo: Path) -> None:
    orders, billing = (monorepo / "services" / name for name in ("orders", "billing"))
    edit(billing / ".gitignore", ".coverage\n", ".coverage-of-mine\n")
    commit(monorepo)
    (billing / "new.txt").write_text("not committed\n")
    code, said = template_update(orders, "port=9000", "service_name=orders-2")
    assert (code, said.splitlines()[0]) == (
        0,
        "Renamed: services/orders/orders.yml is services/orders/orders-2.yml now.",
    )
    assert {path.split("/")[1] for path in changed(monorepo)} == {"orders"}
    assert (recorded(orders)["_commit"], recorded(billing)["_commit"]) == (NEXT, NEWEST)

    (billing / "new.txt").unlink()
    assert template_update(billing)[0] == 1
    run("make", "conflicts", cwd=orders)
    assert "<<<<<<< HEAD" in run("make", "conflicts", cwd=billing, check=False).stdout
    unmerged = run("git", "diff", "--name-only", "--diff-filter=U", cwd=monorepo).stdout
    assert unmerged == "services/billing/.gitignore\n"

    run("git", "restore", "--staged", "--worktree", ".", cwd=billing)
    assert {path.split("/")[1] for path in changed(monorepo)} == {"orders"}


def test_the_workflow_of_the_document_is_clean_and_runs_for_its_service_alone(monorepo: Path, default: Path) -> None:
    (text,) = blocks(MONOREPO, "yaml")
    workflow = monorepo / ".github/workflows/orders.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(text)
    run("actionlint", workflow)
    run("zizmor", "--offline", "--pedantic", "--no-ignores", workflow)
    parsed = yaml.safe_load(text)
    paths = ["services/orders/**", ".github/workflows/orders.yml"]
    assert parsed[True] == {"pull_request": {"paths": paths}, "push": {"branches": ["main"], "paths": paths}}
    (job,) = parsed["jobs"].values()
    ci = (default / ".github/workflows/ci.yml").read_text()
    assert all(step["uses"] in ci for step in job["steps"] if "uses" in step)
    targets = " ".join(step["run"] for step in job["steps"] if "run" in step).replace("make", "")
    run("make", "--dry-run", *targets.split(), cwd=monorepo / job["defaults"]["run"]["working-directory"])
    assert not (monorepo / "services/orders/.github").exists()


def test_the_steps_of_the_platform_document_work(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, move, versions, five, everything = blocks(PLATFORM)
    run("git", "init", "--quiet", "--bare", tmp_path / "fork")
    shell(fork.replace(ADDRESS, str(base)).replace('"$FORK"', str(tmp_path / "fork")), tmp_path)
    assert "v9999.0.0.post1" in run("git", "tag", cwd=tmp_path / "fork").stdout.split()
    template = tmp_path / "template"

    (settings,) = (block for block in blocks(PLATFORM, "yaml") if block.startswith("defaults:"))
    (tmp_path / "settings.yml").write_text(settings)
    monkeypatch.setenv("COPIER_SETTINGS_PATH", str(tmp_path / "settings.yml"))
    fleet = tmp_path / "fleet"
    orders = copy(template, fleet / "orders", {}, "v9999.0.0.post1")
    assert yaml.safe_load(settings)["defaults"].items() <= recorded(orders).items()
    assert recorded(orders)["log_retention_days"] == 90
    billing = shutil.copytree(orders, fleet / "billing")
    for service in (orders, billing):
        commit(service)
    (billing / "new.txt").touch()  # it cannot be updated

    again = fork.partition("release=")[2]
    commit(template)
    shell(f"release={again}".replace('"$FORK"', str(tmp_path / "fork")), template)
    assert "v9999.0.0.post2" in run("git", "tag", cwd=tmp_path / "fork").stdout.split()

    commit(template)
    run("git", "tag", "v9999.1.0rc1", cwd=template)
    said = shell(five, fleet)
    assert "billing: look at it" in said
    found = {"orders/.copier-answers.yml:_commit: v9999.1.0rc1", "billing/.copier-answers.yml:_commit: v9999.0.0.post1"}
    assert set(shell(versions, fleet).splitlines()) == found

    run("git", "restore", "--staged", "--worktree", ".", cwd=orders)
    publish(template, 2)
    said = shell(everything, fleet)
    assert "billing: look at it" in said
    assert "orders: look at it" not in said
    assert run("git", "log", "-1", "--format=%D %s", cwd=orders).stdout.startswith("HEAD -> update-template")
    assert recorded(orders)["_commit"] == NEXT

    run("git", "push", "--quiet", tmp_path / "fork", "HEAD", "--tags", cwd=template)
    monkeypatch.setenv("FORK", f"git+file://{tmp_path}/fork")
    shell(move, fleet)
    assert {recorded(service)["_src_path"] for service in (orders, billing)} == {f"git+file://{tmp_path}/fork"}
    (billing / "new.txt").unlink()
    assert template_update(billing)[0] == 0
    assert recorded(billing)["_commit"] == NEXT
