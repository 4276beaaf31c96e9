"""The first and the last release of each minor version update to the newest, and are then what a fresh copy is."""

import os
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import commit, run, tree
from tests.support.containers import docker, running
from tests.support.template import ANSWERS, NEWEST, PYTHON, QUESTIONS, ROOT, Copy
from tests.update.versions import config, conflicts, seeds, update


def answers(repository: Path) -> dict[str, Any]:
    recorded: dict[str, Any] = yaml.safe_load((repository / ".copier-answers.yml").read_text())
    del recorded["_commit"]
    return recorded


def comparable(repository: Path) -> dict[str, tuple[str, bool]]:
    """Return the files that an update keeps up to date, and which can be run; seed-once ones are the service's own."""
    files = tree(repository)
    for path in seeds(files, answers(repository)["package_name"]):
        del files[path]
    files[".copier-answers.yml"] = re.sub("^_commit: .*$", "", files[".copier-answers.yml"], flags=re.MULTILINE)
    return {path: (text, os.access(repository / path, os.X_OK)) for path, text in files.items()}


def is_known(template: Path, version: str, name: str, answer: Any) -> bool:
    """Say whether a release has the question, and among its choices the answer."""
    spec = config(template, version).get(name, {})
    choices = spec.get("choices", [answer])
    return bool(spec) and (isinstance(choices, str) or answer in getattr(choices, "values", lambda: choices)())


def updated(template: Path, copy: Copy, version: str, chosen: dict[str, Any]) -> Path:
    """Return a service of a release, updated; what the release did not know is answered by the update."""
    new = {name: answer for name, answer in chosen.items() if not is_known(template, version, name, answer)}
    if "deploy" in new:  # which says what stop_timeout may be
        new |= {name: chosen[name] for name in chosen.keys() & {"stop_timeout"}}
    service = copy(version, version, **{name: chosen[name] for name in chosen.keys() - new.keys()})
    before = {name: answer for name, answer in answers(service).items() if name in QUESTIONS or name == "_src_path"}
    update(service, **new)
    assert conflicts(service) == ""
    assert (before | new).items() <= answers(service).items()
    return service


@pytest.mark.parametrize("name", ANSWERS)
def test_a_released_service_updates_to_a_fresh_copy(template: Path, released: list[str], copy: Copy, name: str) -> None:
    fresh = copy(NEWEST, "fresh", **ANSWERS[name])
    for version in released:
        service = updated(template, copy, version, ANSWERS[name])
        assert comparable(service) == comparable(fresh)


def test_an_update_without_changes_changes_only_the_recorded_commit(template: Path, copy: Copy) -> None:
    service = copy(NEWEST)
    run("git", "commit", "--quiet", "--allow-empty", "--message", "Nothing", cwd=template)
    run("git", "tag", "--force", "v9999.0.1", cwd=template)
    update(service, "v9999.0.1")
    changed = run("git", "diff", "--unified=0", cwd=service).stdout
    assert {line[:9] for line in re.findall(r"^[+-][^+-].*$", changed, re.MULTILINE)} == {"-_commit:", "+_commit:"}
    commit(service)
    update(service, "v9999.0.1")
    assert run("git", "status", "--porcelain", cwd=service).stdout == ""


def delete_what_the_changelog_says(service: Path) -> None:
    """Delete the tests that an update leaves behind: an owner reads in the changelog which ones."""
    for path in re.findall(r"`(tests/ops/\w+[.]py)`", (ROOT / "CHANGELOG.md").read_text()):
        (service / path).unlink(missing_ok=True)


@pytest.mark.parametrize("chosen", [{}, {"kafka": True, "telemetry": True, "deploy": "cloudformation"}])
def test_a_released_service_passes_its_checks_after_an_update(
    template: Path, released: list[str], copy: Copy, chosen: dict[str, Any], tmp_path: Path
) -> None:
    checked: list[dict[str, str]] = []
    environment = str(tmp_path / "environment")  # one for all services, which have the same dependencies
    for version in released:
        service = updated(template, copy, version, {"python_version": PYTHON} | chosen)
        delete_what_the_changelog_says(service)
        if (files := tree(service)) in checked:  # equal files pass equal checks
            continue
        checked.append(files)
        commit(service)
        checks = ("test", "lint", "conflicts", "ON_HOST=yes")
        assert " passed" in run("make", *checks, cwd=service, UV_PROJECT_ENVIRONMENT=environment).stdout


@pytest.mark.usefixtures("engine")
def test_an_updated_service_builds_and_is_healthy(released: list[str], copy: Copy) -> None:
    service = copy(released[0])
    update(service)
    commit(service)
    image = f"test-{uuid.uuid4().hex[:8]}"
    run("make", "build", f"IMAGE={image}", cwd=service)
    try:
        with running(image) as container:
            container.wait_until_healthy()
    finally:
        docker("image", "rm", image)


EVENTS = ("src/my_service/events.py", "tests/test_events.py")
NOTES = ("models.py", "migrations/env.py", "migrations/versions/0001_notes.py", "ops/migrate.py", "routers/notes.py")


def test_kafka_and_a_database_can_be_turned_on_by_an_update(released: list[str], copy: Copy) -> None:
    service = copy(released[-1])
    update(service, kafka=True, database="postgres")
    assert conflicts(service) == ""
    package = [f"src/my_service/{path}" for path in ("ops/kafka.py", *NOTES)]
    assert all((service / path).is_file() for path in (*EVENTS, "tests/test_notes.py", *package))


def test_an_update_leaves_the_events_of_a_service_alone(template: Path, copy: Copy) -> None:
    service = copy(NEWEST, kafka=True)
    events, test = (service / path for path in EVENTS)
    events.write_text("mine\n")
    test.unlink()
    commit(service)
    run("git", "commit", "--quiet", "--allow-empty", "--message", "Nothing", cwd=template)
    run("git", "tag", "--force", "v9999.0.2", cwd=template)
    for again in ({}, {"port": 9000}):
        update(service, "v9999.0.2", **again)
        assert conflicts(service) == ""
        assert events.read_text() == "mine\n"
        assert not test.exists()
        commit(service)
    update(service, "v9999.0.2", kafka=True)
    assert events.read_text() == "mine\n"


def test_an_update_refuses_a_python_that_kafka_does_not_support(copy: Copy) -> None:
    service = copy(NEWEST, kafka=True)
    with pytest.raises(ValueError, match="aiokafka has no wheel"):
        update(service, python_version="3.15")
    assert answers(service)["kafka"] is True
