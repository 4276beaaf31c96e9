"""The container that docs/workers.md adds to a task."""

import re
import textwrap
from pathlib import Path

from tests.support.commands import run
from tests.support.documents import blocks
from tests.support.template import ROOT, Render


def test_the_container_of_the_workers_page_fits_the_task(render: Render, tmp_path: Path) -> None:
    _, container = blocks((ROOT / "docs/workers.md").read_text(), "yaml")
    service = (render(deploy="cloudformation") / "deploy/service.yml").read_text()
    # The blank line before the next resource ends ContainerDefinitions.
    containers = re.search(r"      ContainerDefinitions:\n.*?\n(?=\n  \w)", service, re.DOTALL)
    assert containers
    described = service.replace(containers[0], containers[0] + textwrap.indent(container, " " * 8))
    assert described.count("- Name: worker\n") == 1
    path = tmp_path / "service.yml"
    path.write_text(described)
    run("cfn-lint", path)
