"""Behind nginx, HAProxy and Apache: each client gets its own answer and each body arrives, whatever stops meanwhile."""

import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support.commands import edit, free_port, run, wait_until
from tests.support.containers import docker
from tests.support.gunicorn import Gunicorn
from tests.support.template import PYTHON, Render

STOPS = 10
WAIT = 0.6  # seconds in which each proxy notices that a service is back

IMPORTS = """\
import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
"""

ROUTES = """

@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body())


@app.get("/slow/{token}")
async def slow(token: str) -> str:
    await asyncio.sleep(0.1)
    return token


@app.get("/events/{token}")
async def events(request: Request, token: str) -> StreamingResponse:
    async def until_stop() -> AsyncIterator[str]:
        stopping = request.app.state.stopping
        while True:
            yield f"data: {token}\\n\\n"
            try:
                await asyncio.wait_for(stopping.wait(), 0.1)
                break
            except TimeoutError:
                pass
        yield "data: last\\n\\n"

    return StreamingResponse(until_stop(), media_type="text/event-stream")


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())
"""

# As their documentation shows a proxy before two servers; a server that has refused a connection is tried again soon.
NGINX = """\
events {{}}
http {{
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream service {{
    server 127.0.0.1:{first} max_fails=0;
    server 127.0.0.1:{second} max_fails=0;
    keepalive 8;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""
HAPROXY = """\
defaults
  mode http
  timeout connect 5s
  timeout check 2s  # else that of `inter`, which a busy machine may need for an answer
  timeout client 50s
  timeout server 50s
  timeout tunnel 1h
frontend clients
  bind 127.0.0.1:{port}
  default_backend service
backend service
  option httpchk GET /health
  default-server check inter 200ms fall 2
  server first 127.0.0.1:{first}
  server second 127.0.0.1:{second}
"""
APACHE = """\
ServerName proxy
Listen 127.0.0.1:{port}
User www-data
Group www-data
ErrorLog /dev/stderr
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule slotmem_shm_module /usr/lib/apache2/modules/mod_slotmem_shm.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule proxy_balancer_module /usr/lib/apache2/modules/mod_proxy_balancer.so
LoadModule lbmethod_byrequests_module /usr/lib/apache2/modules/mod_lbmethod_byrequests.so
LoadModule proxy_hcheck_module /usr/lib/apache2/modules/mod_proxy_hcheck.so
<Proxy balancer://service>
  BalancerMember http://127.0.0.1:{first} upgrade=websocket hcmethod=GET hcuri=/health hcinterval=200ms
  BalancerMember http://127.0.0.1:{second} upgrade=websocket hcmethod=GET hcuri=/health hcinterval=200ms
