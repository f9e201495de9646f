"""What every engine that speaks to a server over a network shares: the configuration's fields, its address, TLS, and
the way there, which may lead through an SSH tunnel.

An engine's configuration inherits NetworkConfig and says its default port; everything that talks to the server, by a
driver or by a client program, does so inside `with reached(config) as endpoint:`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from dataguardian.domain.errors import DataGuardianError, UsageError
from dataguardian.domain.urls import Url, parse_url
from dataguardian.engines.base import DumpStream, EngineConfig, ProbeResult
from dataguardian.ssh import HostKey, SshTarget, local_forward

if TYPE_CHECKING:
    import ssl

    from dataguardian.ssh.forward import LocalForward

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
"""disable: never TLS. prefer: TLS when the server has it. require: TLS or nothing, any certificate. verify-ca: a
certificate that `ssl_ca` (else this machine's authorities) signed. verify-full: and made out to `host`.
"""
PASSWORD_VARIABLE = "DATAGUARDIAN_PASSWORD"  # noqa: S105 -- the name of a variable
SSH_PORT = 22

Port = Annotated[int, Field(ge=1, le=65535)]


def _host(text: str) -> str:
    if not text or text.startswith("-") or any(character.isspace() or character in "/\0@" for character in text):
        raise ValueError("this is not a host name or an IP address")
    for host in text.split(","):
        try:
            # What cannot be looked up must not reach the drivers: they fail in ways of their own.
            host.encode("ascii" if ":" in host else "idna")
        except UnicodeError:
            raise ValueError("this is not a host name: a part of it is empty or too long") from None
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("an absolute path is needed")
    return path


def _without_zero(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a zero byte")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it is not valid UTF-8: percent-encode it from its UTF-8 bytes")
    return text


Host = Annotated[str, AfterValidator(_host)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Text = Annotated[str, AfterValidator(_without_zero)]


class SshTunnel(BaseModel):
    """A machine to go through: `ssh -L` in other words. `private_key` is a key's text, `private_key_file` its path.

    Without password and key, the user's agent and standard keys are tried. `host_key` is a line of `ssh-keyscan` or a
    fingerprint (SHA256:…); without it the key of the first connection is remembered and insisted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: Host
    port: Port = SSH_PORT
    username: Text | None = None
    password: SecretStr | None = None
    private_key: SecretStr | None = None
    private_key_file: AbsolutePath | None = None
    passphrase: SecretStr | None = None
    host_key: HostKey | None = None

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes `ssh://user:password@host:port`; raises UsageError."""
        if url.scheme != "ssh" or url.path not in ("", "/") or url.query or not url.host:
            raise UsageError("that is not the address of an SSH tunnel", hint="write ssh://user@host:22")
        given = {"port": url.port, "username": url.username, "password": url.password}
        return cls(host=url.host, **{key: value for key, value in given.items() if value is not None})

    def __str__(self) -> str:
        """Returns the address without secrets."""
        port = None if self.port == SSH_PORT else self.port
        return str(Url("ssh", username=self.username, host=self.host, port=port))


def _tunnel(value: object) -> object:
    """Lets a tunnel be written as an address too."""
    if not isinstance(value, str):
        return value
    try:
        return SshTunnel.from_url(parse_url(value))
    except UsageError as error:
        raise ValueError(error.message) from error


_SSH_FIELDS = {"ssh_key": "private_key_file", "ssh_host_key": "host_key"}


class NetworkConfig(EngineConfig):
    """The fields of SPEC M2. `socket` is a local path, and stands in the place of `host`; None for `database` is the
    whole server. The files of `ssl_ca`, `ssl_cert` and `ssl_key` are read when they are needed.
    """

    default_port: ClassVar[int]
    scheme: ClassVar[str]
    """Of the address that `describe` gives."""
    query_fields: ClassVar[Mapping[str, str]] = {
        "ssl_mode": "ssl_mode",
        "ssl_ca": "ssl_ca",
        "ssl_cert": "ssl_cert",
        "ssl_key": "ssl_key",
        "socket": "socket",
    }
    """Parameters of an address, and the fields they mean. An engine adds its own to these, and its own spellings."""

    host: Host | None = None
    port: Port | None = None
    database: Text | None = None
    username: Text | None = None
    password: SecretStr | None = None
    ssl_mode: SslMode | None = None
    ssl_ca: AbsolutePath | None = None
    ssl_cert: AbsolutePath | None = None
    ssl_key: AbsolutePath | None = None
    socket: AbsolutePath | None = None
    ssh_tunnel: Annotated[SshTunnel, BeforeValidator(_tunnel)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.socket and (self.host or self.ssh_tunnel):
            raise ValueError("a socket is local: it goes with neither a host nor an SSH tunnel")
        return self

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes `scheme://user:password@host:port/database?ssl_mode=…&ssh_tunnel=ssh://user@host&ssh_key=/file…`."""
        return cls.from_fields(fields_of(url, cls.query_fields))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Builds it; raises UsageError, which names what is wrong and repeats no value."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ") for item in error.errors()
            )
            raise UsageError(f"this is not a valid {cls.scheme}:// address: {wrong}") from None

    def describe(self) -> str:
        """Returns the address without secrets; `from_url` reads it back."""
        names: dict[str, str] = {}
        for key, name in self.query_fields.items():
            names.setdefault(name, key)
        query = {key: str(value) for name, key in names.items() if (value := getattr(self, name)) is not None}
        if self.ssh_tunnel is not None:
            query["ssh_tunnel"] = str(self.ssh_tunnel)
            query |= {key: value for key, name in _SSH_FIELDS.items() if (value := getattr(self.ssh_tunnel, name))}
        path = "/" + (self.database or "")
        return str(Url(self.scheme, username=self.username, host=self.host, port=self.port, path=path, query=query))

    def default_name(self) -> str:
        name = self.database or self.host or self.scheme
        return os.fsencode(name).decode("utf-8", "backslashreplace")


