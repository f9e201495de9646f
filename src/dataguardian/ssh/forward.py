"""A way through a server to another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.listener import create_tcp_forward_listener

from dataguardian.domain.errors import DataGuardianError, NotAllowedError, UnreachableError, UsageError
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

    def __enter__(self) -> tuple[str, int]:
        return "127.0.0.1", run(self._open())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        broke = run(self._close())
        if isinstance(error, DataGuardianError) and not isinstance(error, UsageError) and (self._refusal or broke):
            raise self._explained(error) from error

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

    async def _close(self) -> bool:
        """Returns whether the tunnel had broken before."""
        assert self._connection is not None  # noqa: S101 -- the block was entered
        broke = self._connection.is_closed()
        if self._listener is not None:
            self._listener.close()
        self._connection.abort()
        with contextlib.suppress(Exception):
            await self._connection.wait_closed()
        return broke

    def _explained(self, error: DataGuardianError) -> DataGuardianError:
        where = f"{self._host}:{self._port} through the SSH tunnel {self._target}"
        if not isinstance(self._refusal, asyncssh.ChannelOpenError):
            return ConnectionLostError(f"the SSH tunnel {self._target} broke: {error.message}", hint="try it again")
        if self._refusal.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            hint = "allow it there: AllowTcpForwarding and PermitOpen in sshd_config, the key's line in authorized_keys"
            return NotAllowedError(f"{where}: that server does not let us through", hint=hint)
        hint = "host and port are as the SSH server sees them; check that the server listens there"
        return UnreachableError(f"{where} cannot be reached: {self._refusal.reason}", hint=hint)
