"""What `make lint` says of models and migrations: each difference by name, and nothing of what is others'."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from tests.database.cluster import Server
from tests.database.conftest import DOCUMENT
from tests.database.test_branches import VERSIONS, Clone, clone, database
from tests.support.commands import edit
from tests.support.documents import blocks

__all__ = ["clone", "database"]  # fixtures
MIGRATION = '''\
"""{revision}"""

from alembic import op

revision = "{revision}"
down_revision = {down!r}
{unsafe}


def upgrade() -> None:
{up}


def downgrade() -> None:
{down_again}
'''


def write(
    clone: Clone, revision: str, down: str | None, up: str, down_again: str = "pass", unsafe: str | None = ""
) -> Path:
    """Write a migration by its statements."""
    path = clone.path / VERSIONS / f"{revision}.py"
    path.write_text(
        MIGRATION.format(
            revision=revision,
            down=down,
            unsafe="" if unsafe is None else f"unsafe = {unsafe!r}",
            up=textwrap.indent(up, "    "),
            down_again=textwrap.indent(down_again, "    "),
        )
    )
    return path


def differences(clone: Clone) -> list[str]:
    """Return the lines that name differences; there are some if, and only if, the check fails.

    Where CI is set, pytest's summary repeats them.
    """
    lint = clone.lint()
    found = list(dict.fromkeys(re.findall("^(only the .*)$", lint.stdout, re.MULTILINE)))
    assert bool(lint.returncode) == bool(found), lint.stdout
    return found


def test_what_alembic_does_not_compare_is_named_until_the_documented_statements_are_written(clone: Clone) -> None:
    models = clone.path / "src/my_service/models.py"
    edit(models, "from datetime", "import enum\nfrom datetime")
    edit(models, "import BigInteger,", "import JSON, BigInteger, CheckConstraint, Enum,")
    edit(models, "class Note(Base)", "class Kind(enum.Enum):\n    A = 1\n    B = 2\n    C = 3\n\n\nclass Note(Base)")
    models.write_text(
        models.read_text()
        + """    kind: Mapped[Kind] = mapped_column(Enum(Kind, name="kind"), server_default="A")
    more: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")
    __table_args__ = (CheckConstraint("length(text) > 1", name="length"),)
"""
    )
    create, label, drop_type, drop, add, validate, _ = next(
        block for block in blocks(DOCUMENT, "python") if "CREATE TYPE" in block
    ).splitlines()
    older = add.replace("> 1", "> 0")
    columns = (
        """op.execute("ALTER TABLE notes ADD kind kind NOT NULL DEFAULT 'A', ADD more json NOT NULL DEFAULT '{}'")"""
    )
    undo = 'op.execute("ALTER TABLE notes DROP kind, DROP more, DROP CONSTRAINT ck_notes_length")'
    write(clone, "0002", "0001", f"{create}\n{columns}\n{older}", f"{undo}\n{drop_type}")
    assert differences(clone) == [
        "only the migrations make public.notes: column kind is one of 'A', 'B' (kind)",
        "only the migrations make public.notes: constraint CHECK ((length(text) > 0)) (ck_notes_length)",
        "only the models have public.notes: column kind is one of 'A', 'B', 'C' (kind)",
        "only the models have public.notes: constraint CHECK ((length(text) > 1)) (ck_notes_length)",
    ]
    write(clone, "0003", "0002", f"{label}\n{drop}\n{add}", f"{drop}\n{older}", unsafe="the old CHECK is weaker")
    write(clone, "0004", "0003", validate)
    assert not differences(clone)


def test_the_owners_options_reach_alembic(clone: Clone, server: Server) -> None:
    (options,) = [block for block in blocks(DOCUMENT, "python") if "include_schemas=True" in block]
    (clone.path / "src/my_service/migrations/env.py").write_text(options.replace("PACKAGE", "my_service"))
    models = clone.path / "src/my_service/models.py"
    models.write_text(
        models.read_text()
        + '''

class Bill(Base):
    """In another schema."""

    __tablename__ = "bills"
    __table_args__ = {"schema": "billing"}

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
'''
    )
    make = """\
