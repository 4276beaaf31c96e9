"""The contract, which a service keeps with its own code, and what `ops` promises in every service, on built images."""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run
from tests.support.containers import docker, running
from tests.support.template import Render

OPS = Path(__file__).parent / "ops"
SERVICES: dict[str, dict[str, Any]] = {
    "slim": {},
    "minimal": {
        "runtime": "minimal",
        "kafka": True,
        "telemetry": True,
        "database": "postgres",
        "worker": True,
        "deploy": "none",
    },
}


@dataclass
class Service:
    """A rendered repository whose contract tests have those of `ops` beside them, and the name of its image."""

    repository: Path
    image: str

    def make(self, *arguments: str, check: bool = True) -> str:
        """Return what make prints; without `check` it must fail."""
        done = run("make", *arguments, f"IMAGE={self.image}", cwd=self.repository, check=check)
        assert check or done.returncode
        return done.stdout


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest, render: Render) -> Iterator[Service]:
    """A built service; that it is built only now is tested on the way."""
    repository = render(**SERVICES[request.param])
    contract = repository / "ops/contract"
    shutil.copytree(OPS, contract / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(OPS / "probe.py", contract)
    if "database" in SERVICES[request.param]:  # its port may be taken
        (repository / "compose.override.yaml").write_text("services: {database: {ports: !reset []}}\n")
    service = Service(repository, f"test-{uuid.uuid4().hex[:8]}-{request.param}")
    for command in ("size", "contract"):
        assert "There is no image yet: run make build." in service.make(command, check=False)
    service.make("build")
    yield service
    run("docker", "compose", "down", "--rmi", "local", "--volumes", cwd=repository)
    docker("image", "rm", "--force", service.image)


def test_the_contract_and_the_tests_of_ops_pass(service: Service) -> None:
    """The first day runs the contract for the default answers, so slim runs the tests of ops alone."""
    slim = service.image.endswith("slim")
    tested = service.make("contract", "ARGS=ops" if slim else "ARGS=")
    print(tested)
    assert re.search(rf"\b\d\d passed{', 1 skipped' if slim else ''} in ", tested)  # slim has no telemetry


def test_an_exception_at_import_ends_the_start_with_the_reason(service: Service, tmp_path: Path) -> None:
    broken = tmp_path / "main.py"
    broken.write_text('raise RuntimeError("no model")\n')
    broken.chmod(0o644)
    # With the prefix, Python reads main.py in place of its bytecode.
    instead = (f"--volume={broken}:/app/src/my_service/main.py:ro", "--env=PYTHONPYCACHEPREFIX=/tmp")
    with running(service.image, "--read-only", "--tmpfs=/tmp", "--init", "--cap-drop=ALL", *instead) as container:
        assert docker("wait", container.name) == "1"
        events = [json.loads(line) for line in container.log().splitlines()]
    assert any("RuntimeError: no model" in event.get("exception", "") for event in events)


def test_make_size_names_the_largest_parts_of_an_image_that_is_too_large(service: Service) -> None:
    assert "are allowed." in service.make("size")
    failed = service.make("size", "MEGABYTES=50", check=False)
    assert len(re.findall(r"^ +[0-9.]+ MB  /", failed, re.MULTILINE)) == 10
    assert "/app/.venv/lib/python3.14/site-packages/pydantic_core\n" in failed
    service.make("size", "MEGABYTES=`touch made`", check=False)
    assert not (service.repository / "made").exists()
