"""Rehearse all, and write the table of docs/deploying.md: make rehearse."""

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.rehearsal.rehearsals import OTHERS, SHORT, Migration, Outcome, Stage, ten_in_a_row
from tests.support.commands import run
from tests.support.containers import docker
from tests.support.template import PYTHON, ROOT

RATE = 50
DOCUMENT = ROOT / "docs/deploying.md"
BEGIN, END = "<!-- make rehearse: from here -->\n", "<!-- to here -->\n"
# An expansion: the old code does not know the column.
EXPAND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("notes", sa.Column("done", sa.Boolean(), server_default=sa.false(), nullable=False))
"""


def render(folder: Path, **answers: str) -> Path:
    data = [f"--data={name}={value}" for name, value in answers.items()]
    run("copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD", *data, ROOT, folder)
    return folder


def migration(stage: Stage) -> Migration:
    """Add a migration to the second image of a stage."""
    versions = "my_service/migrations/versions"
    (stage.repository / "src" / versions / "0002_done.py").write_text(EXPAND)
    stage.build("second", f"ENV SERVICE_VERSION=second\nCOPY {versions}/0002_done.py /app/src/{versions}/")
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=stage.repository)  # it brings PostgreSQL
    return Migration(stage, docker("network", "inspect", "bridge", "--format={{(index .IPAM.Config 0).Gateway}}"))


def table(outcomes: list[Outcome]) -> str:
    rows = [f"| {each.what} | {each.sent:,} | {len(each.lost)} | {each.seconds:.0f} |" for each in outcomes]
    return "\n".join(["| Rehearsed | Requests sent | Lost | Seconds |", "|---|---|---|---|", *rows])


def main() -> None:
    """Rehearse in two lanes, since one rehearsal mostly waits."""

    def rehearse(lane: list[Callable[[Stage, float], Outcome]]) -> list[Outcome]:
        outcomes = []
        for each in lane:
            outcomes.append(each(plain, RATE))
            print(f"{time.strftime('%X')} {outcomes[-1]}", file=sys.stderr, flush=True)
        return outcomes

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stages:
        one, other = Path(folder) / "plain/my-service", Path(folder) / "database/my-service"
        plain = stages.enter_context(Stage.built(render(one, deploy="cloudformation")))
        database = stages.enter_context(
            Stage.built(render(other, deploy="cloudformation", database="postgres", python_version=PYTHON))
        )
        lanes = [[*SHORT, migration(database), *OTHERS], [ten_in_a_row]]
        with ThreadPoolExecutor() as pool:
            outcomes = [outcome for done in pool.map(rehearse, lanes) for outcome in done]
    text = table(outcomes)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{DOCUMENT} has no marks"
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after}")
    print(text)


if __name__ == "__main__":
    main()
