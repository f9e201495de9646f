"""Brings a catalogue to a revision, up or down. Synchronous; quick when there is nothing to do.

All revisions of one call are one transaction, on SQLite too (there the driver must not begin and commit by itself), so
that a process which is killed in the middle leaves what was there before. Two processes that start at once wait for
each other: on PostgreSQL by an advisory lock of that transaction, on SQLite by a lock file beside the catalogue.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import quote

from dataguardian.db.address import bad_url, postgres_url, sqlite_path
from dataguardian.domain.errors import ConflictError, DataGuardianError, MissingToolError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SCRIPTS = Path(__file__).parent / "migrations"
BASE = "base"
HEAD = "head"
LOCK_SECONDS = 300.0
LOCK_NUMBER = 0x6461746167756172
"""The advisory lock's number, `dataguar` in ASCII."""
CONNECT_SECONDS = 2
_SCRIPT = re.compile(r"v(\d{4})_\w+\.py")
_alembic = threading.Lock()  # Alembic keeps what it works on in module globals


def upgrade(url: str, revision: str = HEAD, *, scripts: Path = SCRIPTS) -> None:
    """Brings a catalogue up to a revision, creating it when there is none.

    Raises ConflictError when it is newer than this program, or another process migrates it for minutes;
    CatalogUnavailableError when it cannot be reached; UsageError for an address or a revision that is none.
    """
    known = revisions(scripts)
    target = _chosen(known, known[-1] if revision == HEAD else revision)
    if _place(known, current(url)) >= _place(known, target):
        return
    _migrate(url, target, scripts, up=True)


def downgrade(url: str, revision: str, *, scripts: Path = SCRIPTS) -> None:
    """Brings a catalogue down to a revision, or to nothing with `base`: what only newer revisions know is lost.

    Raises like `upgrade`.
    """
    known = revisions(scripts)
    target = BASE if revision == BASE else _chosen(known, revision)
    if _place(known, current(url)) <= _place(known, None if target == BASE else target):
        return
    _migrate(url, target, scripts, up=False)


def current(url: str) -> str | None:
    """Returns the revision of a catalogue, None when there is none yet. Raises CatalogUnavailableError, UsageError."""
    path = sqlite_path(url)
    return _sqlite_revision(path) if path is not None else _postgres_revision(postgres_url(url))


def revisions(scripts: Path = SCRIPTS) -> list[str]:
    """Returns the revisions that this program knows, the oldest first."""
    names = (_SCRIPT.fullmatch(entry.name) for entry in (scripts / "versions").iterdir())
    return sorted(name[1] for name in names if name)


def _chosen(known: list[str], revision: str) -> str:
    if revision not in known:
        raise UsageError(f"there is no catalogue revision {revision!r}", hint=f"there are {', '.join(known)}")
    return revision


def _place(known: list[str], revision: str | None) -> int:
    """Returns how far a revision is; raises ConflictError for one that only a newer program can know."""
    if revision is None:
        return 0
    if revision not in known:
        raise ConflictError(
            f"the catalogue has revision {revision}, and this program knows none after {known[-1]}",
            hint="run the newer DataGuardian that wrote it; only that one can downgrade it",
            revision=revision,
        )
    return known.index(revision) + 1


def _sqlite_revision(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=5)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
                return None
            return _only(connection.execute("SELECT version_num FROM alembic_version").fetchone())
    except sqlite3.Error as error:
        raise _translated(error) from error


def _postgres_revision(url: str) -> str | None:
    psycopg = _driver()
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS, application_name="dataguardian") as connection:
            if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
                return None
            return _only(connection.execute("SELECT version_num FROM alembic_version").fetchone())
    except psycopg.ProgrammingError as error:
        if error.sqlstate is not None:
            raise _translated(error) from error
        raise bad_url() from None
    except psycopg.Error as error:
        raise _translated(error) from error


def _driver() -> ModuleType:
    try:
        import psycopg  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingToolError(
            "PostgreSQL's driver is not installed", hint="pip install 'dataguardian[postgres]'"
        ) from error
    return psycopg


