"""Sessions on the catalogue. SQLite and PostgreSQL behave the same to everybody outside this module.

On SQLite every write transaction is `BEGIN IMMEDIATE` behind one lock of the process, short, with no waiting on I/O
inside: a deferred transaction that reads and then writes fails at once when another writer came between, whatever the
busy timeout. `synchronous=FULL` and WAL make a committed row survive a power cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from dataguardian.domain.clock import Clock
from dataguardian.domain.errors import CatalogUnavailableError

BUSY_TIMEOUT_MS = 5000
CONNECT_TIMEOUT_SECONDS = 2


class Database:
    """The catalogue. `url` is `sqlite:////absolute/path.db` or `postgresql://user:password@host/db`."""

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self._lock = asyncio.Lock() if self.is_sqlite else None
        self.engine = _create_engine(url, is_sqlite=self.is_sqlite)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for reading; nothing that happens in it is committed."""
        async with _translated(), AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One write transaction: committed when the block ends well, rolled back when it raises. Keep it short."""
        if self._lock is None:
            async with _translated(), AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
            return
        async with self._lock, _translated(), AsyncSession(self.engine, expire_on_commit=False) as session:
            await session.execute(text("BEGIN IMMEDIATE"))
            try:
                yield session
            except BaseException:
                await session.rollback()
                raise
            await session.commit()

    async def ping(self) -> None:
        """Raises CatalogUnavailableError within CONNECT_TIMEOUT_SECONDS when the database does not answer."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS), self.read() as session:
                await session.execute(text("SELECT 1"))
        except TimeoutError as error:
            raise _unavailable() from error

    async def close(self) -> None:
        await self.engine.dispose()


async def fingerprint(session: AsyncSession, home_id: str) -> str:
    """Returns what changes when a catalogue is restored or moved: home and inode of the file, or the database's oid."""
    if session.get_bind().dialect.name == "sqlite":
        path = (await session.execute(text("PRAGMA database_list"))).all()[0][2]
        return f"{home_id}/{Path(path).stat().st_ino}"  # noqa: ASYNC240 -- one look at a local file, at the start
    return str((await session.execute(text("SELECT oid FROM pg_database WHERE datname = current_database()"))).scalar())


async def server_time(session: AsyncSession, clock: Clock) -> datetime:
    """Returns the time that leases are measured by: the database server's, because several machines share it; ours
    where the database is a file of this machine.
    """
    if session.get_bind().dialect.name == "sqlite":
        return clock.now()
    moment: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return moment.astimezone(UTC)


def _create_engine(url: str, *, is_sqlite: bool) -> AsyncEngine:
    if not is_sqlite:
        address = make_url(url).set(drivername="postgresql+psycopg")
        return create_async_engine(
            address,
            pool_size=10,
            max_overflow=10,
            pool_timeout=CONNECT_TIMEOUT_SECONDS,
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "dataguardian"},
        )
    engine = create_async_engine(make_url(url).set(drivername="sqlite+aiosqlite"))
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401 -- the driver's adapted connection
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """A catalogue that is away is one error, whatever the driver calls it. Broken rules (unique, foreign) pass."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _unavailable() from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable() from error
        raise


def _unavailable() -> CatalogUnavailableError:
    return CatalogUnavailableError(
        "the catalogue database does not answer", hint="DataGuardian goes on by itself when it is back"
    )
