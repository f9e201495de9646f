"""Questions to a SQL Server, whose errors become ours here and nowhere else."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DiskFullError,
    EngineError,
    NotAllowedError,
    NotFoundError,
    TargetInUseError,
    UnreachableError,
    UsageError,
)
from dataguardian.engines.network import Endpoint, password_of, reached, ssl_context
from dataguardian.engines.sqlserver.config import SqlServerConfig
from dataguardian.engines.sqlserver.session import ServerError, Session
from dataguardian.engines.sqlserver.wire import Credentials, EncryptionError, ProtocolError, Wire

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 6 * 3600.0
"""How long a statement may think before its first answer: an index over a big table takes hours."""
MASTER = "master"
SETTINGS = (
    "SET ANSI_NULLS ON", "SET QUOTED_IDENTIFIER ON", "SET ANSI_PADDING ON", "SET ANSI_WARNINGS ON", "SET ARITHABORT ON",
    "SET CONCAT_NULL_YIELDS_NULL ON", "SET NUMERIC_ROUNDABORT OFF", "SET XACT_ABORT ON", "SET NOCOUNT OFF",
    "SET LANGUAGE us_english", "SET LOCK_TIMEOUT -1", "SET TEXTSIZE 2147483647", "SET ROWCOUNT 0",
)  # fmt: skip

_IN_USE = frozenset({3702, 5030, 5061, 5064, 5070})
_BY_NUMBER: dict[int, type[DataGuardianError]] = {
    **dict.fromkeys((911, 4060, 4064), NotFoundError),
    **dict.fromkeys((18452, 18456, 18470, 18486, 18487, 18488), AuthenticationError),
    **dict.fromkeys((229, 230, 262, 297, 300, 916, 5011, 15151, 15247, 33009), NotAllowedError),
    **dict.fromkeys((1101, 1105, 5149, 9002), DiskFullError),
    **dict.fromkeys(_IN_USE, TargetInUseError),
    **dict.fromkeys((233, 6005, 17142, 596, 924, 927, 978), UnreachableError),
}
_HINTS: dict[type[DataGuardianError], str] = {
    AuthenticationError: "check the user and the password (--password-file or DATAGUARDIAN_PASSWORD); the server must "
    "allow SQL Server logins",
    NotFoundError: "check the database's name, and that this login may open it; an address without one means every "
    "database of the server",
    NotAllowedError: "docs/engines.md lists the privileges that are needed",
    UnreachableError: "check host and port, and that the server runs and accepts connections",
    DiskFullError: "make room where the server keeps its data and its log",
    TargetInUseError: "end the other sessions and try again",
}


@dataclass(frozen=True)
class Server:
    """The server that a configuration names. Every method opens its own connection."""

    config: SqlServerConfig

    @property
    def place(self) -> str:
        config = self.config
        return config.socket or f"{config.host or 'localhost'}:{config.port or config.default_port}"

    @contextmanager
    def connect(
        self,
        database: str,
        *,
        seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        error: type[EngineError] = EngineError,
    ) -> Iterator[Session]:
        """Yields a session whose settings are known. Errors leave as AccessError, DiskFullError, or as `error`."""
        with reached(self.config) as endpoint, self.translated(f"database {database!r} at {self.place}", error):
            session = self._open(endpoint, database, seconds, answer_seconds)
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def translated(self, place: str, error: type[EngineError] = EngineError) -> Iterator[None]:
        """Turns what the protocol's layers raise into errors of our tree."""
        try:
            yield
        except ServerError as failure:
            raise _translated(failure, place, error) from failure
        except EncryptionError as failure:
            raise UnreachableError(
                f"{place}: {failure}", hint="check ssl_mode and ssl_ca against the server's certificate"
            ) from failure
        except ProtocolError as failure:
            raise error(f"{place}: {failure}", hint="check that a SQL Server listens there") from failure
        except TimeoutError as failure:
            raise UnreachableError(f"{place}: timeout, no answer in time", hint=_HINTS[UnreachableError]) from failure
        except OSError as failure:
            text = failure.strerror or str(failure)
            raise UnreachableError(f"{place}: {text}", hint=_HINTS[UnreachableError]) from failure

    def _open(self, endpoint: Endpoint, database: str, seconds: float, answer_seconds: float) -> Session:
        context = ssl_context(self.config)
        sock = _connected(endpoint, seconds)
        try:
            return self._signed_in(sock, endpoint, database, context, answer_seconds)
        except BaseException:
            sock.close()
            raise

    def _signed_in(
        self,
        sock: socket.socket,
        endpoint: Endpoint,
        database: str,
        context: ssl.SSLContext | None,
        answer_seconds: float,
    ) -> Session:
        config = self.config
        wire = Wire(sock)
        wire.negotiate(context, endpoint.tls_name, required=(config.ssl_mode or "prefer") != "prefer")
        session = Session(wire)
        try:
            session.login(
                Credentials(
                    username=config.username or "sa",
                    password=password_of(config) or "",
                    database=database,
                    server_name=endpoint.tls_name,
                )
            )
        except ConnectionResetError as failure:
            raise AuthenticationError(
                f"database {database!r} at {self.place}: the server closed the connection at the login",
                hint=_HINTS[AuthenticationError],
            ) from failure
        sock.settimeout(answer_seconds)
        _settle(session)
        _expect_database(session, database)
        return session


