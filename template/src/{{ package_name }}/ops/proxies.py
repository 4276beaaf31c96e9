"""The client's address and scheme, as the load balancer saw them. Kept by the template."""

from functools import lru_cache
from ipaddress import ip_address

from starlette.types import Scope


def trust(scope: Scope, hops: int) -> None:
    """Set the client and the scheme of a connection that has come through this number of proxies of ours.

    Each proxy adds its client's address to the end of X-Forwarded-For; the entries before those are the
    client's own claim. Without a proxy nothing is believed.
    """
    if not hops:
        return
    chain: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            chain += value.split(b",")
        elif name == b"x-forwarded-proto" and value in (b"http", b"https"):
            secure = value == b"https"
            scope["scheme"] = ("wss" if secure else "ws") if scope["type"] == "websocket" else value.decode()
    if chain and (address := _address(chain[-min(hops, len(chain))])):
        scope["client"] = (address, 0)


@lru_cache(4096)
def _address(entry: bytes) -> str | None:
    """Return the IP address of an entry, which may have a port; None if it has none."""
    text = entry.decode("latin-1").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None
