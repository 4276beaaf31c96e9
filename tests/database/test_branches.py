"""Migrations of several branches and versions: none is skipped in silence, and what is refused can be put right."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.database.cluster import Server, Service
from tests.support.commands import commit, edit, run

VERSIONS = "src/my_service/migrations/versions"
COLUMNS = "SELECT string_agg(column_name, ',' ORDER BY column_name) FROM information_schema.columns WHERE table_name = "
HISTORY = "SELECT string_agg(revision, ',' ORDER BY revision) FROM alembic_history"
MIGRATION = '''\
"""{name}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down!r}
unsafe = ""


def upgrade() -> None:
    op.add_column("notes", sa.Column("{name}", sa.Text()))


def downgrade() -> None:
    op.drop_column("notes", "{name}")
'''


class Clone:
    """A developer's clone of the service."""

    def __init__(self, repository: Path, folder: Path, server: Server) -> None:
        self.path = folder / "clone"
        shutil.copytree(repository, self.path, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
        (self.path / ".venv").symlink_to(repository / ".venv")
        self.server = server
        self.service = Service(self.path, folder, server.port)
        commit(self.path)

    def migrate(self, database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the migrations' program on a database to its end."""
        process = self.service.migrate(*arguments, DATABASE_NAME=database)
        said, _ = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, said)

    def refusal(self, database: str, *arguments: str) -> str:
        """Return why the program refuses; that is its last line, without a traceback."""
        refused = self.migrate(database, *arguments)
        assert refused.returncode == 1, refused.stdout
        line = json.loads(refused.stdout.splitlines()[-1])
        assert "exception" not in line
        reason: str = line["reason"]
        return reason

    def done(self, database: str, *arguments: str) -> str:
        """Return what the program says when it succeeds."""
        migrated = self.migrate(database, *arguments)
        assert migrated.returncode == 0, migrated.stdout
        return migrated.stdout

    def lint(self) -> subprocess.CompletedProcess[str]:
        """Run the tests of the migrations, as `make lint` does."""
        pytest_of_service = (".venv/bin/python", "-m", "pytest", "--no-cov", "--quiet", "ops/checks/test_migrations.py")
        path = f"{self.path}/.venv/bin:/usr/bin:/bin"
        return run(*pytest_of_service, cwd=self.path, check=False, PATH=path, PYTHONPATH="src")

    def git(self, *arguments: str) -> None:
        run("git", *arguments, cwd=self.path)

    def write(self, file: str, revision: str, down: str | None, name: str) -> Path:
        """Write a migration that adds a column to the table notes."""
        path = self.path / VERSIONS / file
        path.write_text(MIGRATION.format(revision=revision, down=down, name=name))
        return path

    def columns(self, database: str) -> list[str]:
        return self.server.sql(COLUMNS + "'notes'", database=database).split(",")


@pytest.fixture
def clone(repository: Path, tmp_path: Path, server: Server) -> Clone:
    """A clone of the service with its example."""
    return Clone(repository, tmp_path, server)


@pytest.fixture
def database(server: Server) -> Iterator[Callable[[str], str]]:
    """Return a function that makes an empty database."""
    made: list[str] = []

    def database(name: str) -> str:
        server.sql(f"CREATE DATABASE {name} OWNER service", database="postgres")
        made.append(name)
        return name

    yield database
    for name in made:
        server.sql(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


def test_two_branches_write_ids_of_their_own_and_are_refused_until_they_are_merged(
    clone: Clone, database: Callable[[str], str]
) -> None:
    models = clone.path / "src/my_service/models.py"
    for name, after in (("title", "mapped_column(Text)"), ("author", "server_default=func.now())")):
        clone.git("checkout", "--quiet", "-b", name, "main")
        edit(models, after + "\n", f"{after}\n    {name}: Mapped[str | None] = mapped_column(Text)\n")
        clone.done(database(name), "--new", f"add {name}")
        clone.done(name)
        commit(clone.path, name)
    # What the other branch has not run is not called migrated.
    assert "and its history does not have this version's" in clone.refusal("title")
    clone.git("merge", "--quiet", "--no-edit", "title")

    files = sorted(file.name for file in (clone.path / VERSIONS).glob("*.py"))
    assert len(files) == 3
    assert files[0] == "0001_notes.py"
    ids = {file: file.split("_")[4] for file in files[1:]}
    assert all(re.fullmatch(r"\d{4}(_\d\d){2}_\d{4}_[0-9a-f]{12}_add_(title|author)\.py", file) for file in ids)
    for refusal in (clone.refusal("title"), clone.refusal("author", "--new", "more")):
        assert all(f"{revision} ({file})" in refusal for file, revision in ids.items())
        assert refusal.endswith("Join the branches: make migration MERGE=yes")
    lint = clone.lint()
    assert lint.returncode
    assert "Join the branches: make migration MERGE=yes" in lint.stdout

    assert "ops.migrate --merge" in run("make", "--dry-run", "migration", "MERGE=yes", cwd=clone.path).stdout
    clone.done("title", "--merge")
    assert clone.refusal("title", "--merge") == "There is nothing to merge: no two migrations are last."
    for either in ("title", "author"):
        clone.done(either)
        assert {"title", "author"} <= set(clone.columns(either))
    lint = clone.lint()
    assert not lint.returncode, lint.stdout


def test_any_name_gives_a_migration_that_runs(clone: Clone, database: Callable[[str], str]) -> None:
    service = database("named")
    for name in ('say "hello"', "a path\\"):
        clone.done(service, "--new", name)
    clone.done(service)


def test_of_two_migrations_with_one_id_none_is_skipped(clone: Clone, database: Callable[[str], str]) -> None:
    for name in ("title", "author"):
        file = clone.write(f"0002_{name}.py", "0002", "0001", name)
        clone.done(database(name))
        file.unlink()
    clone.write("0002_title.py", "0002", "0001", "title")
    clone.write("0002_author.py", "0002", "0001", "author")

    lint = clone.lint()
    assert lint.returncode
    for refusal in (clone.refusal("title"), clone.refusal("title", "--new", "more"), clone.refusal("title", "--merge")):
        assert "The migrations 0002_author.py and 0002_title.py have the same id, 0002." in refusal
        assert "The migrations 0002_author.py and 0002_title.py have the same id, 0002." in lint.stdout
    (line,) = re.findall(r'revision = "[0-9a-f]{12}"', refusal)
    edit(clone.path / VERSIONS / "0002_author.py", 'revision = "0002"', line)

    assert "MERGE=yes" in clone.refusal("title")
    clone.done("title", "--merge")
    clone.done("title")
    # The other branch's database calls its migration by the old id.
    clone.done("author", "--stamp", line.split('"')[1])
    clone.done("author")
    assert {"title", "author"} <= set(clone.columns("title")) & set(clone.columns("author"))


def test_a_migration_that_follows_a_deleted_one_is_named(clone: Clone, database: Callable[[str], str]) -> None:
    file = clone.write("0003_title.py", "0003", "0002", "title")
    said = "The migration 0003_title.py follows 0002, which has no file."
    assert said in clone.refusal(database("deleted"))
    lint = clone.lint()
    assert lint.returncode
    assert said in lint.stdout
    edit(file, "down_revision = '0002'", "down_revision = '0001'")
    clone.done("deleted")


def test_the_sql_of_a_merge_is_judged_without_that_of_the_branches(clone: Clone) -> None:
    clone.write("a.py", "a", "0001", "title")
    branch = clone.write("b.py", "b", "0001", "author")
    clone.done("service", "--merge")
    (merge,) = (clone.path / VERSIONS).glob("*_merge_a_and_b.py")
    locks = 'op.create_index("ix_notes_text", "notes", ["text"])'
    judged = "test_a_migration_is_safe_while_the_service_runs"
    for file, statement in ((branch, "op.add_column"), (merge, "pass")):
        before = file.read_text()
        file.write_text(before.replace(f"    {statement}", f"    {locks}\n    {statement}", 1))
        failed = re.findall(rf"FAILED ops/checks/test_migrations.py::{judged}\[(\w+)\]", clone.lint().stdout)
        assert failed == ["b" if file == branch else merge.name.split("_")[4]]
        file.write_text(before)


def test_an_older_version_leaves_a_newer_schema_alone_also_after_the_files_were_squashed(
    clone: Clone, database: Callable[[str], str]
) -> None:
    service = database("rolled_back")
    clone.done(service)
    clone.git("checkout", "--quiet", "-b", "newer")
    clone.write("0002_title.py", "0002", "0001", "title")
    clone.done(service)
    commit(clone.path, "newer")
    clone.git("checkout", "--quiet", "main")
    assert "the schema is newer than this image" in clone.done(service)
    assert "title" in clone.columns(service)

    clone.git("checkout", "--quiet", "newer")
    for file in (clone.path / VERSIONS).glob("*.py"):
        file.unlink()
    clone.write("all.py", "squashed", None, "title")
    refusal = clone.refusal(service)
    assert "The database is at 0002, which this version does not have" in refusal
    assert "does not have this version's squashed" in refusal
    assert refusal.endswith("python -m my_service.ops.migrate --stamp ID")
    assert "missing is none of this version's migrations: squashed." in clone.refusal(service, "--stamp", "missing")
    clone.done(service, "--stamp", "squashed")
    clone.done(service)
    clone.git("checkout", "--quiet", "--force", "main")
    (clone.path / VERSIONS / "all.py").unlink()
    assert "the schema is newer than this image" in clone.done(service)


def test_a_version_without_migrations_believes_the_history_alone(
    clone: Clone, server: Server, database: Callable[[str], str]
) -> None:
    service = database("emptied")
    clone.done(service)
    (clone.path / VERSIONS / "0001_notes.py").unlink()
    assert "the schema is newer than this image" in clone.done(service)
    server.sql("DROP TABLE alembic_history", database=service)
    assert "The database is at 0001, which this version does not have" in clone.refusal(service)


def test_the_database_of_another_service_is_refused(
    clone: Clone, server: Server, database: Callable[[str], str]
) -> None:
    other = database("other")
    server.sql(
        "CREATE TABLE alembic_version (version_num varchar(32)); INSERT INTO alembic_version VALUES ('5e8f1a2b3c4d');"
        "GRANT SELECT ON alembic_version TO service",
        database=other,
    )
    assert "The database is at 5e8f1a2b3c4d, which this version does not have" in clone.refusal(other)
    assert server.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=other) == "1"


def test_the_history_begins_with_what_is_found_and_a_downgrade_shortens_it(
    clone: Clone, server: Server, database: Callable[[str], str]
) -> None:
    service = database("older")
    clone.write("0002_title.py", "0002", "0001", "title")
    clone.done(service)
    server.sql("DROP TABLE alembic_history", database=service)  # as versions left it that kept none
    clone.done(service)
    assert server.sql(HISTORY, database=service) == "0001,0002"
    # By a user who may only read it, nothing is written.
    server.sql(
        "ALTER TABLE alembic_history OWNER TO postgres; GRANT SELECT ON alembic_history TO service", database=service
    )
    clone.done(service)
    server.sql("ALTER TABLE alembic_history OWNER TO service", database=service)

    downgrade = """
from alembic import command
from my_service.ops import migrate
from my_service.settings import get_settings
engine = migrate.create_migration_engine(get_settings())
command.downgrade(migrate.configuration(engine), "0001")
"""
    environment = clone.service.environment | {"DATABASE_HOST": "127.0.0.1", "DATABASE_NAME": service}
    subprocess.run((".venv/bin/python", "-c", downgrade), cwd=clone.path, env=environment, check=True)
    assert server.sql(HISTORY, database=service) == "0001"


def test_a_user_who_may_not_make_tables_is_told_so(
    clone: Clone, server: Server, database: Callable[[str], str]
) -> None:
    service = database("closed")
    server.sql("ALTER DATABASE closed OWNER TO postgres", database="postgres")
    refused = clone.migrate(service)
    assert refused.returncode == 1
    assert "permission denied for schema public" in json.loads(refused.stdout.splitlines()[-1])["reason"]


def test_a_migration_is_not_written_from_a_database_that_has_run_those_of_another_branch(
    clone: Clone, database: Callable[[str], str]
) -> None:
    clone.git("checkout", "--quiet", "-b", "title")
    clone.write("0002_title.py", "0002", "0001", "title")
    clone.done(database("developers"))
    commit(clone.path, "title")
    clone.git("checkout", "--quiet", "-b", "author", "main")
    assert "the schema is newer than this image" in clone.done("developers")
    refusal = clone.refusal("developers", "--new", "add an author")
    assert refusal.startswith("The database is at 0002, which this version does not have")
    assert "docker compose down --volumes" in refusal
    clone.write("0003_author.py", "0003", "0001", "author")
    assert "docker compose down --volumes" in clone.refusal("developers")
