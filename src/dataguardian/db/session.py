"""Sessions on the catalogue. SQLite and PostgreSQL behave the same to everybody outside this module.

On SQLite every write transaction is `BEGIN IMMEDIATE` behind one lock of the process, short, with no waiting on I/O
inside: a deferred transaction that reads and then writes fails at once when another writer came between, whatever the
busy timeout. `synchronous=FULL` and WAL make a committed row survive a power cut. A read is one snapshot and cannot
write, on both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from dataguardian.db import trips
from dataguardian.db.address import bad_url, postgres_url, sqlite_path
from dataguardian.db.errors import translated, unavailable
from dataguardian.db.limits import Limit, narrow, nobody_is_limited
from dataguardian.db.recent import Recent
from dataguardian.domain.clock import Clock
from dataguardian.domain.errors import MissingToolError

BUSY_TIMEOUT_MS = 5000
TURN_SECONDS = 10.0
"""How long anybody waits for its turn behind others of this process before the catalogue counts as away."""
CONNECT_TIMEOUT_SECONDS = 2
SQLITE_CACHE_KIB = 8192
"""Per connection; the system caches the file besides."""
CONNECTIONS = 8
"""How many read at once, and on PostgreSQL also how many write."""
_LAST = "last"
"""Under this name a session keeps what is done right before its commit."""

# A session that hangs, because its process was frozen or its machine lost the network, must not hold locks for longer
# than others take to find that out: they cannot take its work over before. Our transactions last milliseconds.
_POSTGRES_LIMITS = "-c statement_timeout=60s -c lock_timeout=10s -c idle_in_transaction_session_timeout=15s -c jit=off"
_POSTGRES_READING = r" -c default_transaction_read_only=on -c default_transaction_isolation=repeatable\ read"
_POSTGRES_NETWORK = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10000}


class Database:
    """The catalogue. `url` is `sqlite:////absolute/path.db` or `postgresql://user:password@host/db`.

    `engine` is for writing. Raises UsageError for another address, MissingToolError without PostgreSQL's driver.
    """

    def __init__(self, url: str) -> None:
        path = sqlite_path(url)
        self.is_sqlite = path is not None
        self.recent = Recent()
        self.limit: Limit = nobody_is_limited
        """Asked by every session for the datasources that it may see."""
        self._closing: set[asyncio.Task[None]] = set()
        if path is not None:
            self.engine, self._reader = _sqlite_engines(str(path))
            self._writers, self._readers = asyncio.Semaphore(1), asyncio.Semaphore(CONNECTIONS)
        else:
            self.engine, self._reader = _postgres_engine(url), _postgres_engine(url, _POSTGRES_READING)
            self._writers, self._readers = asyncio.Semaphore(CONNECTIONS), asyncio.Semaphore(CONNECTIONS)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one moment of the catalogue and cannot change it. Do not wait on I/O inside."""
        with translated():
            async with _turn(self._readers), self._session(self._reader, {"recent": self.recent}) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One write transaction: committed when the block ends well, rolled back when it raises. Keep it short."""
        with translated():
            async with _turn(self._writers), self._session(self.engine, {}) as session:
                try:
                    yield session
                    for work in session.info.pop(_LAST, []):
                        await work()
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
            raise unavailable("no answer in time") from error

    async def close(self) -> None:
        await self.engine.dispose()
        await self._reader.dispose()
        if self._closing:
            await asyncio.wait(self._closing, timeout=CONNECT_TIMEOUT_SECONDS)

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine, info: dict[str, Any]) -> AsyncIterator[AsyncSession]:
        """A session that has its connection already: a server that hangs is found out in time, and left alone."""
        datasource_ids = self.limit()
        if datasource_ids is not None:
            info = {}  # what was counted for others does not count here
        session = AsyncSession(engine, expire_on_commit=False, info=info)
        if datasource_ids is not None:
            narrow(session, datasource_ids)
        opening = asyncio.create_task(session.connection())
        try:
            done, _ = await asyncio.wait({opening}, timeout=None if self.is_sqlite else CONNECT_TIMEOUT_SECONDS)
        except asyncio.CancelledError:
            self._spawn(_abandon(session, opening))
            raise
        if not done:
            self._spawn(_abandon(session, opening))
            raise unavailable("no answer in time")
        try:
            opening.result()
            yield session
        finally:
            await asyncio.shield(self._spawn(session.close()))

    def _spawn(self, closing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Lets a session close whatever happens to its user, so that its connection goes back to the pool."""
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task