</Proxy>
ProxyPass / balancer://service/
"""
PROXIES = {
    "nginx": (NGINX, ["nginx", "-c", "{file}", "-g", "daemon off;"]),
    "haproxy": (HAPROXY, ["haproxy", "-f", "{file}"]),
    "apache": (APACHE, ["apache2", "-D", "FOREGROUND", "-f", "{file}"]),
}
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}
TEXT, CLOSE, SERVICE_RESTART = 0x81, 0x88, 1012


class Service(Gunicorn):
    """One of the two services behind each proxy."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository = repository
        self.port = free_port()
        self.log_file = folder / f"log-{self.port}"

    def start(self) -> None:
        settings = {"PYTHONPATH": "src", "DRAIN_SECONDS": "1", "WEB_CONCURRENCY": "2", "MAX_REQUESTS": "300"}
        self.launch("my_service.main:app", self.port, self.repository, self.log_file, settings)
        wait_until(lambda: self.is_healthy())

    def is_healthy(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()


class Clients:
    """Clients of one proxy, each of which knows what it must be answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.right: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.ended = Event()

    def run(self, pool: ThreadPoolExecutor) -> list[Any]:
        kinds = [self.ask, self.ask, self.upload, self.offer, self.wait_for_answer, self.follow, self.talk]
        return [pool.submit(self.repeat, kind) for kind in kinds]

    def repeat(self, kind: Callable[[HTTPConnection, str], str]) -> None:
        """Do the same with always another token, on one connection while that is open."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.ended.wait(0.01):
            try:
                problem = kind(connection, uuid.uuid4().hex)
            except (OSError, HTTPException) as error:
                problem = repr(error)
            if problem:
                self.wrong[f"{kind.__name__}: {problem[:200]}"] += 1
                connection.close()
            else:
                self.right[kind.__name__] += 1
        connection.close()

    def echo(self, connection: HTTPConnection, body: str, headers: dict[str, str]) -> str:
        connection.request("POST", "/echo", body, headers)
        response = connection.getresponse()
        answer = response.read().decode()
        return "" if answer == body else f"{response.status} {answer[:100]}"

    def ask(self, connection: HTTPConnection, token: str) -> str:
        return self.echo(connection, token, {})

    def upload(self, connection: HTTPConnection, token: str) -> str:
        return self.echo(connection, token * 10_000, {})

    def offer(self, connection: HTTPConnection, token: str) -> str:
        """Offer HTTP/2, with requests in the body that are nobody's, so long that a proxy sends it after its head."""
        body = "\r\n" * 100_000 + "GET /slow/STOLEN HTTP/1.1\r\nHost: service\r\n\r\n" * 3 + token
        return self.echo(connection, body, {"Connection": "Upgrade", "Upgrade": "h2c"})

    def wait_for_answer(self, connection: HTTPConnection, token: str) -> str:
        connection.request("GET", f"/slow/{token}")
        response = connection.getresponse()
        answer = response.read().decode()
        return "" if answer == f'"{token}"' else f"{response.status} {answer}"

    def follow(self, connection: HTTPConnection, token: str) -> str:
        """Follow a stream of events until it ends itself."""
        connection.request("GET", f"/events/{token}")
        response = connection.getresponse()
        events = []
        while not self.ended.is_set() and (line := response.readline()):
            events.append(line.decode().strip())
        if self.ended.is_set():
            connection.close()
        elif {event for event in events if event} != {f"data: {token}", "data: last"}:
            return f"{response.status} {events}"
        return ""

    def talk(self, connection: HTTPConnection, token: str) -> str:
        """Talk over a WebSocket until the service closes it."""
        connection.request("GET", "/socket", headers=HANDSHAKE)
        response = HTTPResponse(connection.sock, method="GET")
        response.begin()
        try:
            while response.status == 101 and not self.ended.wait(0.05):
                # Under a mask of zeros.
                connection.sock.sendall(bytes([TEXT, 0x80 | len(token)]) + bytes(4) + token.encode())
                kind, length = response.fp.read(2) or (0, 0)
                content = response.fp.read(length)
                if kind == CLOSE and int.from_bytes(content[:2], "big") == SERVICE_RESTART:
                    return ""
                if (kind, content) != (TEXT, token.encode()):
                    return f"{kind} {content!r}"
            return "" if response.status == 101 else str(response.status)
        finally:
            response.close()
            connection.close()


@pytest.fixture(scope="module")
def clients(
    engine: None, render: Render, default: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Clients]]:
    """What clients of each proxy got while the services behind all of them were stopped and started in turn."""
    repository = render(python_version=PYTHON)
    main = repository / "src/my_service/main.py"
    edit(main, "from fastapi import FastAPI\n", IMPORTS)
    edit(main, "from collections.abc import AsyncIterator\nfrom contextlib", "from contextlib")
    main.write_text(main.read_text() + ROUTES)
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=repository)

    folder = tmp_path_factory.mktemp("proxies")
    (base,) = set(re.findall(r"^FROM (\S+) AS python$", (default / "Dockerfile").read_text(), re.M))
    install = "apt-get update && apt-get install --yes --no-install-recommends nginx haproxy apache2"
    (folder / "Dockerfile").write_text(f"FROM {base}\nRUN {install}\n")
    image = f"test-{uuid.uuid4().hex[:8]}"
    docker("build", "--quiet", f"--tag={image}", str(folder))
    services = [Service(repository, folder) for _ in range(2)]
    clients = {}
    try:
        for service in services:
            service.start()
        for name, (configuration, command) in PROXIES.items():
            clients[name] = Clients(free_port())
            ports = {"first": services[0].port, "second": services[1].port, "port": clients[name].port}
            (folder / name).write_text(configuration.format(**ports))
            options = ["--network=host", f"--volume={folder / name}:/etc/{name}.conf:ro"]
            arguments = [argument.format(file=f"/etc/{name}.conf") for argument in command]
            docker("run", "--detach", f"--name={image}-{name}", *options, image, *arguments)
        for each in clients.values():
            wait_until(lambda each=each: each.ask(HTTPConnection("127.0.0.1", each.port), "up") == "")  # type: ignore[misc]
        with ThreadPoolExecutor(32) as pool:
            running = [future for each in clients.values() for future in each.run(pool)]
            try:
                for number in range(STOPS):
                    time.sleep(WAIT)
                    services[number % 2].stop()
                    services[number % 2].start()
            finally:
                for each in clients.values():
                    each.ended.set()
            for future in running:
                future.result()
        yield clients
    finally:
        for service in services:
            service.kill()
        for name in PROXIES:
            with suppress(Exception):
                print(docker("logs", f"{image}-{name}", errors=True)[-2000:])
                docker("rm", "--force", f"{image}-{name}")
        docker("image", "rm", "--force", image)


@pytest.mark.parametrize("proxy", PROXIES)
def test_each_client_gets_its_own_answer_and_no_body_is_lost(clients: dict[str, Clients], proxy: str) -> None:
    print(clients[proxy].right)
    assert clients[proxy].wrong == {}
    assert len(clients[proxy].right) == 6
