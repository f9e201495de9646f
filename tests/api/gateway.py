"""A line to a server that can be cut or made to hang, in both directions, and mended again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gateway:
    """Forwards bytes between its port and a server's. `cut`: connections break and new ones are refused at once;
    `hang`: connections stay, new ones are accepted, and nothing is ever answered.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._lines: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.held_up = 0
        """How often something was kept from its way: a test that meant to disturb must find this above zero."""

    def cut(self) -> None:
        self._refusing = True
        self._break_lines()

    def hang(self) -> None:
        self._flowing.clear()

    def mend(self) -> None:
        """Everything that hung breaks: whoever waited for it hears of it now."""
        self._refusing = False
        self._break_lines()
        self._flowing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self.held_up += 1
            writer.close()
            return
        self._lines.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._lines.add(there_writer)
        await asyncio.gather(self._forward(reader, there_writer), self._forward(there_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.held_up += not self._flowing.is_set()
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        self._lines.discard(writer)
        writer.close()

    def _break_lines(self) -> None:
        for writer in self._lines:
            self.held_up += 1
            writer.transport.abort()
        self._lines.clear()


@asynccontextmanager
async def gateway(host: str, port: int) -> AsyncIterator[Gateway]:
    line = Gateway(host, port)
    server = await asyncio.start_server(line._connected, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.mend()
