"""SSH for everybody: signing in to a server whose host key is known, and ways through it.

asyncssh runs in one background thread with an event loop of its own; callers stay synchronous and may be many threads.
A server's host key is pinned: by the configuration (`host_key`), or on first use into `known_hosts` in DataGuardian's
home (OpenSSH's format, 0600), and from then on a server with another key is refused. The user's own `~/.ssh/config` and
`~/.ssh/known_hosts` are not read: what a service does must not depend on whose account it runs in.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import getpass
import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    MissingToolError,
    NotAllowedError,
    UnreachableError,
    UsageError,
)
from dataguardian.domain.urls import Url
from dataguardian.settings import Settings

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

DEFAULT_PORT = 22
KNOWN_HOSTS = "known_hosts"
CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 15.0
KEEPALIVE_COUNT = 3
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""What modern processors do in hardware; docs/architecture.md has the figures."""


def _host(text: str) -> str:
    if not text or text.startswith("-") or any(char.isspace() or char in "/@\0,*?!|" for char in text):
        raise ValueError("this is not a host name or an IP address")
    return text


class SshTarget(BaseModel):
    """How to sign in to a server. `private_key` is a key's text or the path of its file, `private_key_file` a path.

    Without password and key, the user's agent and standard key files are tried, as `ssh` does. `host_key` is a line as
    `ssh-keyscan` prints it (with or without the host), or a fingerprint as `ssh-keygen -l` does (SHA256:…).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: Annotated[str, AfterValidator(_host)]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    username: str | None = None
    password: SecretStr | None = None
    private_key: SecretStr | None = None
    private_key_file: str | None = None
    passphrase: SecretStr | None = None
    host_key: str | None = None

    def __str__(self) -> str:
        """Returns the address without secrets."""
        port = None if self.port == DEFAULT_PORT else self.port
        return str(Url("ssh", username=self.username, host=self.host, port=port))


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
    if importlib.util.find_spec("asyncssh") is None:
        raise MissingToolError(
            f"{target} needs the Python package asyncssh, which is not installed",
            hint="pip install 'dataguardian[ssh]'",
            package="asyncssh",
        )
    pins = _Pins(target, known_hosts or Settings.from_environment().home / KNOWN_HOSTS)
    failure: BaseException | None = None
    for algorithms in _proposals(pins):
        try:
            return await _sign_in(target, pins, algorithms, connect_seconds)
        except Exception as error:
            failure = pins.refusal or translated(error, target, connect_seconds)
            if not pins.may_have_another_key(error):
                raise failure from error
    assert failure is not None  # noqa: S101 -- there is at least one proposal
    raise failure


async def _sign_in(
    target: SshTarget, pins: _Pins, algorithms: str, connect_seconds: float
) -> asyncssh.SSHClientConnection:
    import asyncssh  # noqa: PLC0415 -- heavy, and most runs never need it

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey) -> bool:
            return pins.accept(key)

    return await asyncssh.connect(
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
    import asyncssh  # noqa: PLC0415 -- heavy, and most runs never need it

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


class _Pins:
    """The keys that a server may have. `refusal` is why the last one that it showed was not accepted."""

    def __init__(self, target: SshTarget, file: Path) -> None:
        self._target = target
        self._file = file
        host = target.host.lower()
        self._name = host if target.port == DEFAULT_PORT else f"[{host}]:{target.port}"
        self._fingerprints, self.types = self._configured() if target.host_key else self._known()
        self.refusal: DataGuardianError | None = None

    @property
    def is_by_fingerprint(self) -> bool:
        return bool(self._fingerprints) and not self.types

    def may_have_another_key(self, error: Exception) -> bool:
        """A server has keys of several types, and a mere fingerprint does not tell which of them it is of."""
        return self.is_by_fingerprint and (self.refusal is not None or type(error).__name__ == "KeyExchangeFailed")

    def accept(self, key: asyncssh.SSHKey) -> bool:
        """Runs in the middle of the handshake, before anything secret is sent. What it raises would be lost."""
        try:
            self.refusal = self._judge(key)
        except DataGuardianError as error:
            self.refusal = error
        return self.refusal is None

    def _judge(self, key: asyncssh.SSHKey) -> DataGuardianError | None:
        shown = key.get_fingerprint()
        if not self._fingerprints:
            self._pin(key)
        return None if shown in self._fingerprints else self._changed(shown)

    def _changed(self, shown: str) -> DataGuardianError:
        expected = ", ".join(sorted(self._fingerprints))
        if self._target.host_key:
            hint = f"if the server was given a new key, ask its administrator, then set host_key to {shown}"
        else:
            lines = (
                f"remove the lines of {self._name} from {self._file} (ssh-keygen -R '{self._name}' -f '{self._file}')"
            )
            hint = f"if the server was given a new key, ask its administrator whether it is {shown}, then {lines}"
        return AuthenticationError(
            f"the host key of {self._target} has changed: expected {expected}, but the server shows {shown}; "
            "either the server was set up anew, or somebody listens in between",
            hint=hint,
            expected=expected,
            shown=shown,
        )

    def _configured(self) -> tuple[set[str], tuple[str, ...]]:
        """Returns the fingerprints and the types, which a fingerprint alone does not tell, of `host_key`."""
        import asyncssh  # noqa: PLC0415 -- heavy, and most runs never need it

        text = (self._target.host_key or "").strip()
        if text.startswith("SHA256:"):
            return {text.rstrip("=")}, ()
        words = text.split()
        start = next((place for place, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-"))), 0)
        try:
            key = asyncssh.import_public_key(" ".join(words[start : start + 2]))
        except asyncssh.KeyImportError as error:
            raise UsageError(
                f"the host_key for {self._target} is no host key",
                hint="give a line as `ssh-keyscan HOST` prints it, or a fingerprint SHA256:…",
            ) from error
        return {key.get_fingerprint()}, (key.get_algorithm(),)

    def _known(self) -> tuple[set[str], tuple[str, ...]]:
        import asyncssh  # noqa: PLC0415 -- heavy, and most runs never need it

        try:
            text = self._file.read_text(encoding="utf-8")
            keys = asyncssh.import_known_hosts(text).match(self._name, "", None)[0]
        except FileNotFoundError:
            return set(), ()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise NotAllowedError(
                f"the file of known host keys {self._file} cannot be read: {reason}",
                hint="correct it, or give the server's key as host_key",
            ) from error
        return {key.get_fingerprint() for key in keys}, tuple(dict.fromkeys(key.get_algorithm() for key in keys))

    def _pin(self, key: asyncssh.SSHKey) -> None:
        """Writes the key down, unless another process was faster: then its key counts."""
        line = f"{self._name} {key.export_public_key().decode().strip()}\n"
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._file) as fd:
                self._fingerprints, self.types = self._known()
                if not self._fingerprints:
                    os.write(fd, _line_end(self._file) + line.encode())
                    os.fsync(fd)
                    self._fingerprints, self.types = {key.get_fingerprint()}, (key.get_algorithm(),)
        except OSError as error:
            raise NotAllowedError(
                f"the host key of {self._target} cannot be kept in {self._file}: {error.strerror}",
                hint=f"make {self._file.parent} writable, or give the key as host_key: {key.get_fingerprint()}",
            ) from error


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _line_end(file: Path) -> bytes:
    """Returns what must come first when an editor left the last line open."""
    content = file.read_bytes()
    return b"\n" if content and not content.endswith(b"\n") else b""


_FAMILIES = ("ssh-ed25519", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521", "rsa-sha2-512,rsa-sha2-256")


def _proposals(pins: _Pins) -> Iterator[str]:
    """Yields the kinds of host key to ask for: those that are pinned, or one kind after the other for a fingerprint."""
    if pins.types:
        kinds = [_FAMILIES[2] if kind == "ssh-rsa" else kind for kind in pins.types]
        yield ",".join(dict.fromkeys([*",".join(kinds).split(","), *",".join(_FAMILIES).split(",")]))
    elif pins.is_by_fingerprint:
        yield from _FAMILIES
    else:
        yield ",".join(_FAMILIES)


def translated(error: BaseException, target: SshTarget, seconds: float = CONNECT_SECONDS) -> BaseException:
    """Returns what an error of asyncssh, of a socket or of DNS means; anything else as it is."""
    import asyncssh  # noqa: PLC0415 -- heavy, and most runs never need it

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
        self._refusal: BaseException | None = None

    def __enter__(self) -> tuple[str, int]:
        return "127.0.0.1", run(self._open())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        broke = run(self._close())
        if isinstance(error, DataGuardianError) and not isinstance(error, UsageError) and (self._refusal or broke):
            raise self._explained(error) from error

    async def _open(self) -> int:
        self._connection = await connect(self._target, connect_seconds=self._connect_seconds)
        from asyncssh.listener import create_tcp_forward_listener  # noqa: PLC0415 -- heavy, and may be missing

        try:
            loop = asyncio.get_running_loop()
            listener = await create_tcp_forward_listener(self._connection, loop, self._carry, "127.0.0.1", 0)
        except BaseException:
            self._connection.abort()
            raise
        return listener.get_port()

    async def _carry(self, session: Callable[[], Any], from_host: str, from_port: int) -> Any:  # noqa: ANN401 -- theirs
        assert self._connection is not None  # noqa: S101 -- it was opened before the listener
        try:
            return await self._connection.create_connection(session, self._host, self._port, from_host, from_port)
        except BaseException as error:
            self._refusal = error
            raise

    async def _close(self) -> bool:
        """Returns whether the tunnel had broken before."""
        assert self._connection is not None  # noqa: S101 -- the block was entered
        broke = self._connection.is_closed()
        self._connection.abort()
        with contextlib.suppress(Exception):
            await self._connection.wait_closed()
        return broke

    def _explained(self, error: DataGuardianError) -> DataGuardianError:
        import asyncssh  # noqa: PLC0415 -- heavy

        where = f"{self._host}:{self._port} through the SSH tunnel {self._target}"
        if not isinstance(self._refusal, asyncssh.ChannelOpenError):
            return ConnectionLostError(f"the SSH tunnel {self._target} broke: {error.message}", hint="try it again")
        if self._refusal.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            hint = "allow it there: AllowTcpForwarding and PermitOpen in sshd_config, the key's line in authorized_keys"
            return NotAllowedError(f"{where}: that server does not let us through", hint=hint)
        hint = "host and port are as the SSH server sees them; check that the server listens there"
        return UnreachableError(f"{where} cannot be reached: {self._refusal.reason}", hint=hint)


@contextmanager
def forwarded(target: SshTarget, host: str, port: int) -> Iterator[int]:
    """Gives the local port, on 127.0.0.1, of a LocalForward."""
    with LocalForward(target, host, port) as (_, local_port):
        yield local_port
