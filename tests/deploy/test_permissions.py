"""The rights of CloudFormation's role are those that the resources of service.yml need, no more and no fewer."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.cloudformation import Loader
from tests.support.template import ROOT, Render

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def facts() -> Facts:
    """What AWS's resource schemas say: actions by type and operation."""
    found: Facts = yaml.safe_load((ROOT / "tests/deploy/permissions.yml").read_text())
    return found


def needed(repository: Path, facts: Facts) -> set[str]:
    """Return every action that some operation on some resource of service.yml calls."""
    template = yaml.load((repository / "deploy/service.yml").read_text(), Loader)
    types = {resource["Type"] for resource in template["Resources"].values()}
    actions: set[str] = {action for name in types for calls in facts["types"][name].values() for action in calls}
    return actions - set(facts["unused"])


def granted(environment: str, role: str = "CloudFormationRole") -> set[str]:
    """Return the actions that the role has; a pattern would hide what it grants."""
    template = yaml.load(environment, Loader)
    (policy,) = template["Resources"][role]["Properties"]["Policies"]
    actions = [each["Action"] for each in policy["PolicyDocument"]["Statement"]]
    found = {action for each in actions for action in ([each] if isinstance(each, str) else each)}
    assert not [action for action in found if "*" in action]
    return found


@pytest.mark.parametrize("strategy", ["rolling", "canary"])
def test_the_role_has_every_right_that_a_resource_needs_and_no_other(
    render: Render, facts: Facts, strategy: str
) -> None:
    repository = render(deploy="cloudformation", strategy=strategy)
    environment = (repository / "deploy/environment.yml").read_text()
    wanted = needed(repository, facts) | facts["beyond"].keys()
    assert sorted(wanted - granted(environment)) == [], "missing"
    assert sorted(granted(environment) - wanted) == [], "needless"


def test_every_exception_to_the_rights_is_needed(render: Render, facts: Facts) -> None:
    """What is said to be unused or beyond the schemas is so."""
    named = {action for calls in facts["types"].values() for each in calls.values() for action in each}
    assert facts["unused"].keys() <= named
    assert not facts["beyond"].keys() & named


def test_the_role_that_deploys_can_run_a_task(render: Render) -> None:
    repository = render(deploy="cloudformation")
    calls = re.findall(r'"(ecs|logs)", "([a-z-]+)"', (repository / "ops/deployment/task.py").read_text())
    called = {f"{service}:{operation.title().replace('-', '')}" for service, operation in calls}
    assert {"ecs:RunTask", "logs:GetLogEvents"} <= called
    needed = called | {"ecs:TagResource", "iam:PassRole"}  # of the tags and the roles in a definition
    actions = granted((repository / "deploy/environment.yml").read_text(), "DeployRole")
    assert {action for action in actions if action.startswith(("ecs:", "logs:", "iam:"))} == needed
