"""Questions to a MySQL or MariaDB server, by PyMySQL, whose errors become ours here and nowhere else.

PyMySQL: pure Python, light, and it speaks both servers' ways to sign in. It asks, and it restores; dumps are the
stock program's.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DiskFullError,
    EngineError,
    NotAllowedError,
    NotFoundError,
    TargetInUseError,
    UnreachableError,
)
from dataguardian.engines.mysql.config import Flavour, MysqlFamilyConfig, socket_of, user_of
from dataguardian.engines.network import Endpoint, password_of, reached, ssl_context

if TYPE_CHECKING:
    import pymysql

CONNECT_SECONDS = 10.0
SYSTEM_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})

_KINDS: dict[type[DataGuardianError], tuple[int, ...]] = {
    AuthenticationError: (1045, 1130, 1251, 1698, 1820, 1862, 2026, 2049, 2054, 2059, 2061, 3118, 3159, 3955, 4151),
    NotFoundError: (1049,),
    NotAllowedError: (1044, 1142, 1143, 1227, 1290, 1370, 1410, 1419, 1836, 3530, 4166),
    UnreachableError: (1040, 1053, 1129, 1152, 1158, 1159, 1160, 1161, 1203, 1226, 1927, 2002, 2003, 2006, 2013, 2055),
    DiskFullError: (1021, 1114),
    TargetInUseError: (1205, 3572),
}
_BY_NUMBER = {number: kind for kind, numbers in _KINDS.items() for number in numbers}
# What PyMySQL raises at answers that make no sense, and at ways to sign in that it does not know.
_NOT_THE_PROTOCOL = (AssertionError, IndexError, ValueError, TypeError, RuntimeError, struct.error)
_NO_SPACE = re.compile(r"(?i)errcode: 28\b|no space left|errno: 28\b")
_HINTS: dict[type[DataGuardianError], str] = {
    AuthenticationError: "check the user, the password (--password-file or DATAGUARDIAN_PASSWORD), from where the"
    " account may connect, and ssl_mode",
    NotFoundError: "check the database's name; an address without one means the whole server",
    NotAllowedError: "docs/engines.md lists the privileges that a dump and a restore need",
    UnreachableError: "check host and port, and that the server runs and accepts connections",
    DiskFullError: "make room where the server keeps its data",
    TargetInUseError: "end the transactions and locks that hold the tables, and try again",
}
# What the server quotes of the data, or of the statement.
_DATA = (
    (re.compile(r"(entry|value|in value|Data truncat\w+): ?'.*' for (key|column)", re.DOTALL), r"\1 … for \2"),
    (re.compile(r"(entry) '.*' for (key)", re.DOTALL), r"\1 … for \2"),
    (re.compile(r" near '.*", re.DOTALL), ""),
)


@dataclass
class Session:
    """One connection, which commits each statement by itself. `tls`: whether it is encrypted."""

    raw: pymysql.Connection[Any]
    place: str
    version: str
    flavour: Flavour

    @property
    def tls(self) -> bool:
        return isinstance(self.raw._sock, ssl.SSLSocket)  # noqa: SLF001 -- there is no other way to know

    @property
    def release(self) -> tuple[int, int, int]:
        major, minor, patch, *_ = [*map(int, re.findall(r"\d+", self.version)[:3]), 0, 0, 0]
        return major, minor, patch

    @property
    def thread_id(self) -> int:
        return int(self.raw.thread_id())

    def rows(self, query: str | bytes, *values: object) -> list[tuple[Any, ...]]:
        with self.raw.cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall())

    def scalar(self, query: str, *values: object) -> Any:  # noqa: ANN401 -- SQL decides
        """Returns the first column of the first row, None when there is none."""
        rows = self.rows(query, *values)
        return rows[0][0] if rows else None

    def run(self, statement: str | bytes) -> None:
        """Carries out a statement as it is, and forgets what it answers."""
        self.raw.query(statement)

    def tell(self, *settings: str) -> None:
        """Makes settings of this session, and passes over those that the server does not know or allow."""
        import pymysql  # noqa: PLC0415 -- see `connect`

        for setting in settings:
            with contextlib.suppress(pymysql.err.DatabaseError):
                self.run(f"SET SESSION {setting}")

    def use(self, database: str) -> None:
        self.run(f"USE {quoted(database)}")


@dataclass(frozen=True)
class Server:
    """The server that a configuration names. Every `connect` is a connection of its own."""

    config: MysqlFamilyConfig

    @property
    def place(self) -> str:
        if path := socket_of(self.config):
            return path
        return f"{self.config.host or 'localhost'}:{self.config.port or self.config.default_port}"

    @contextmanager
    def connect(
        self,
        database: str | None = None,
        *,
        seconds: float = CONNECT_SECONDS,
        read_seconds: float | None = None,
        error: type[EngineError] = EngineError,
    ) -> Iterator[Session]:
        """Yields a session in UTC whose limits cannot get in the way. `read_seconds` bounds every wait.

        PyMySQL's errors leave as AccessError where they say so, DiskFullError, or as `error`.
        """
        import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        place = f"database {database!r} at {self.place}" if database else self.place
        with reached(self.config) as endpoint:
            try:
                with self._opened(endpoint, database, seconds, read_seconds) as session:
                    yield session
            except pymysql.err.Error as failure:
                raise translated(failure, place, error) from failure

    @contextmanager
    def _opened(
        self, endpoint: Endpoint, database: str | None, seconds: float, read_seconds: float | None
    ) -> Iterator[Session]:
        raw = self._connection(database, seconds)
        raw.host = endpoint.tls_name  # whom the certificate must name
        opened = _socket(endpoint, socket_of(self.config), seconds)
        try:
            raw.connect(opened)
        except _NOT_THE_PROTOCOL as failure:
            raise UnreachableError(
                f"{self.place} does not speak as MySQL or MariaDB do: {failure}", hint="check host and port"
            ) from failure
        try:
            self._insist_on_tls(raw)
            raw._read_timeout = read_seconds  # noqa: SLF001 -- signing in is bounded, a restore's statement is not
            raw._sock.settimeout(read_seconds)  # noqa: SLF001 -- see above
            version = str(raw.get_server_info())
            flavour: Flavour = "MariaDB" if "mariadb" in version.lower() else "MySQL"
            session = Session(raw, self.place, version.removeprefix("5.5.5-").partition("-")[0], flavour)
            session.tell("sql_mode = ''", "time_zone = '+00:00'", "wait_timeout = 28800", "net_read_timeout = 3600")
            session.tell("net_write_timeout = 3600", "max_statement_time = 0", "lock_wait_timeout = 60")
            yield session
        finally:
            raw._force_close()  # noqa: SLF001 -- a polite farewell could wait for the server

    def _connection(self, database: str | None, seconds: float) -> pymysql.Connection[Any]:
        import pymysql  # noqa: PLC0415 -- see `connect`

        context = ssl_context(self.config) if socket_of(self.config) is None else None
        raw = pymysql.connect(
            user=user_of(self.config),
            # PyMySQL would encode it as Latin-1; servers take the bytes that the client's terminal sends: UTF-8.
            password=(password_of(self.config) or "").encode(),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            read_timeout=seconds,
            write_timeout=None,
            ssl_disabled=context is None,
            program_name="dataguardian",
            defer_connect=True,
        )
        if context is not None:
            raw.ctx = context
            raw._ssl_required = self.config.ssl_mode not in (None, "prefer")  # noqa: SLF001 -- no argument says both
        return raw

    def _insist_on_tls(self, raw: pymysql.Connection[Any]) -> None:
        wanted = self.config.ssl_mode not in (None, "prefer", "disable") and socket_of(self.config) is None
        if wanted and not isinstance(raw._sock, ssl.SSLSocket):  # noqa: SLF001 -- there is no other way to know
            raise AuthenticationError(f"{self.place} speaks no TLS, and ssl_mode is {self.config.ssl_mode}")


def _socket(endpoint: Endpoint, path: str | None, seconds: float) -> socket.socket:
    """Connects as PyMySQL would; our own, because the certificate may name somebody else than the address."""
    import pymysql  # noqa: PLC0415 -- see `connect`

    try:
        if path is None:
            opened = socket.create_connection((endpoint.host, endpoint.port), seconds)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return opened
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(seconds)
        opened.connect(path)
    except (OSError, UnicodeError) as error:
        failure = pymysql.err.OperationalError(2003, f"cannot connect: {error}")
        raise failure from error
    return opened


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def text_of(value: Any) -> str:  # noqa: ANN401 -- what a driver gives
    """Returns a text column's value, which comes as bytes where its character set is binary."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def translated(failure: pymysql.err.Error, place: str, fallback: type[EngineError]) -> DataGuardianError:
    """Returns what a driver's error means; its text without what it quotes of the data."""
    import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    number, text = error_of(failure)
    if number == 0 and isinstance(failure, (pymysql.err.InterfaceError, pymysql.err.InternalError)):
        text = text or "it is closed"
        return UnreachableError(f"{place}: the connection broke: {text}", hint=_HINTS[UnreachableError])
    kind = DiskFullError if _NO_SPACE.search(text) else _BY_NUMBER.get(number, fallback)
    if number in (2003, 2006, 2013) and re.search(r"SSL|certificate|TLS", text):
        kind = AuthenticationError
    return kind(f"{place}: {text}", hint=_HINTS.get(kind, ""), number=number)


def error_of(failure: pymysql.err.Error) -> tuple[int, str]:
    """Returns the server's or the driver's error number and its text."""
    number, text = (*failure.args, "", "")[:2] if failure.args else (0, type(failure).__name__)
    if not isinstance(number, int):
        number, text = 0, str(number)
    shown = str(text).replace("\n", " ")
    for pattern, replacement in _DATA:
        shown = pattern.sub(replacement, shown)
    return number, shown