def _only(row: tuple[str] | None) -> str | None:
    return row[0] if row else None


def _translated(error: BaseException) -> DataGuardianError:
    from dataguardian.db.errors import meaning_of  # noqa: PLC0415 -- heavy, and only needed when something is wrong

    return meaning_of(error) or DataGuardianError(
        f"the catalogue cannot be used: {type(error).__name__}: {error}", hint="is DATABASE_URL another program's?"
    )


def _migrate(url: str, target: str, scripts: Path, *, up: bool) -> None:
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 -- heavy, and only needed when there is something to do

    path = sqlite_path(url)
    try:
        with (
            _alembic,
            _sqlite_transaction(path) if path is not None else _postgres_transaction(url) as connection,
        ):
            _run(connection, target, scripts, up=up)
    except DBAPIError as error:
        raise _translated(error.orig or error) from error


def _run(connection: Connection, target: str, scripts: Path, *, up: bool) -> None:
    """Lets Alembic work in a transaction that is ours. What was read before the lock may be old: it reads again."""
    from alembic import command  # noqa: PLC0415 -- heavy, and only needed when there is something to do
    from alembic.config import Config  # noqa: PLC0415 -- same
    from alembic.migration import MigrationContext  # noqa: PLC0415 -- same

    known = revisions(scripts)
    place = _place(known, MigrationContext.configure(connection).get_current_revision())
    wanted = 0 if target == BASE else known.index(target) + 1
    if place == wanted or (place > wanted) is up:
        return
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    (command.upgrade if up else command.downgrade)(config, target)


@contextmanager
def _postgres_transaction(url: str) -> Iterator[Connection]:
    from sqlalchemy import create_engine, make_url, pool, text  # noqa: PLC0415 -- heavy

    address = make_url(postgres_url(url)).set(drivername="postgresql+psycopg")
    engine = create_engine(address, poolclass=pool.NullPool, connect_args={"connect_timeout": CONNECT_SECONDS})
    with engine.begin() as connection:
        # A client that was killed is noticed while its statement still runs, so that its locks do not outlive it.
        connection.execute(
            text(
                "SELECT set_config(name, '1000', true) FROM pg_settings WHERE name = 'client_connection_check_interval'"
            )
        )
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS:.0f}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK_NUMBER})
        yield connection


@contextmanager
def _sqlite_transaction(path: Path) -> Iterator[Connection]:
    with _locked(path.with_name(f"{path.name}.migrating")), _sqlite_engine(path).begin() as connection:
        yield connection
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise DataGuardianError(
                f"the migration would break a reference of the table {broken[0]}, and was not made",
                hint="this is a bug in DataGuardian: please report it",
            )


def _sqlite_engine(path: Path) -> Engine:
    from sqlalchemy import URL, create_engine, event, pool  # noqa: PLC0415 -- heavy

    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=pool.NullPool)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # else the driver commits behind our back
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=OFF")  # a table that is altered is copied, dropped and renamed

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")

    return engine


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file; the kernel lets go of it when the process ends. Also creates the catalogue, unreadable to
    others, because it will hold secrets.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _no_folder(path, error) from error
    with os.fdopen(descriptor, "r+"):
        _wait_for(descriptor, path)
        _create(path.with_suffix(""))
        yield


def _wait_for(descriptor: int, path: Path) -> None:
    limit = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > limit:
                raise ConflictError(
                    f"another process holds {path} for minutes", hint="see what it does; a migration ends by itself"
                ) from error
            time.sleep(0.05)
        else:
            return


def _create(catalogue: Path) -> None:
    try:
        os.close(os.open(catalogue, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


def _no_folder(path: Path, error: OSError) -> DataGuardianError:
    return UsageError(
        f"the catalogue cannot be created in {path.parent}: {error.strerror}",
        hint="make the folder, or name another one in DATAGUARDIAN_HOME or DATABASE_URL",
    )
