"""Requests as they come from outside: large, forwarded and hostile ones."""

import os
from hashlib import sha256

from ..container import Container, serving
from .container import logged


def upload(container: Container, size: int) -> None:
    """Upload a file in a form and check that it has arrived."""
    content = os.urandom(size)
    part = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = part + content + b"\r\n--limit--\r\n"
    response = container.ask("/contract/upload", "POST", body, Content_Type="multipart/form-data; boundary=limit")
    assert (response.status, response.json()) == (200, sha256(content).hexdigest())


def test_a_large_upload_works_on_the_read_only_root() -> None:
    with serving() as container:
        upload(container, 5 * 2**20)


def test_nothing_tries_to_write_to_the_root() -> None:
    # This container is not hardened, so a write would show; without --init, which adds a file.
    with serving({"DRAIN_SECONDS": "0"}, hardened=False) as container:
        upload(container, 5 * 2**20)
        container.stop()
        assert not container.docker.diff()


def test_the_client_is_whom_the_load_balancer_saw() -> None:
    with serving() as container:
        claimed_and_seen = "198.51.100.6, 203.0.113.9"
        assert container.ask("/contract/client", X_Forwarded_For=claimed_and_seen).json() == "203.0.113.9"
        assert logged(container, lambda line: line.get("client") == "203.0.113.9")


def test_no_body_causes_a_500_or_is_echoed() -> None:
    with serving({"MAX_BODY_SIZE": "1000"}) as container:
        for body, status in {
            b"NaN": 422,
            b'{"password": ["hunter2"]}': 422,
            b'{"password": "\\ud800"}': 400,
            b"\xff\xff": 400,
            b"[" * 900: 422,
            b" " * 1001: 413,
        }.items():
            response = container.ask("/contract/login", "POST", body, Content_Type="application/json")
            assert (response.status, b"hunter2" in response.body) == (status, False), body
            assert response.json()["request_id"] == response.headers["X-Request-ID"]
