"""Strangers who open connections and go no further: others are still answered, and theirs end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from dataguardian.api.connections import LOOPBACK, Bounds, bounded

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
UNFINISHED = {
    "nothing": b"",
    "half a head": GET,
    "half a body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    "half a second head": GET + b"\r\n" + GET,
    "half a chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
}
LOOK_SECONDS = 0.3
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opener = Callable[[bytes], Awaitable[Opened]]


async def _application(_: Scope, receive: Receive, send: Send) -> None:
    """Answers when it has the whole request, a piece at a time, for much longer than an unfinished request may take."""
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
    if message["type"] == "http.disconnect":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(10):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(LOOK_SECONDS / 2)
    await send({"type": "http.response.body", "body": b"end"})


@asynccontextmanager
async def _served(bounds: Bounds) -> AsyncIterator[Opener]:
    server = uvicorn.Server(
        uvicorn.Config(_application, http=bounded(bounds), lifespan="off", log_config=None, port=0, ws="none")
    )
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    async def opened(first: bytes) -> Opened:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        return reader, writer

    try:
        yield opened
    finally:
        server.should_exit = True
        await serving


async def _to_its_end(reader: asyncio.StreamReader) -> bytes:
    """Returns what came until the other side ended the connection."""
    got = b""
    with suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(reader.read(4096), 60):
            got += piece
    return got


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_a_request_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    """Whatever of it has come, the connection ends by itself; one that waits for a long answer gets all of it."""

    async def story() -> None:
        async with _served(Bounds(look_seconds=LOOK_SECONDS)) as opened:
            (stuck, one), (patient, other) = await opened(sent), await opened(GET + b"Connection: close\r\n\r\n")
            await _to_its_end(stuck)
            assert (await _to_its_end(patient)).endswith(b"3\r\nend\r\n0\r\n\r\n")
            one.close()
            other.close()

    asyncio.run(story())


def test_one_address_has_so_many_connections_and_no_more() -> None:
    """The next one is refused at once, a place that was given back is taken; the machine itself is not counted."""

    async def story() -> None:
        for bounds in (Bounds(spared=(), of_one=3), Bounds(spared=(), of_all=3)):
            async with _served(bounds) as opened:
                held = [await opened(b"") for _ in range(3)]
                refused, _ = await opened(GET + b"\r\n")
                assert await _to_its_end(refused) == b""
                held.pop()[1].close()
                while bounds.held.total() > 2:
                    await asyncio.sleep(0.01)
                taken, writer = await opened(GET + b"Connection: close\r\n\r\n")
                assert (await _to_its_end(taken)).startswith(b"HTTP/1.1 200")
                for _, other in [*held, (taken, writer)]:
                    other.close()
            assert not bounds.held
        async with _served(Bounds(spared=LOOPBACK, of_one=0, of_all=0)) as opened:
            reader, writer = await opened(GET + b"Connection: close\r\n\r\n")
            assert (await _to_its_end(reader)).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(story())
