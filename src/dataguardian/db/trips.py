"""SQLite on a thread, with one trip to it per statement.

aiosqlite and SQLAlchemy's adapter go to the connection's thread and back four times per SELECT: to make a cursor, to
execute, to fetch, to close. Each trip wakes two threads, and where backups keep all cores busy each of them queues for
one: most of what a request took then was that. Here a statement and its first rows are one trip.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Self

import aiosqlite

ROWS_PER_TRIP = 500
"""More than any page has. A result that is longer stays open and is fetched as it is asked for."""

_Row = tuple[Any, ...]


class Connection(aiosqlite.Connection):
    """aiosqlite's, with other cursors."""

    def cursor(self) -> Cursor:  # type: ignore[override]  # it is all that SQLAlchemy's adapter asks of one
        return Cursor(self)

    async def trip(self, work: Callable[[], None]) -> None:
        """Does `work` on the connection's thread."""
        execute: Callable[..., Awaitable[None]] = self._execute
        await execute(work)


class Cursor:
    """What SQLAlchemy's adapter uses of an asynchronous cursor, for one statement after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: sqlite3.Cursor | None = None
        self._rows: list[_Row] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, operation: str, parameters: Sequence[Any] = ()) -> Self:
        await self._connection.trip(lambda: self._run(operation, parameters))
        return self

    async def executemany(self, operation: str, seq_of_parameters: Iterable[Sequence[Any]]) -> Self:
        await self._connection.trip(lambda: self._run_many(operation, seq_of_parameters))
        return self

    async def fetchone(self) -> _Row | None:
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[_Row]:
        wanted = size or self.arraysize
        if len(self._rows) < wanted and self._open is not None:
            await self._connection.trip(lambda: self._fetch(max(wanted - len(self._rows), ROWS_PER_TRIP)))
        taken, self._rows = self._rows[:wanted], self._rows[wanted:]
        return taken

    async def fetchall(self) -> list[_Row]:
        if self._open is not None:
            await self._connection.trip(lambda: self._fetch(None))
        taken, self._rows = self._rows, []
        return taken

    async def close(self) -> None:
        """Needs the thread only for a result that was not read to its end."""
        self._rows = []
        if self._open is not None:
            await self._connection.trip(self._shut)

    def _run(self, operation: str, parameters: Sequence[Any]) -> None:
        self._shut()
        self._open = self._connection._conn.execute(operation, parameters)  # noqa: SLF001 -- it has no public name
        self._note()
        self._fetch(ROWS_PER_TRIP)

    def _run_many(self, operation: str, seq_of_parameters: Iterable[Sequence[Any]]) -> None:
        self._shut()
        self._open = self._connection._conn.executemany(operation, seq_of_parameters)  # noqa: SLF001 -- as above
        self._note()
        self._shut()

    def _note(self) -> None:
        if self._open is not None:
            self.description, self.rowcount = self._open.description, self._open.rowcount
            self.lastrowid = self._open.lastrowid

    def _fetch(self, count: int | None) -> None:
        """Reads on; a result that has come to its end is closed, which ends its statement."""
        if self._open is None:
            return
        rows = self._open.fetchall() if count is None else self._open.fetchmany(count)
        self._rows += rows
        if count is None or len(rows) < count:
            self.rowcount = self._open.rowcount
            self._shut()

    def _shut(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def connect(database: str, **options: Any) -> Connection:  # noqa: ANN401 -- sqlite3's own
    """Returns a connection to be awaited; its thread does not outlive the program."""
    connection = Connection(lambda: sqlite3.connect(database, **options), iter_chunk_size=ROWS_PER_TRIP)
    connection._thread.daemon = True  # noqa: SLF001 -- aiosqlite has no other way; SQLAlchemy does the same
    return connection