def fields_of(url: Url, query_fields: Mapping[str, str]) -> dict[str, Any]:
    """Returns a configuration's fields as an address gives them; raises UsageError for parameters it does not know."""
    query = dict(url.query)
    tunnel = query.pop("ssh_tunnel", None)
    beside = {name: query.pop(key) for key, name in _SSH_FIELDS.items() if key in query}
    if unknown := sorted(set(query) - set(query_fields)):
        known = ", ".join([*query_fields, "ssh_tunnel", *_SSH_FIELDS])
        raise UsageError(f"{unknown[0]!r} is not a parameter of {url.scheme}:// addresses", hint=f"known: {known}")
    if url.port == 0:
        raise UsageError("0 is not a port", hint="leave it out for the usual one")
    fields: dict[str, Any] = {
        "host": url.host,
        "port": url.port,
        "database": url.path.removeprefix("/") or None,
        "username": url.username or None,
        "password": url.password,
    }
    fields |= {query_fields[name]: value for name, value in query.items()}
    if tunnel is not None:
        fields["ssh_tunnel"] = SshTunnel.from_url(parse_url(tunnel)).model_dump() | beside
    elif beside:
        raise UsageError("the SSH tunnel itself is missing", hint="add ssh_tunnel=ssh://user@host")
    return fields


def password_of(config: NetworkConfig) -> str | None:
    """Returns the configured password, else the environment's."""
    if config.password is not None:
        return config.password.get_secret_value()
    return os.environ.get(PASSWORD_VARIABLE)


@dataclass(frozen=True)
class Endpoint:
    """Where to connect. `tls_name` is whom the server's certificate must name, also behind a tunnel; `socket` is the
    configured one, and then `host` and `port` mean nothing.
    """

    host: str
    port: int
    tls_name: str
    socket: str | None = None
    tunnelled: bool = False


@contextmanager
def reached(config: NetworkConfig, *, host: str = "localhost") -> Iterator[Endpoint]:
    """Gives the place to connect to, for as long as the block lasts. `host` is where to look when none is configured.

    Blocks may be nested: those of one tunnel share it, so that a dump opens it once whatever it asks in between. Raises
    UnreachableError, AuthenticationError or MissingToolError for a tunnel; never tries the server itself.
    """
    name, port = config.host or host, config.port or config.default_port
    if config.ssh_tunnel is None:
        yield Endpoint(name, port, name, config.socket)
        return
    with _shared((config.ssh_tunnel, name, port)) as local_port:
        yield Endpoint("127.0.0.1", local_port, name, tunnelled=True)


