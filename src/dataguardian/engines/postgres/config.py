"""How a PostgreSQL server is addressed, and what its client programs are told by environment."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import Field, SecretStr

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import Url
from dataguardian.engines.base import EngineConfig

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

DEFAULT_PORT = 5432
MAX_NAME_BYTES = 63
"""PostgreSQL cuts longer names off, silently: two of them could then mean one database."""
PASSWORD_VARIABLE = "DATAGUARDIAN_PASSWORD"  # noqa: S105 -- the name of a variable

_QUERY_FIELDS = {"sslmode": "ssl_mode", "sslrootcert": "ssl_ca", "sslcert": "ssl_cert", "sslkey": "ssl_key"}
_SOCKET_FOLDERS = ("/var/run/postgresql", "/tmp")  # noqa: S108 -- where servers put their sockets, nothing is written
# Everything else that begins with PG could send us elsewhere or change what a dump looks like.
_INHERITED = frozenset({
    "PGPASSWORD", "PGPASSFILE", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGKRBSRVNAME", "PGGSSLIB", "PGGSSENCMODE",
    "PGSSLMODE", "PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI",
    "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION",
})  # fmt: skip


class PostgresConfig(EngineConfig):
    """Address of a database, or of a whole cluster when `database` is None. `socket` is a folder."""

    type: Literal["postgres"] = "postgres"
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    database: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    ssl_mode: SslMode | None = None
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    socket: str | None = None

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes `postgresql://user:password@host:port/database?sslmode=…&sslrootcert=…&sslcert=…&sslkey=…&host=…`."""
        query = dict(url.query)
        host = query.pop("host", None) or url.host
        _check(url, query)
        is_socket = host is not None and host.startswith("/")
        return cls(
            host=None if is_socket else host,
            socket=host if is_socket else None,
            port=url.port,
            database=_checked_name(url.path[1:], "database") or None,
            username=_checked_name(url.username or "", "user") or None,
            password=url.password,
            **{_QUERY_FIELDS[key]: value for key, value in query.items()},
        )

    def describe(self) -> str:
        query = {key: value for key, field in _QUERY_FIELDS.items() if (value := getattr(self, field))}
        query |= {"host": self.socket} if self.socket else {}
        path = "/" + (self.database or "")
        return str(Url("postgresql", username=self.username, host=self.host, port=self.port, path=path, query=query))

    def default_name(self) -> str:
        return self.database or self.host or "postgresql"


def host_of(config: PostgresConfig) -> str:
    """Returns the host or socket folder to use. libpq builds differ in their default folder, so we look ourselves."""
    if config.socket or config.host:
        return cast("str", config.socket or config.host)
    name = f".s.PGSQL.{config.port or DEFAULT_PORT}"
    return next((folder for folder in _SOCKET_FOLDERS if (Path(folder) / name).exists()), "localhost")


def user_of(config: PostgresConfig) -> str:
    if config.username:
        return config.username
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise UsageError(
            f"{config.describe()} names no user, and the one running this has no name",
            hint="write postgresql://user@host/database",
        ) from error


def password_of(config: PostgresConfig) -> str | None:
    """Returns the configured password, or the environment's; None leaves PGPASSWORD and the password file to libpq."""
    if config.password is not None:
        return config.password.get_secret_value()
    return os.environ.get(PASSWORD_VARIABLE)


def child_environment(config: PostgresConfig) -> dict[str, str]:
    """Returns the environment of a client program: what the address says, and nothing that contradicts it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG") or key in _INHERITED}
    kept.pop(PASSWORD_VARIABLE, None)
    given = {
        "PGHOST": host_of(config),
        "PGPORT": str(config.port or DEFAULT_PORT),
        "PGUSER": user_of(config),
        "PGPASSWORD": password_of(config),
        "PGSSLMODE": config.ssl_mode,
        "PGSSLROOTCERT": config.ssl_ca,
        "PGSSLCERT": config.ssl_cert,
        "PGSSLKEY": config.ssl_key,
        "PGAPPNAME": "dataguardian",
        "PGCONNECT_TIMEOUT": "15",
        "LC_ALL": "C",
    }
    return kept | {key: value for key, value in given.items() if value is not None}


def connection_string(database: str) -> str:
    """Returns a libpq connection string for an argv: any name is safe in it, and it holds no secret.

    The keepalives end a client within two minutes when the server's machine has vanished.
    """
    return f"{quoted_name(database)} keepalives_idle=60 keepalives_interval=15 keepalives_count=4"


def quoted_name(database: str) -> str:
    """Returns `dbname='…'`, which libpq takes for any name: it would read `a=b` or a leading dash as something else."""
    quoted = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{quoted}'"


def _check(url: Url, query: dict[str, str]) -> None:
    unknown = sorted(set(query) - set(_QUERY_FIELDS))
    if unknown:
        known = ", ".join(["host", *_QUERY_FIELDS])
        raise UsageError(f"{unknown[0]!r} is not a parameter of postgresql:// addresses", hint=f"known: {known}")
    mode = query.get("sslmode")
    if mode is not None and mode not in get_args(SslMode):
        raise UsageError(f"sslmode {mode!r} does not exist", hint=f"known: {', '.join(get_args(SslMode))}")
    if url.port == 0:
        raise UsageError("0 is not a port", hint="leave it out for 5432")
    if url.host and url.host.startswith("/"):
        raise UsageError(
            "a socket folder must not stand in the host's place, where letters lose their case",
            hint="write postgresql:///database?host=/folder",
        )


def _checked_name(name: str, what: str) -> str:
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the {what} name is not valid UTF-8", hint="percent-encode it from its UTF-8 bytes"
        ) from error
    if size_bytes > MAX_NAME_BYTES:
        raise UsageError(f"the {what} name is longer than PostgreSQL's {MAX_NAME_BYTES} bytes", name=name)
    if "\x00" in name:
        raise UsageError(f"the {what} name holds a zero byte")
    return name
