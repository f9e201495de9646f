"""Questions to a PostgreSQL server, by psycopg, whose errors become ours here and nowhere else."""

from __future__ import annotations

import logging
import select
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

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
from dataguardian.engines.network import Endpoint, check_tls_files, reached
from dataguardian.engines.postgres.config import PostgresConfig, libpq_parameters, user_of
from dataguardian.engines.postgres.refusal import kind_by_code, kind_of

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

MAINTENANCE_DATABASES = ("postgres", "template1")
CONNECT_SECONDS = 10
_CANCEL_SECONDS = 10

# psycopg tells a logger of a roll-back that fails because a stop came in the middle of a query. It is on its way out
# then, and a logger without a handler would write that on the user's terminal.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_PLAIN_SESSION = """
SELECT set_config('search_path', '', false), set_config('statement_timeout', %s, false),
    set_config('lock_timeout', '0', false), set_config('default_transaction_read_only', 'off', false)
"""
_HINTS: dict[type[DataGuardianError], str] = {
    AuthenticationError: "check the user, the password (--password-file or DATAGUARDIAN_PASSWORD) and pg_hba.conf",
    NotFoundError: "check the database's name; a postgresql:// address without one means the whole cluster",
    NotAllowedError: "connect as the database's owner or as a superuser",
    UnreachableError: "check host and port, and that the server runs and accepts connections",
    DiskFullError: "make room where the server keeps its data",
    TargetInUseError: "end the other sessions and try again",
}


@dataclass(frozen=True)
class Server:
    """The server that a configuration names. Every method opens its own short connection."""

    config: PostgresConfig
    _to_work_from: dict[frozenset[str], str] = field(default_factory=dict, compare=False, repr=False)

    @contextmanager
    def connect(
        self,
        database: str,
        *,
        seconds: int = CONNECT_SECONDS,
        statement_timeout: str = "0",
        error: type[EngineError] = EngineError,
    ) -> Iterator[Connection]:
        """Yields an autocommit connection whose sessions settings cannot get in the way.

        psycopg's errors leave as AccessError where they say so, DiskFullError, or as `error`.
        """
        import psycopg  # noqa: PLC0415 -- an optional package, loaded when it is needed

        place = f"database {database!r} at {self.place}"
        check_tls_files(self.config)
        with reached(self.config) as endpoint:
            opened = _open(_parameters(self.config, endpoint, database, seconds), place)
            try:
                with opened as connection:
                    connection.execute(_PLAIN_SESSION, (statement_timeout,))
                    with _settled(connection):
                        yield connection
            except psycopg.Error as failure:
                raise _translated(failure, place, error) from failure

    def maintenance_database(self, avoid: frozenset[str] = frozenset()) -> str:
        """Returns a database to work from, none of `avoid` and always the same; raises what the last one said."""
        if (found := self._to_work_from.get(avoid)) is not None:
            return found
        last: DataGuardianError | None = None
        for name in [*MAINTENANCE_DATABASES, user_of(self.config)]:
            if name in avoid:
                continue
            try:
                with self.connect(name):
                    return self._to_work_from.setdefault(avoid, name)
            except (NotFoundError, NotAllowedError) as error:
                last = error
            except AuthenticationError as error:
                # pg_hba.conf may admit a user to one database only.
                last = last or error
        raise last or NotFoundError(f"{self.place} has no database to work from")

    @property
    def place(self) -> str:
        return self.config.place


def _parameters(config: PostgresConfig, endpoint: Endpoint, database: str, seconds: int) -> dict[str, Any]:
    return {
        "hostaddr": "",
        **libpq_parameters(config, endpoint),
        "dbname": database,
        "options": "",
        "client_encoding": "UTF8",
        "application_name": "dataguardian",
        "connect_timeout": seconds,
        "target_session_attrs": "any",
        "keepalives_idle": 60,
        "keepalives_interval": 15,
        "keepalives_count": 4,
    }


def _open(parameters: dict[str, Any], place: str) -> Connection:
    """Raises AccessError, or DiskFullError, with the server's own words."""
    import psycopg  # noqa: PLC0415 -- an optional package, loaded when it is needed

    try:
        return psycopg.connect(**parameters, autocommit=True)
    except psycopg.errors.ConnectionTimeout as failure:
        raise UnreachableError(
            f"{place}: no answer within {parameters['connect_timeout']} s", hint=_HINTS[UnreachableError], timeout=True
        ) from failure
    except psycopg.Error as failure:
        kind = kind_of(failure, parameters)
        text = str(failure).replace("\n", " ").replace("\t", "").strip()
        raise kind(f"{place}: {text}", hint=_HINTS.get(kind, ""), sqlstate=failure.sqlstate) from failure
    except BaseException as stop:
        # The frames that it came through hold a connection that is half open. The server would wait a minute for the
        # rest of the log-in, and with it every DROP DATABASE, which all of its processes must agree to.
        traceback.clear_frames(stop.__traceback__)
        raise


@contextmanager
def _settled(connection: Connection) -> Iterator[None]:
    """On the way out of an error it cancels the statement that the server may still carry out, and waits for its end.

    Closing the connection alone would not: a database could appear after those that a restore left were removed.
    """
    import psycopg  # noqa: PLC0415 -- see above

    try:
        yield
    except BaseException:
        if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            with suppress(psycopg.Error, OSError):
                connection.cancel_safe(timeout=_CANCEL_SECONDS)
                _drain(connection, time.monotonic() + _CANCEL_SECONDS)
        raise


def _drain(connection: Connection, limit: float) -> None:
    """Takes the results that are still to come, until there are no more or it is `limit` on the monotonic clock."""
    pgconn, more = connection.pgconn, True
    while more:
        while pgconn.is_busy():
            if (left := limit - time.monotonic()) <= 0:
                return
            select.select([pgconn.socket], [], [], left)
            pgconn.consume_input()
        more = pgconn.get_result() is not None


def version_text(version: int) -> str:
    """Returns `17.10` for libpq's 170010."""
    return f"{version // 10000}.{version % 10000}"


def scalar(connection: Connection, query: LiteralString, *values: object) -> Any:  # noqa: ANN401 -- SQL decides
    """Returns the first column of the first row, None when there is none."""
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]


def _translated(failure: psycopg.Error, place: str, fallback: type[EngineError]) -> DataGuardianError:
    import psycopg  # noqa: PLC0415 -- see above

    lost = UnreachableError if isinstance(failure, psycopg.OperationalError) else fallback
    kind = kind_by_code(failure.sqlstate, fallback) if failure.sqlstate else lost
    # The diagnostic's own text only: str() of an error would repeat pieces of the statement.
    text = failure.diag.message_primary or str(failure).replace("\n", " ").replace("\t", "")
    details = {"timeout": True} if isinstance(failure, psycopg.errors.QueryCanceled) else {}
    return kind(f"{place}: {text}", hint=_HINTS.get(kind, ""), sqlstate=failure.sqlstate, **details)
