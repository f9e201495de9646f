"""How a MySQL or MariaDB server is addressed, and what its client programs are told."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from dataguardian.domain.errors import UsageError
from dataguardian.engines.network import PASSWORD_VARIABLE, Endpoint, NetworkConfig, Text, password_of

Flavour = Literal["MySQL", "MariaDB"]

MAX_NAME_CHARACTERS = 64
LARGEST_PACKET = "1G"

_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")  # noqa: S108 -- where servers put them, nothing is written


def _name(name: str) -> str:
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_NAME_CHARACTERS} characters")
    return name


class MysqlFamilyConfig(NetworkConfig):
    """Address of a database, or of the whole server when `database` is None. The two types only differ in name: which
    of the two servers answers is seen when it does.
    """

    default_port: ClassVar[int] = 3306
    type: str
    query_fields: ClassVar[Mapping[str, str]] = {
        **NetworkConfig.query_fields,
        "ssl-mode": "ssl_mode",
        "ssl-ca": "ssl_ca",
        "ssl-cert": "ssl_cert",
        "ssl-key": "ssl_key",
    }

    database: Annotated[Text, AfterValidator(_name)] | None = None


class MysqlConfig(MysqlFamilyConfig):
    scheme: ClassVar[str] = "mysql"
    type: Literal["mysql"] = "mysql"


class MariadbConfig(MysqlFamilyConfig):
    scheme: ClassVar[str] = "mariadb"
    type: Literal["mariadb"] = "mariadb"


def socket_of(config: MysqlFamilyConfig) -> str | None:
    """Returns the socket to use: the configured one, or where no host is named the one that is there."""
    if config.socket or config.host or config.ssh_tunnel or config.port:
        return config.socket
    return next((path for path in _SOCKETS if Path(path).exists()), None)


def user_of(config: MysqlFamilyConfig) -> str:
    if config.username:
        return config.username
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise UsageError(
            f"{config.describe()} names no user, and the one running this has no name",
            hint=f"write {config.scheme}://user@host/database",
        ) from error


def child_environment(config: MysqlFamilyConfig) -> dict[str, str]:
    """Returns the environment of a client program: the password, and no login file that would contradict us."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MYSQL_", "MARIADB_"))}
    kept.pop(PASSWORD_VARIABLE, None)
    return kept | {"MYSQL_PWD": password_of(config) or "", "MYSQL_TEST_LOGIN_FILE": "/nonexistent", "LC_ALL": "C"}


def client_arguments(config: MysqlFamilyConfig, endpoint: Endpoint, flavour: Flavour, *, tls: bool) -> list[str]:
    """Returns the arguments that lead a client program of `flavour` to the server; `tls`: whether the driver got it.

    What the user's or the machine's option files say does not count: they could change what a dump looks like.
    """
    arguments = ["--no-defaults", f"--user={user_of(config)}"]
    if socket := socket_of(config):
        arguments += ["--protocol=SOCKET", f"--socket={socket}"]
    else:
        arguments += ["--protocol=TCP", f"--host={endpoint.host}", f"--port={endpoint.port}"]
    return arguments + (_mariadb_tls if flavour == "MariaDB" else _mysql_tls)(config, endpoint, tls)


def _files(config: MysqlFamilyConfig) -> list[str]:
    given = {"ssl-ca": config.ssl_ca, "ssl-cert": config.ssl_cert, "ssl-key": config.ssl_key}
    return [f"--{key}={value}" for key, value in given.items() if value is not None]


def _mysql_tls(config: MysqlFamilyConfig, endpoint: Endpoint, tls: bool) -> list[str]:
    if not tls:
        return ["--ssl-mode=DISABLED", "--get-server-public-key"]
    modes = {"verify-ca": "VERIFY_CA", "verify-full": "VERIFY_CA" if endpoint.tunnelled else "VERIFY_IDENTITY"}
    return [f"--ssl-mode={modes.get(config.ssl_mode or 'prefer', 'REQUIRED')}", *_files(config)]


def _mariadb_tls(config: MysqlFamilyConfig, endpoint: Endpoint, tls: bool) -> list[str]:
    if not tls:
        return ["--skip-ssl"]
    # Only the name check is called verification there; what an authority signed is checked as soon as one is named.
    verified = config.ssl_mode == "verify-full" and not endpoint.tunnelled
    return ["--ssl", "--ssl-verify-server-cert" if verified else "--skip-ssl-verify-server-cert", *_files(config)]
