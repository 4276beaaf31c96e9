"""A stop in the moment in which a client's next request comes; tests/service/test_protocols.py has all else."""

import asyncio
import socket

import pytest
import uvicorn
import uvloop
from my_service.ops.protocols import HTTP
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

REQUEST = b"GET / HTTP/1.1\r\nHost: service\r\n\r\n"


@pytest.mark.parametrize("unread", [b"", REQUEST[:20], REQUEST])
def test_a_stop_answers_a_request_that_nobody_has_read_yet(unread: bytes) -> None:
    """Such a request stands in the kernel's buffer when the worker closes the idle connection that it came on."""

    async def ask_and_stop() -> bytes:
        config = uvicorn.Config(PlainTextResponse("answered"), http=HTTP, lifespan="off", log_config=None)
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        async with await loop.create_server(lambda: HTTP(config, state, {}), "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname(), timeout=5) as client:
                client.sendall(REQUEST)
                assert b"answered" in await asyncio.to_thread(client.recv, 1000)
                client.sendall(unread)
                (connection,) = state.connections
                connection.shutdown()
                client.sendall(REQUEST[len(unread) :] if unread else b"")
                return await asyncio.to_thread(client.recv, 1000)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert (b"answered" in runner.run(ask_and_stop())) == bool(unread)