@contextmanager
def carried(config: NetworkConfig, stream: AbstractContextManager[DumpStream]) -> Iterator[DumpStream]:
    """Gives the stream, whose errors then say so when it was the tunnel that broke: a dump yields its streams so.

    Its reader fails outside of the generator that opened the tunnel, which therefore never hears of it.
    """
    with reached(config), stream as opened:
        yield opened


_Way = tuple[SshTunnel, str, int]


@dataclass
class _Tunnel:
    users: int = 0
    port: int = 0
    forward: LocalForward | None = None
    ready: threading.Lock = field(default_factory=threading.Lock)


_tunnels: dict[_Way, _Tunnel] = {}
_guard = threading.Lock()


@contextmanager
def _shared(way: _Way) -> Iterator[int]:
    """Gives the local port of a tunnel; the first one in opens it, the last one out closes it."""
    with _guard:
        tunnel = _tunnels.setdefault(way, _Tunnel())
        tunnel.users += 1
    with ExitStack() as leaving:
        leaving.callback(_leave, way, tunnel)
        with tunnel.ready:
            if tunnel.forward is None:
                forward = _forward(*way)
                _, tunnel.port = forward.__enter__()
                tunnel.forward = forward
        try:
            yield tunnel.port
        except DataGuardianError as error:
            # Also where others stay: a tunnel that broke knows better than the driver why nothing was heard any more.
            explained = tunnel.forward.explained(error)
            if explained is error:
                raise
            raise explained from error


def _leave(way: _Way, tunnel: _Tunnel) -> None:
    with _guard:
        tunnel.users -= 1
        if tunnel.users:
            return
        del _tunnels[way]
    if tunnel.forward is not None:
        tunnel.forward.__exit__(None, None, None)


def _forward(tunnel: SshTunnel, host: str, port: int) -> LocalForward:
    """Returns `ssh -L` to host:port as the tunnel's machine sees it."""
    return local_forward(SshTarget.model_validate(tunnel.model_dump()), host, port)


def within(seconds: float, probe: Callable[[], ProbeResult]) -> ProbeResult:
    """Returns what `probe` found; "timeout" when it does not come back in time, as when a name server is silent."""
    answer: Future[ProbeResult] = Future()

    def run() -> None:
        try:
            answer.set_result(probe())
        except BaseException as error:  # noqa: BLE001 -- raised again where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=run, name="probe", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():  # the probe's own
            raise
        return ProbeResult("timeout", f"no answer within {seconds:.0f} s")


def check_tls_files(config: NetworkConfig) -> None:
    """Raises UsageError, which names the field, when one of the configured TLS files cannot be read."""
    for name in ("ssl_ca", "ssl_cert", "ssl_key"):
        path = getattr(config, name)
        if path is None:
            continue
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise UsageError(f"{name} {path!r} cannot be read: {error.strerror}", hint="check the path") from error


def ssl_context(config: NetworkConfig) -> ssl.SSLContext | None:
    """Returns what a Python driver needs for the configured mode; None for disable. Raises UsageError.

    `prefer` gives the context of `require`: whether to go on without TLS is the caller's to try. The caller passes
    `endpoint.tls_name` as the server's name.
    """
    import ssl  # noqa: PLC0415 -- costs milliseconds at every start

    mode = config.ssl_mode or "prefer"
    if mode == "disable":
        return None
    check_tls_files(config)
    try:
        context = ssl.create_default_context(cafile=config.ssl_ca)
        context.check_hostname = mode == "verify-full"
        if mode in ("prefer", "require"):
            context.verify_mode = ssl.CERT_NONE
        if config.ssl_cert:
            context.load_cert_chain(config.ssl_cert, config.ssl_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"the TLS files cannot be used: {error}", hint="check ssl_ca, ssl_cert and ssl_key: PEM, without passphrase"
        ) from error
    return context
