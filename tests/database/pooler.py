"""PgBouncer in transaction mode: each transaction may be on another connection of the server."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.database.cluster import Server
from tests.rig.debian import can_start, need
from tests.rig.machine import lock
from tests.support.commands import free_port, wait_until

PATH = f"{os.environ['PATH']}:/usr/sbin"
CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 6
server_login_retry = 1
logfile = {folder}/pgbouncer.log
"""


class Pooler:
    """A running PgBouncer."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.port = free_port()
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self.user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        (folder / "users").write_text('"service" ""\n"postgres" ""\n')
        file = folder / "pgbouncer.ini"
        file.write_text(CONFIGURATION.format(server=server.port, port=self.port, folder=folder))
        self.command = [shutil.which("pgbouncer", path=PATH) or "", "-q", str(file)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, **self.user)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def pooling(server: Server, folder: Path) -> Iterator[Pooler]:
    """Run PgBouncer in front of a server; it is installed where that is possible."""
    if not shutil.which("pgbouncer", path=PATH):
        if not can_start():
            pytest.skip("there is no PgBouncer, and it can only be installed on Debian, as root")
        with lock():
            need("pgbouncer")
    pooler = Pooler(server, folder)
    reach = ("-h", "127.0.0.1", "-p", str(pooler.port), "-U", "service", "-d", "service", "-c", "SELECT 1")
    wait_until(lambda: not subprocess.run((server.programs / "psql", *reach), capture_output=True).returncode)
    try:
        yield pooler
    finally:
        pooler.kill()
