"""Kept by the template."""

import os
from concurrent.futures import Future
from hashlib import sha256

from .container import Container, docker, serving


def upload(container: Container, size: int) -> None:
    """Upload a file in a form and check that it has arrived."""
    content = os.urandom(size)
    part = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = part + content + b"\r\n--limit--\r\n"
    response = container.ask("/contract/upload", "POST", body, Content_Type="multipart/form-data; boundary=limit")
    assert (response.status, response.json()) == (200, sha256(content).hexdigest())


def test_a_large_upload_works_on_the_read_only_root(probe: str) -> None:
    with serving(probe) as container:
        upload(container, 5 * 2**20)


def test_nothing_tries_to_write_to_the_root(probe: str) -> None:
    # Nothing hinders this one, so what it writes shows; without --init, which adds a file.
    with serving(probe, {"DRAIN_SECONDS": "0"}, hardening=["--user=0:0"]) as container:
        upload(container, 5 * 2**20)
        container.stop()
        assert docker("diff", container.id) == ""


def test_a_forwarded_address_is_believed_from_the_trusted_network_alone(probe: str) -> None:
    with serving(probe, {"FORWARDED_ALLOW_IPS": "192.0.2.0/24"}) as container:
        peer = container.ask("/contract/client").json()
        assert container.ask("/contract/client", X_Forwarded_For="203.0.113.9").json() == peer

    with serving(probe, {"FORWARDED_ALLOW_IPS": f"{peer}/32,192.0.2.0/24"}) as container:
        # What the client claims, the address the load balancer saw, a proxy of ours.
        chain = "198.51.100.6, 203.0.113.9, 192.0.2.7"
        assert container.ask("/contract/client", X_Forwarded_For=chain).json() == "203.0.113.9"
        assert container.log()[-1]["client"] == "203.0.113.9"


def test_a_connection_is_still_good_after_the_load_balancers_idle_timeout(late_answer: Future[int]) -> None:
    assert late_answer.result() == 200
