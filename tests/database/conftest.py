"""A PostgreSQL server and a service that uses it, for a whole module or for one test."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database.cluster import Server, Service
from tests.database.pooler import pooling
from tests.support.commands import run
from tests.support.documents import blocks
from tests.support.template import PYTHON, ROOT, Render

HERE = Path(__file__).parent
DOCUMENT = (ROOT / "docs/database.md").read_text()


@pytest.fixture(scope="session")
def repository(render: Render) -> Path:
    """A rendered repository for the Python of these tests, with its dependencies and our routes."""
    path = render(database="postgres", python_version=PYTHON)
    (path / "src/my_service/probe.py").write_text((HERE / "probe.py").read_text())
    (path / "src/my_service/routers/export.py").write_text(
        next(block for block in blocks(DOCUMENT, "python") if "/export" in block).replace("PACKAGE", "my_service")
    )
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    """A running server with an empty database."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        Path(folder).chmod(0o755)
        server = Server(repository, Path(folder))
        server.start()
        server.sql("CREATE ROLE service LOGIN", database="postgres")
        server.sql("CREATE DATABASE service OWNER service", database="postgres")
        yield server
        server.stop()


@pytest.fixture(scope="module")
def database_port(server: Server) -> Iterator[int]:
    """Where the service reaches its database: with DATABASE_POOLER=yes through PgBouncer, for figures by hand."""
    if "DATABASE_POOLER" not in os.environ:
        yield server.port
        return
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder, pooling(server, Path(folder)) as pooler:
        yield pooler.port


@pytest.fixture(scope="module")
def service(repository: Path, database_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service of two workers, whose database has been migrated."""
    service = Service(repository, tmp_path_factory.mktemp("service"), database_port)
    migration = service.migrate()
    said, _ = migration.communicate(timeout=60)
    assert migration.returncode == 0, said
    service.start()
    yield service
    print(service.log_file.read_text()[-3000:])  # shown by pytest when a test fails
    service.kill()
