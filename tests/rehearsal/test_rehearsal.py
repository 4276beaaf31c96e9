"""A deployment loses no request, and a wrong delay in the file does."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.rehearsal.rehearsals import SHORT, Stage, scaling_in, spot
from tests.support.template import Render

RATE = 20  # requests a second, besides twelve that take three seconds each
# A rehearsal, and an edit that makes it lose requests: those that run, and those that come during the drain.
WRONG = [
    (scaling_in, {'delay.timeout_seconds, Value: "30"': 'delay.timeout_seconds, Value: "0"'}),
    (spot, {"StopTimeout: 30": "StopTimeout: 2"}),
]


@pytest.fixture(scope="module")
def stage(engine: None, render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The default service, deployed by CloudFormation."""
    repository = shutil.copytree(render(deploy="cloudformation"), tmp_path_factory.mktemp("stage") / "my-service")
    with Stage.built(repository) as stage:
        yield stage


def test_a_deployment_loses_no_request_and_a_wrong_delay_does(stage: Stage) -> None:
    """All are rehearsed at the same time, because they mostly wait."""
    broken = [(rehearse, stage.definition("first", edits)) for rehearse, edits in WRONG]
    with ThreadPoolExecutor() as pool:
        good = [pool.submit(rehearse, stage, RATE) for rehearse in SHORT]
        wrong = [pool.submit(rehearse, stage, RATE, definition) for rehearse, definition in broken]
    for each in good:
        assert each.result().lost == []
    for each in wrong:
        assert each.result().lost, each.result().what
    for each in good + wrong:
        print(each.result())  # shown by `make test ARGS="tests/rehearsal -rP"`