def _connected(endpoint: Endpoint, seconds: float) -> socket.socket:
    if endpoint.socket is not None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(seconds)
        sock.connect(endpoint.socket)
        return sock
    try:
        sock = socket.create_connection((endpoint.host, endpoint.port), timeout=seconds)
    except UnicodeError as failure:
        raise UsageError(f"{endpoint.host!r} is no host name") from failure
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _settle(session: Session) -> None:
    """Makes the session's settings those that the definitions and rows were made for, as far as the server has them."""
    try:
        session.run("; ".join(SETTINGS))
    except ServerError:
        for setting in SETTINGS:
            attempt(session, setting)


def _expect_database(session: Session, database: str) -> None:
    """Some servers open another database than the one that was asked for, without a word."""
    rows = look(session, "SELECT DB_NAME() AS name") or []
    name = rows[0]["name"] if rows else None
    if isinstance(name, str) and name.casefold() != database.casefold():
        raise ServerError([(4060, 1, f"Cannot open database {database!r}: the server opened {name!r}")])


def attempt(session: Session, sql: str) -> ServerError | None:
    """Runs what some servers do not know; returns what it said against it."""
    try:
        session.run(sql)
    except ServerError as refusal:
        return refusal
    return None


def look(session: Session, sql: str) -> list[dict[str, Any]] | None:
    """Returns the rows, or None when this server has no such view or lets nobody look."""
    try:
        return session.query(sql)
    except ServerError:
        return None


def lacks(session: Session, securable: str, right: str, *, certain: str) -> bool:
    """Tells whether the server says that this login has not a right. A server that denies even `certain`, which whoever
    is signed in has, does not know what it says.
    """
    wanted, own = (f"HAS_PERMS_BY_NAME({securable}, '{name}')" for name in (right, certain))
    rows = look(session, f"SELECT {wanted} AS wanted, {own} AS own")
    return bool(rows and rows[0]["wanted"] in (0, False) and rows[0]["own"] in (1, True))


def is_mighty(session: Session) -> bool:
    """Tells whether this login may do everything here, as the server's administrator or the database's owner."""
    rows = look(session, "SELECT IS_SRVROLEMEMBER('sysadmin') AS admin, IS_MEMBER('db_owner') AS owner")
    return bool(rows and any(value in (1, True) for value in rows[0].values()))


def is_babelfish(session: Session) -> bool:
    """Tells whether this is Babelfish, SQL Server's language on PostgreSQL, which does a few things in its own way."""
    rows = look(session, "SELECT CAST(SERVERPROPERTY('babelfish') AS int) AS found")
    return bool(rows and rows[0]["found"])


def is_in_use(refusal: ServerError) -> bool:
    """Tells whether other sessions are in the way; Babelfish has no numbers for that."""
    return bool(_IN_USE & set(refusal.numbers)) or "exclusively locked" in refusal.text


def quoted(name: str) -> str:
    """Returns an identifier that is nothing else, whatever it holds."""
    return f"[{name.replace(']', ']]')}]"


def text(value: str) -> str:
    """Returns a Unicode literal that is nothing else, whatever it holds."""
    return "N'" + value.replace("'", "''") + "'"


def plain_text(value: str) -> str:
    """Returns a literal without the prefix of Unicode where it needs none: not every server knows it everywhere."""
    return text(value)[1:] if value.isascii() else text(value)


def _translated(failure: ServerError, place: str, fallback: type[EngineError]) -> DataGuardianError:
    kind = next((_BY_NUMBER[number] for number in failure.numbers if number in _BY_NUMBER), fallback)
    if 4060 in failure.numbers:  # noqa: PLR2004 -- comes together with the refusal of the login
        kind = NotFoundError
    if kind is fallback and is_in_use(failure):
        kind = TargetInUseError
    if kind is fallback and "authentication" in failure.text.casefold():
        kind = AuthenticationError
    return kind(f"{place}: {failure.text}", hint=_HINTS.get(kind, ""), number=failure.number)
