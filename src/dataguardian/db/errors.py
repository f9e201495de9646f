"""What the drivers' errors mean. A catalogue that is away is one error, whatever SQLite or PostgreSQL call it.

Broken rules (unique, foreign key) and mistakes in our own SQL are nobody's outage: they pass as SQLAlchemy's errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dataguardian.domain.errors import CatalogUnavailableError, DataGuardianError, DiskFullError, IntegrityError

_SQLITE_AWAY = {5, 6, 7, 8, 9, 10, 14, 15, 23}
"""BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CANTOPEN PROTOCOL AUTH, of sqlite.org/rescode.html."""
_SQLITE_DAMAGED = {11, 26}
_SQLITE_FULL = 13
_PRIMARY_CODE = 0xFF

_POSTGRES_FULL = "53100"
_POSTGRES_AWAY = ("08", "25P0", "28", "3D", "40", "53", "55P03", "57", "58", "F0", "XX")
"""Classes and codes of postgresql.org/docs/current/errcodes-appendix.html: connection, idle too long, login, no such
database, deadlock, resources, lock timeout, shutdown and time limits, the server's own trouble.
"""


@contextmanager
def translated() -> Iterator[None]:
    """Raises CatalogUnavailableError, DiskFullError or IntegrityError (a damaged file) for what the drivers say."""
    try:
        yield
    except PoolTimeoutError as error:
        raise unavailable("every connection is busy") from error
    except DBAPIError as error:
        ours = meaning_of(error.orig, lost=error.connection_invalidated)
        if ours is None:
            raise
        raise ours from error


def meaning_of(error: BaseException | None, *, lost: bool = False) -> DataGuardianError | None:
    """Returns the error of ours that a driver's means; None when it is not about the catalogue being away."""
    said = _first_line(error)
    state = getattr(error, "sqlstate", "")  # None: psycopg itself says it, so the connection broke or never was
    code = (getattr(error, "sqlite_errorcode", None) or 0) & _PRIMARY_CODE
    if code == _SQLITE_FULL or state == _POSTGRES_FULL:
        return DiskFullError(f"the catalogue's disk is full: {said}", hint="make room; DataGuardian goes on by itself")
    if code in _SQLITE_DAMAGED:
        return IntegrityError(
            f"the catalogue is damaged: {said}",
            hint="stop the service and restore the catalogue from its own newest backup",
        )
    away = code in _SQLITE_AWAY or (type(error).__name__ == "OperationalError" and state is None)
    if lost or away or (state and state.startswith(_POSTGRES_AWAY)):
        return unavailable(said)
    return None


def unavailable(said: str = "") -> CatalogUnavailableError:
    return CatalogUnavailableError(
        "the catalogue database does not answer" + (f": {said}" if said else ""),
        hint="DataGuardian goes on by itself when it is back; check DATABASE_URL when it never was there",
    )


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().split("\n", 1)[0] if error is not None else ""
