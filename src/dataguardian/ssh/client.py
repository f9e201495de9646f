"""Signing in to a server whose host key is known.

asyncssh runs in one background thread with an event loop of its own; callers stay synchronous and may be many threads.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncssh
from asyncssh.constants import MSG_IGNORE
from asyncssh.packet import SSHPacketLogger

from dataguardian.domain.errors import AuthenticationError, NotAllowedError, UnreachableError, UsageError
from dataguardian.settings import Settings
from dataguardian.ssh import SshTarget
from dataguardian.ssh.pins import HostKeys

T = TypeVar("T")

KNOWN_HOSTS = "known_hosts"
CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 15.0
KEEPALIVE_COUNT = 3
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""What modern processors do in hardware; docs/architecture.md has the figures."""


class ConnectionLostError(UnreachableError):
    """The server was there, and then it was not: a new connection may work at once."""


class _Background:
    """The thread in which asyncssh lives. It ends with the process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="ssh", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:  # a signal's handler may raise here: what it stopped must not go on
            future.cancel()
            raise


_guard = threading.Lock()
_background: _Background | None = None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in the background loop and returns its result; `work` bounds its own time.

    An exception of the caller while it waits, such as a signal's, cancels the work.
    """
    global _background  # noqa: PLW0603 -- one loop per process, made when it is first needed
    with _guard:
        if _background is None or _background.pid != os.getpid():
            _background = _Background()
    return _background.run(work)


async def connect(
    target: SshTarget, *, connect_seconds: float = CONNECT_SECONDS, known_hosts: Path | None = None
) -> asyncssh.SSHClientConnection:
    """Signs in. Raises UnreachableError, ConnectionLostError, AuthenticationError (also for another host key),
    NotAllowedError or UsageError.
    """
    pins = HostKeys(target, known_hosts or Settings.from_environment().home / KNOWN_HOSTS)
    failure: BaseException | None = None
    for algorithms in pins.proposals():
        try:
            return await _sign_in(target, pins, algorithms, connect_seconds)
        except Exception as error:
            failure = pins.refusal or translated(error, target, connect_seconds)
            if not pins.may_have_another_key(error):
                raise failure from error
    assert failure is not None  # noqa: S101 -- there is at least one proposal
    raise failure


async def _sign_in(
    target: SshTarget, pins: HostKeys, algorithms: str, connect_seconds: float
) -> asyncssh.SSHClientConnection:
    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey) -> bool:
            return pins.accept(key)

    connection = await asyncssh.connect(
        target.host,
        target.port,
        config=None,
        client_factory=Client,
        known_hosts=([], [], []),
        server_host_key_algs=algorithms,
        encryption_algs="^" + ",".join(FAST_CIPHERS),
        compression_algs=["none"],
        gss_kex=False,
        gss_auth=False,
        connect_timeout=connect_seconds,
        login_timeout=connect_seconds,
        keepalive_interval=KEEPALIVE_SECONDS,
        keepalive_count_max=KEEPALIVE_COUNT,
        **_credentials(target),
    )
    if connection.get_extra_info("send_cipher") in FAST_CIPHERS:
        _without_decoys(connection)
    return connection


def _without_decoys(connection: asyncssh.SSHClientConnection) -> None:
    """Stops the empty packet that asyncssh sends before each packet, a third of its work when it uploads.

    It protects CBC ciphers from chosen plaintext (RFC 4251, 9.3.1); GCM needs no such thing.
    """
    send = connection.send_packet

    def send_packet(kind: int, *parts: bytes, handler: SSHPacketLogger | None = None) -> None:
        if kind != MSG_IGNORE:
            send(kind, *parts, handler=handler)

    connection.send_packet = send_packet  # type: ignore[method-assign,assignment]


def _credentials(target: SshTarget) -> dict[str, Any]:
    """Only what was configured is offered: servers count each key that does not fit as a failed attempt."""
    given: dict[str, Any] = {"username": _username(target)}
    key = _private_key(target)
    if key is not None:
        given |= {"client_keys": [key], "agent_path": None}
    elif target.password is not None:
        given |= {"client_keys": None, "agent_path": None}
    if target.password is not None:
        given["password"] = target.password.get_secret_value()
    return given


def _username(target: SshTarget) -> str:
    try:
        return target.username or getpass.getuser()
    except (KeyError, OSError) as error:
        raise UsageError(
            f"{target} names no user, and the one running this has no name", hint="write user@host"
        ) from error


def _private_key(target: SshTarget) -> asyncssh.SSHKey | None:
    text = _key_text(target)
    if text is None:
        return None
    passphrase = target.passphrase.get_secret_value() if target.passphrase else None
    try:
        return asyncssh.import_private_key(text, passphrase)
    except asyncssh.KeyEncryptionError as error:
        raise UsageError(f"the private key for {target} does not open with this passphrase") from error
    except (asyncssh.KeyImportError, ValueError) as error:
        needs_one = passphrase is None and "passphrase" in str(error).lower()
        raise UsageError(
            f"the private key for {target} " + ("has a passphrase" if needs_one else "cannot be read"),
            hint="give its passphrase" if needs_one else "an OpenSSH or PEM key is needed, not a public key",
        ) from error


def _key_text(target: SshTarget) -> str | None:
    text = target.private_key.get_secret_value().strip() if target.private_key else None
    path = text if text is not None and "\n" not in text and text.startswith(("/", "~")) else target.private_key_file
    if path is None or (text is not None and path is not text):
        return text and text.replace("\r\n", "\n") + "\n"
    try:
        return Path(path).expanduser().read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a private key"
        raise UsageError(f"the private key {path!r} for {target} cannot be read: {reason}") from error


def translated(error: BaseException, target: SshTarget, seconds: float = CONNECT_SECONDS) -> BaseException:
    """Returns what an error of asyncssh, of a socket or of DNS means; anything else as it is."""
    if isinstance(error, asyncssh.PermissionDenied):
        return AuthenticationError(
            f"{target} refused the user: wrong user name, password or key",
            hint="check them; the server's log says more (journalctl -u ssh)",
        )
    if isinstance(error, asyncssh.KeyExchangeFailed | asyncssh.ProtocolNotSupported):
        return NotAllowedError(
            f"{target} and this client have no common way to talk: {_reason(error)}",
            hint="the server's SSH is very old or very strict: look at its sshd_config",
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError | asyncssh.Error):
        return ConnectionLostError(f"the connection to {target} was lost: {_reason(error)}", hint="try it again")
    return _unreachable(error, target, seconds) if isinstance(error, OSError) else error


def _unreachable(error: OSError, target: SshTarget, seconds: float) -> UnreachableError:
    if isinstance(error, socket.gaierror):
        return UnreachableError(f"{target}: the name cannot be resolved", hint="check the host name and DNS")
    if isinstance(error, TimeoutError):
        return UnreachableError(
            f"{target} did not answer within {seconds:g} s", hint="check host, port and firewalls, and that sshd runs"
        )
    return UnreachableError(
        f"{target} cannot be reached: {_reason(error)}", hint="check host and port, and that sshd runs there"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "reason", "") or str(error) or type(error).__name__
