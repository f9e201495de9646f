"""Space of the catalogue's files that rows once took: overwritten, so that what was in them cannot be read back."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dataguardian.db.session import Database

TABLES = ("datasources", "storage_locations", "backup_jobs", "system_settings", "users")
"""Those whose rows have held secrets, or hold them sealed."""
CONSOLE = "dataguardian-console"
BUSY_SECONDS = 30.0
_TRIES = 20

log = structlog.get_logger(__name__)


async def scrub(database: Database) -> bool:
    """Rewrites what is in use and lets go of the rest; returns whether all of it was done.

    On SQLite this is a VACUUM of the file, and the write-ahead log is cut to nothing; it waits for readers that are
    not done, for some seconds. On PostgreSQL the tables are rewritten; its own write-ahead log and what archives it are
    the server's.
    """
    try:
        if database.is_sqlite:
            return await asyncio.to_thread(_rewrite_file, Path(str(database.engine.url.database)))
        await _rewrite_tables(database)
    except (sqlite3.Error, DBAPIError) as error:
        log.warning("the space that old rows took was not overwritten; the next start tries again", reason=str(error))
        return False
    return True


async def others_connected(database: Database) -> int:
    """Returns how many connections others have to this PostgreSQL catalogue as its user. This process's own ones must
    be called CONSOLE. 0 on SQLite, where the home's lock tells.
    """
    if database.is_sqlite:
        return 0
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
        " AND backend_type = 'client backend' AND application_name <> :console"
    )
    async with database.read() as session:
        return int((await session.execute(statement, {"console": CONSOLE})).scalar_one())


def _rewrite_file(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("VACUUM")
        for _ in range(_TRIES):
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return True
            time.sleep(BUSY_SECONDS / _TRIES)
    return False


async def _rewrite_tables(database: Database) -> None:
    async with database.engine.connect() as connection:
        single = await connection.execution_options(isolation_level="AUTOCOMMIT")
        for table in TABLES:
            await single.execute(text(f"VACUUM FULL {table}"))
