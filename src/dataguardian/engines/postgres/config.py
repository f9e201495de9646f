"""How a PostgreSQL server is addressed, and what its client programs are told by environment."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import Url
from dataguardian.engines.network import PASSWORD_VARIABLE, Endpoint, NetworkConfig, Text, fields_of, password_of

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

DEFAULT_PORT = 5432
MAX_NAME_BYTES = 63
"""PostgreSQL cuts longer names off, silently: two of them could then mean one database."""

_SOCKET_FOLDERS = ("/var/run/postgresql", "/tmp")  # noqa: S108 -- where servers put their sockets, nothing is written
_SOCKET_FILE = re.compile(r"(?P<folder>/.*|)/\.s\.PGSQL\.(?P<port>\d{1,5})")
# Everything else that begins with PG could send us elsewhere or change what a dump looks like.
_INHERITED = frozenset({
    "PGPASSWORD", "PGPASSFILE", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGKRBSRVNAME", "PGGSSLIB", "PGGSSENCMODE",
    "PGSSLMODE", "PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI",
    "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION",
})  # fmt: skip
# The authorities that this machine trusts, one file of them: releases of libpq before 16 know no `system`, and a libpq
# that came in a wheel would look for them where it was built.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/homebrew/etc/openssl@3/cert.pem",
)


def _name(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"longer than PostgreSQL's {MAX_NAME_BYTES} bytes")
    return name


Name = Annotated[Text, AfterValidator(_name)]


class PostgresConfig(NetworkConfig):
    """Address of a database, or of a whole cluster when `database` is None. `socket` is the folder of the server's
    socket, or the socket itself.
    """

    default_port: ClassVar[int] = DEFAULT_PORT
    scheme: ClassVar[str] = "postgresql"
    query_fields: ClassVar[Mapping[str, str]] = {
        "sslmode": "ssl_mode",
        "sslrootcert": "ssl_ca",
        "sslcert": "ssl_cert",
        "sslkey": "ssl_key",
        **NetworkConfig.query_fields,
    }

    type: Literal["postgres"] = "postgres"
    database: Name | None = None
    username: Name | None = None
    ssl_mode: SslMode | None = None  # type: ignore[assignment]  # libpq knows one mode more than the others

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes `postgresql://user:password@host:port/database?sslmode=…&sslrootcert=…&sslcert=…&sslkey=…`, and the
        spellings of the other engines: `ssl_mode=…`, `socket=/folder`, `ssh_tunnel=ssh://user@host&ssh_key=/file`.
        """
        if url.host and url.host.startswith("/"):
            raise UsageError(
                "a socket folder must not stand in the host's place, where letters lose their case",
                hint="write postgresql:///database?host=/folder",
            )
        fields: dict[str, Any] = fields_of(url, {**cls.query_fields, "host": "host"})
        if str(fields["host"] or "").startswith("/"):
            fields |= {"host": None, "socket": fields["host"]}
        return cls.from_fields(fields)

    def default_name(self) -> str:
        return self.database or self.host or "postgresql"

    @property
    def socket_folder(self) -> str | None:
        """The folder to look for the server's socket in. libpq builds differ in their default, so we look ourselves."""
        if self.socket:
            given = _SOCKET_FILE.fullmatch(self.socket)
            return (given["folder"] or "/") if given else self.socket
        if self.host or self.ssh_tunnel:
            return None
        name = f".s.PGSQL.{self.port or DEFAULT_PORT}"
        return next((folder for folder in _SOCKET_FOLDERS if (Path(folder) / name).exists()), None)

    @property
    def effective_port(self) -> int:
        given = _SOCKET_FILE.fullmatch(self.socket or "")
        return int(given["port"]) if given else self.port or DEFAULT_PORT

    @property
    def place(self) -> str:
        """Where the server is, for people."""
        through = f" through {self.ssh_tunnel}" if self.ssh_tunnel else ""
        return f"{self.socket_folder or self.host or 'localhost'}:{self.effective_port}{through}"


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


def ssl_ca_of(config: PostgresConfig) -> str | None:
    """Returns the file of authorities to check the server's certificate with; None leaves it to libpq."""
    if config.ssl_ca or config.ssl_mode not in ("verify-ca", "verify-full"):
        return config.ssl_ca
    if "PGSSLROOTCERT" in os.environ or (Path.home() / ".postgresql/root.crt").exists():
        return None
    return next((path for path in _AUTHORITIES if Path(path).exists()), None)


def libpq_parameters(config: PostgresConfig, endpoint: Endpoint) -> dict[str, str]:
    """Returns where and how to connect, by libpq's names. None of it is secret but `password`, left out when there is
    none: then PGPASSWORD and the password file are libpq's to look at.
    """
    given = {
        "host": config.socket_folder or endpoint.tls_name,
        # The server's name stays what its certificate is made out to, also where the way leads through a tunnel.
        "hostaddr": endpoint.host if endpoint.tunnelled else None,
        "port": str(endpoint.port if endpoint.tunnelled else config.effective_port),
        "user": user_of(config),
        "password": password_of(config),
        "sslmode": config.ssl_mode,
        "sslrootcert": ssl_ca_of(config),
        "sslcert": config.ssl_cert,
        "sslkey": config.ssl_key,
    }
    return {key: value for key, value in given.items() if value is not None}


_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}


def child_environment(config: PostgresConfig, endpoint: Endpoint) -> dict[str, str]:
    """Returns the environment of a client program: what the address says, and nothing that contradicts it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG") or key in _INHERITED}
    kept.pop(PASSWORD_VARIABLE, None)
    given = {_VARIABLES[key]: value for key, value in libpq_parameters(config, endpoint).items()}
    return kept | given | {"PGAPPNAME": "dataguardian", "PGCONNECT_TIMEOUT": "15", "LC_ALL": "C"}


def without_password(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns a client program's environment for one that reads or writes archives, and connects to nothing."""
    return {name: value for name, value in environment.items() if name != _VARIABLES["password"]}


def connection_string(database: str) -> str:
    """Returns a libpq connection string for an argv: any name is safe in it, and it holds no secret.

    The keepalives end a client within two minutes when the server's machine has vanished.
    """
    return f"{quoted_name(database)} keepalives_idle=60 keepalives_interval=15 keepalives_count=4"


def quoted_name(database: str) -> str:
    """Returns `dbname='…'`, which libpq takes for any name: it would read `a=b` or a leading dash as something else."""
    quoted = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{quoted}'"