op.execute("CREATE SCHEMA billing")
op.execute("CREATE TABLE billing.bills (id bigserial CONSTRAINT pk_bills PRIMARY KEY)")
op.execute("CREATE TABLE celery_tasks (id int)")
op.execute("CREATE SCHEMA others")
op.execute("CREATE TABLE others.things (id int)")
"""
    drop = 'op.execute("DROP TABLE celery_tasks")\nop.execute("DROP SCHEMA billing, others CASCADE")'
    path = write(clone, "0002", "0001", make, drop)
    assert not differences(clone)
    edit(path, "id bigserial", "id bigserial, owner text")
    assert "owner" in clone.lint().stdout


OLD = """\
op.execute("CREATE TABLE old (id serial PRIMARY KEY, name varchar(20), made timestamp)")
op.execute("CREATE INDEX old_name ON old (name)")
"""


def test_migrations_from_before_the_template_are_not_judged_and_later_ones_are(clone: Clone) -> None:
    (clone.path / VERSIONS / "0001_notes.py").unlink()
    (clone.path / "tests/conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef theirs() -> None:\n    raise RuntimeError\n"
    )
    models = clone.path / "src/my_service/models.py"
    models.write_text(
        models.read_text().partition("class Note(")[0].replace("Identity, ", "Index, Integer, String, ")
        + '''class Old(Base):
    """With types that stop no running service."""

    __tablename__ = "old"
    __table_args__ = (Index("old_name", "name"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20))
    made: Mapped[datetime | None] = mapped_column(DateTime)
'''
    )
    write(clone, "a", None, OLD, unsafe=None)  # its downgrade does not undo it
    write(clone, "b", "a", "pass", unsafe=None)
    assert not differences(clone)

    locks = 'op.execute("CREATE INDEX old_made ON old (made)")'
    write(clone, "c", "b", "pass")
    write(clone, "d", "c", f'{locks}\nop.execute("DROP INDEX old_made")', unsafe=None)
    lint = clone.lint()
    assert f'{clone.path / VERSIONS / "d.py"} has no `unsafe`: write unsafe = "" below down_revision' in lint.stdout
    write(clone, "d", "c", f'{locks}\nop.execute("DROP INDEX old_made")')
    failed = re.findall(r"^FAILED .*::(\w+\[\w+\])", clone.lint().stdout, re.MULTILINE)
    assert failed == ["test_a_migration_is_safe_while_the_service_runs[d]"]


def test_a_default_that_does_not_fit_the_old_type_is_written_into_the_migration(
    clone: Clone, database: Callable[[str], str]
) -> None:
    models = clone.path / "src/my_service/models.py"
    edit(models, "import BigInteger,", "import BigInteger, Enum, Integer,")
    before = models.read_text()
    models.write_text(
        before
        + """    kind: Mapped[str] = mapped_column(Enum("A", "B", name="kind"), server_default="B")
    size: Mapped[int] = mapped_column(Integer, server_default="1")
"""
    )
    make = """\
op.execute("CREATE TYPE kind AS ENUM ('A')")
op.execute("ALTER TABLE notes ADD kind kind NOT NULL DEFAULT 'A', ADD size text NOT NULL DEFAULT 'small'")
"""
    write(clone, "0002", "0001", make)
    clone.done(database("defaults"), "--new", "defaults")
    (written,) = (clone.path / VERSIONS).glob("*_defaults.py")
    assert re.findall(r"server_default='(\w+)'", written.read_text()) == ["B", "1"]


def test_older_migrations_of_many_merged_branches_are_found_at_once(clone: Clone) -> None:
    last = "0001"
    for number in range(40):
        write(clone, f"{number}a", last, "pass", unsafe=None)
        write(clone, f"{number}b", last, "pass", unsafe=None)
        last = f"{number}c"
        path = write(clone, last, None, "pass", unsafe=None)
        edit(path, "down_revision = None", f'down_revision = ("{number}a", "{number}b")')
    edit(clone.path / VERSIONS / "0001_notes.py", '\nunsafe = ""', "")
    assert not differences(clone)


def test_a_view_and_a_foreign_key_to_a_partitioned_table_are_no_differences(clone: Clone) -> None:
    models = clone.path / "src/my_service/models.py"
    edit(models, "import BigInteger,", "import BigInteger, ForeignKey,")
    models.write_text(
        models.read_text()
        + '''

class Count(Base):
    """A view."""

    __tablename__ = "counts"
    __table_args__ = {"info": {"is_view": True}}

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class Part(Base):
    """A table in partitions."""

    __tablename__ = "parts"
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class Use(Base):
    """One that refers to it."""

    __tablename__ = "uses"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(ForeignKey("parts.id"))
'''
    )
    edit(
        clone.path / "src/my_service/migrations/env.py",
        "\nrun()",
        """
OTHERS = {"parts_first", "fk_uses_part_parts_1"}  # of the partition
run(include_object=lambda each, name, *_: not each.info.get("is_view") and name not in OTHERS)""",
    )
    make = """\
op.execute("CREATE VIEW counts AS SELECT count(*) AS id FROM notes")
op.execute("CREATE TABLE parts (id bigint CONSTRAINT pk_parts PRIMARY KEY) PARTITION BY RANGE (id)")
op.execute("CREATE TABLE parts_first PARTITION OF parts FOR VALUES FROM (0) TO (1)")
op.execute("CREATE TABLE uses (id bigint CONSTRAINT pk_uses PRIMARY KEY, part bigint NOT NULL)")
op.execute("ALTER TABLE uses ADD CONSTRAINT fk_uses_part_parts FOREIGN KEY (part) REFERENCES parts")
"""
    write(clone, "0002", "0001", make, 'op.execute("DROP TABLE uses, parts")\nop.execute("DROP VIEW counts")', "new")
    assert not differences(clone)


def test_a_migration_that_reads_is_told_what_to_do(clone: Clone) -> None:
    imports = "from sqlalchemy import orm, text\n"
    files = [
        write(clone, "0002", "0001", imports + 'op.get_bind().scalar(text("SELECT 1"))'),
        write(clone, "0003", "0002", imports + 'orm.Session(op.get_bind()).scalar(text("SELECT 1"))'),
        write(clone, "0004", "0003", imports + '[row for row in op.get_bind().execute(text("SELECT 1"))]'),
    ]
    lint = clone.lint().stdout
    assert len(re.findall("^FAILED ", lint, re.MULTILINE)) == len(files)
    for file in files:
        assert f"{file} reads the database, so its SQL cannot be written down" in lint
        edit(file, "unsafe = ''", "unsafe = 'it reads one row'")
    assert not differences(clone)