def at_the_end(session: AsyncSession, work: Callable[[], Awaitable[None]]) -> None:
    """Has `work` done as the last thing of a write transaction, after all its other statements and locks. It belongs to
    the transaction: when it raises, nothing is written.
    """
    session.info.setdefault(_LAST, []).append(work)


async def fingerprint(session: AsyncSession, home_id: str) -> str:
    """Returns what changes when a catalogue is restored or moved: home and inode of the file, or the database's oid
    and its server's own number. (On a fresh server the first database always has the same oid.)
    """
    if session.get_bind().dialect.name == "sqlite":
        path = (await session.execute(text("PRAGMA database_list"))).all()[0][2]
        return f"{home_id}/{Path(path).stat().st_ino}"  # noqa: ASYNC240 -- one look at a local file, at the start
    statement = "SELECT system_identifier, oid FROM pg_control_system(), pg_database WHERE datname = current_database()"
    server, oid = (await session.execute(text(statement))).one()
    return f"{server}/{oid}"


async def server_time(session: AsyncSession, clock: Clock) -> datetime:
    """Returns the time that leases are measured by: the database server's, because several machines share it; ours
    where the database is a file of this machine.
    """
    if session.get_bind().dialect.name == "sqlite":
        return clock.now()
    moment: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return moment.astimezone(UTC)


@asynccontextmanager
async def _turn(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Waits for one of the places. Apart from the pool, so that a busy catalogue is not taken for one that is away."""
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await places.acquire()
    except TimeoutError as error:
        raise unavailable("others keep it busy") from error
    try:
        yield
    finally:
        places.release()


async def _abandon(session: AsyncSession, opening: asyncio.Task[Any]) -> None:
    opening.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await opening
    with contextlib.suppress(Exception):
        await session.close()


def _postgres_engine(url: str, options: str = "") -> AsyncEngine:
    address = _parsed(postgres_url(url)).set(drivername="postgresql+psycopg")
    given: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "dataguardian",
        "options": _POSTGRES_LIMITS + options,
        **_POSTGRES_NETWORK,
    }
    try:
        return create_async_engine(
            address,
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,  # those that were abandoned still take a place for a while
            pool_timeout=CONNECT_TIMEOUT_SECONDS,
            pool_pre_ping=True,
            connect_args={name: value for name, value in given.items() if name not in address.query},
        )
    except ImportError as error:
        raise MissingToolError(
            "PostgreSQL's driver is not installed", hint="pip install 'dataguardian[postgres]'"
        ) from error


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise bad_url() from None


def _sqlite_engines(path: str) -> tuple[AsyncEngine, AsyncEngine]:
    """Returns the engine that writes, of one connection, and the one that reads."""
    address = URL.create("sqlite+aiosqlite", database=path)
    given: dict[str, Any] = {"pool_timeout": TURN_SECONDS, "connect_args": {"async_creator_fn": trips.connect}}
    writer = create_async_engine(address, pool_size=1, max_overflow=1, **given)
    reader = create_async_engine(address, pool_size=CONNECTIONS, max_overflow=CONNECTIONS, **given)
    for engine, statement in ((writer, "BEGIN IMMEDIATE"), (reader, "BEGIN")):
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _beginner(statement))
        event.listen(engine.sync_engine.pool, "invalidate", _let_go)
    event.listen(reader.sync_engine, "connect", _forbid_writing)
    return writer, reader


def _beginner(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _prepare_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401 -- the driver's adapted connection
    connection.isolation_level = None  # we say BEGIN ourselves
    pragmas: dict[str, str | int] = {
        "busy_timeout": BUSY_TIMEOUT_MS,
        "journal_mode": "WAL",
        "synchronous": "FULL",
        "foreign_keys": "ON",
        "cache_size": -SQLITE_CACHE_KIB,
    }
    _set_pragmas(connection, pragmas)


def _forbid_writing(connection: Any, _: object) -> None:  # noqa: ANN401 -- the driver's adapted connection
    _set_pragmas(connection, {"query_only": "ON"})


def _let_go(connection: Any, _: object, __: object) -> None:  # noqa: ANN401 -- the driver's adapted connection
    """Ends the transaction of a connection that is thrown away because its task was cancelled.

    Closing it does not, as long as a cursor is kept alive: by the traceback of that very cancellation, for instance.
    """
    with contextlib.suppress(Exception):
        connection.rollback()


def _set_pragmas(connection: Any, pragmas: Mapping[str, str | int]) -> None:  # noqa: ANN401 -- the driver's
    cursor = connection.cursor()
    for name, value in pragmas.items():
        cursor.execute(f"PRAGMA {name}={value}")
    cursor.close()
