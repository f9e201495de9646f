"""One SSH connection with a few SFTP sessions on it, for as long as somebody uses them.

Several sessions, because a server works through the requests of one in turn: an fsync in it would stop all others.
Everything here but `Link.call` runs in the background loop of `dataguardian.ssh`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncssh

from dataguardian.domain.errors import DataGuardianError, StorageDeniedError
from dataguardian.ssh import SshTarget
from dataguardian.ssh.bulk import Bulk
from dataguardian.ssh.client import connect, run

T = TypeVar("T")

MAX_SESSIONS = 4
IDLE_SECONDS = 30.0
CLEANUP_SECONDS = 5.0
_IN_FLIGHT_BYTES = 2**20
"""What one session has under way: more would only fill buffers on both sides, and memory."""


class LostError(Exception):
    """The connection is of no more use; `__cause__` says why."""


class Session:
    """An SFTP session. Every answer counts as a sign of life."""

    def __init__(self, client: asyncssh.SFTPClient) -> None:
        self.client = client
        self.users = 0
        self.can_sync = True
        self.heard_at = 0.0

    async def ask(self, request: Awaitable[T]) -> T:
        try:
            return await request
        finally:
            self.heard_at = asyncio.get_running_loop().time()

    async def ask_all(self, requests: list[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
        """Sends all requests at once; returns answers and errors in their order."""
        return await asyncio.gather(*(self.ask(request) for request in requests), return_exceptions=True)

    async def in_blocks(self, size_bytes: int, block_bytes: int, move: Callable[[int, int], Awaitable[object]]) -> None:
        """Calls `move(offset, length)` for every block, several at once; the first error ends it."""
        blocks = iter(range(0, size_bytes, block_bytes))
        lanes = max(2, min(64, _IN_FLIGHT_BYTES // block_bytes))

        async def lane() -> None:
            for offset in blocks:
                await self.ask(move(offset, min(block_bytes, size_bytes - offset)))

        tasks = [asyncio.ensure_future(lane()) for _ in range(min(lanes, -(-size_bytes // block_bytes)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    def __init__(self, connection: asyncssh.SSHClientConnection, target: SshTarget) -> None:
        self._connection = connection
        self._bulk = Bulk(connection)
        self._target = target
        self._sessions: list[Session] = []
        self._limit = MAX_SESSIONS
        self._opening = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed()

    def abort(self) -> None:
        self._connection.abort()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Gives an idle session, a new one, or shares the least busy one when the server allows no more."""
        session = await self._idle_or_new()
        session.users += 1
        try:
            yield session
        finally:
            session.users -= 1

    async def _idle_or_new(self) -> Session:
        async with self._opening:
            best = min(self._sessions, key=lambda session: session.users, default=None)
            if best is None or (best.users and len(self._sessions) < self._limit):
                best = await self._opened(best)
            return best

    async def _opened(self, otherwise: Session | None) -> Session:
        try:
            session = Session(await self._connection.start_sftp_client(path_errors="surrogateescape"))
            self._bulk.add(session.client)
        except (asyncssh.ChannelOpenError, asyncssh.SFTPError) as error:
            if otherwise is not None:
                self._limit = len(self._sessions)
                return otherwise
            if self.is_closed:
                raise
            raise StorageDeniedError(
                f"{self._target} gives this user no SFTP: {error}",
                hint="sshd_config needs a `Subsystem sftp`, and the user's login scripts must print nothing",
            ) from error
        self._sessions.append(session)
        return session


class Link:
    """The way to one server: connects when it is needed, again after it broke, and lets go after a while of rest."""

    def __init__(self, target: SshTarget, timeout_seconds: float) -> None:
        self._target = target
        self._timeout_seconds = timeout_seconds
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._users = 0
        self._rest: asyncio.TimerHandle | None = None

    def call(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Runs `work` on a session. Raises what it raises, LostError, or what `dataguardian.ssh.connect` raises.

        Work that hears nothing from the server for `timeout_seconds` ends in LostError, and so does the connection.
        """
        return run(self._call(work))

    async def _call(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        with _Use(self):
            connection = await self._connected()
            try:
                async with connection.session() as session:
                    return await self._watched(session, work(session))
            except Exception as error:
                if connection.is_closed or _means_lost(error):
                    connection.abort()
                    raise LostError from error
                raise

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed:
                seconds = min(self._timeout_seconds, 30.0)
                self._connection = _Connection(await connect(self._target, connect_seconds=seconds), self._target)
            return self._connection

    async def _watched(self, session: Session, work: Coroutine[Any, Any, T]) -> T:
        clock = asyncio.get_running_loop()
        began = clock.time()
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                left = max(began, session.heard_at) + self._timeout_seconds - clock.time()
                if left <= 0:
                    raise TimeoutError(f"it said nothing for {self._timeout_seconds:g} s")
                await asyncio.wait({task}, timeout=left)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=CLEANUP_SECONDS)
                _ = [ended.cancelled() or ended.exception() for ended in done]  # looked at, so that nobody complains

    def begin(self) -> None:
        self._users += 1
        if self._rest is not None:
            self._rest.cancel()

    def end(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._rest = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._connection is not None and self._users == 0:
            self._connection.abort()
            self._connection = None


class _Use:
    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._link.begin()

    def __exit__(self, *exc: object) -> None:
        self._link.end()


def _means_lost(error: Exception) -> bool:
    gone = (asyncssh.DisconnectError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
    return isinstance(error, (*gone, OSError)) and not isinstance(error, DataGuardianError)


async def quietly(request: Awaitable[object]) -> None:
    """Awaits what may fail without harm."""
    with suppress(Exception):
        await request
