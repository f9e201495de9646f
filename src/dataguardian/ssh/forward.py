"""A way through a server to another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import asyncssh
from asyncssh.listener import create_tcp_forward_listener

from dataguardian.domain.errors import AccessError, EngineError, NotAllowedError, StorageError, UnreachableError
from dataguardian.ssh import SshTarget
from dataguardian.ssh.client import CONNECT_SECONDS, ConnectionLostError, connect, run


class LocalForward:
    """`with LocalForward(target, host, port) as (local_host, local_port):` is `ssh -L`, for as long as the block lasts.

    `host` and `port` are as the SSH server sees them. What connects to the local port, which is on 127.0.0.1, is
    carried there. Nothing is tried before somebody connects; an error that leaves the block because the server could
    not go on to `host`, or because the tunnel broke, becomes an UnreachableError or NotAllowedError that says so.
    """

    def __init__(self, target: SshTarget, host: str, port: int, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._target = target
        self._host = host
        self._port = port
        self._connect_seconds = connect_seconds
        self._connection: asyncssh.SSHClientConnection | None = None
        self._listener: asyncssh.SSHListener | None = None
        self._refusal: BaseException | None = None
        self._explanation: AccessError | None = None

    def __enter__(self) -> tuple[str, int]:
        return "127.0.0.1", run(self._open())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        explained = None if error is None else self.explained(error)
        run(self._close())
        if explained is not error and explained is not None:
            raise explained from error

    def explained(self, error: BaseException) -> BaseException:
        """Returns what an error behind the tunnel comes from: the tunnel when it broke or went no further, else itself.

        Asked while the block lasts; may be asked again of what it returned.
        """
        if not isinstance(error, EngineError | AccessError) or isinstance(error, StorageError):
            return error
        if any(cause is self._explanation for cause in _causes(error)):
            return error
        broke = run(self._is_broken())
        if not broke and self._refusal is None:
            return error
        # Who comes after it broke is refused as well.
        self._explanation = self._because_of(error, None if broke else self._refusal)
        return self._explanation

    async def _open(self) -> int:
        self._connection = await connect(self._target, connect_seconds=self._connect_seconds)
        try:
            loop = asyncio.get_running_loop()
            self._listener = await create_tcp_forward_listener(self._connection, loop, self._carry, "127.0.0.1", 0)
        except BaseException:
            self._connection.abort()
            raise
        return self._listener.get_port()

    async def _carry(self, session: Callable[[], Any], from_host: str, from_port: int) -> Any:  # noqa: ANN401 -- theirs
        assert self._connection is not None  # noqa: S101 -- it was opened before the listener
        try:
            carried = await self._connection.create_connection(session, self._host, self._port, from_host, from_port)
        except BaseException as error:
            self._refusal = error
            raise
        self._refusal = None
        return carried

    async def _is_broken(self) -> bool:
        assert self._connection is not None  # noqa: S101 -- the block was entered
        return self._connection.is_closed()

    async def _close(self) -> None:
        assert self._connection is not None  # noqa: S101 -- the block was entered
        if self._listener is not None:
            self._listener.close()
        self._connection.abort()
        with contextlib.suppress(Exception):
            await self._connection.wait_closed()

    def _because_of(self, error: EngineError | AccessError, refusal: BaseException | None) -> AccessError:
        where = f"{self._host}:{self._port} through the SSH tunnel {self._target}"
        if not isinstance(refusal, asyncssh.ChannelOpenError):
            return ConnectionLostError(f"the SSH tunnel {self._target} broke: {error.message}", hint="try it again")
        if refusal.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            hint = "allow it there: AllowTcpForwarding and PermitOpen in sshd_config, the key's line in authorized_keys"
            return NotAllowedError(f"{where}: that server does not let us through", hint=hint)
        hint = "host and port are as the SSH server sees them; check that the server listens there"
        return UnreachableError(f"{where} cannot be reached: {refusal.reason}", hint=hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and all that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
