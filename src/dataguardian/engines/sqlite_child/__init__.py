"""Everything that opens a SQLite database, as a program of its own: `main([ACTION, ARGUMENT…])`.

It runs in a process of its own because POSIX locks belong to a process: whoever opens and closes a database file beside
SQLite drops the locks that SQLite holds on it in the same process, and later commits vanish. It needs nothing but the
standard library and its two neighbours, so that it starts in a few hundredths of a second.

Answers with one JSON object on standard output: {"ok": {…}} or {"error": kind, "message": text}. Any exit code but 0,
or any other output, is a crash. SIGTERM ends it at any time, and is also sent when the parent dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dataguardian.engines.sqlite_child.access import (
    ERRNO_KINDS,
    LOCK_WAIT_SECONDS,
    Failure,
    connect,
    kind_of,
    open_source,
    pragma,
    primary_code,
)
from dataguardian.engines.sqlite_child.replacing import refuse_in_use, replace

Facts = dict[str, Any]

MAX_PROBLEMS = 20
PROBE_CHECK_MAX_BYTES = 256 * 1024 * 1024
PROBE_CHECK_SECONDS = 2.0

# What the application put in against its own rules. The pages are sound and the copy is faithful.
_LOGICAL = re.compile(
    r"\S+ value in |CHECK constraint failed in |In RTree |(malformed|unable to validate the) inverted index for FTS"
)


def main(arguments: list[str]) -> NoReturn:
    action, paths = _ACTIONS[arguments[0]], arguments[1:]
    try:
        answer: Facts = {"ok": action(*paths)}
    except Failure as failure:
        answer = {"error": failure.kind, "message": str(failure)}
    except sqlite3.Error as error:
        answer = {"error": kind_of(error), "message": str(error)}
    except OSError as error:
        answer = {"error": ERRNO_KINDS.get(error.errno or 0, "failed"), "message": error.strerror or str(error)}
    _write_all(json.dumps(answer).encode())
    os._exit(0)


def _write_all(data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(1, data) :]


def snapshot(source: str, staged: str, wait_seconds: str) -> Facts:
    """Copies the database into the empty file `staged`, checks the copy, and removes its name in any case.

    The parent opened `staged` before and reads the copy through that.
    """
    outcome: list[Facts | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_copy_and_examine(source, staged, float(wait_seconds)))
        except BaseException as error:  # noqa: BLE001 -- raised again in the main thread
            outcome.append(error)

    def leave(*_: object) -> NoReturn:
        with contextlib.suppress(OSError):
            Path(staged).unlink()
        os._exit(128 + signal.SIGTERM)

    # Copying is one long call into SQLite: only a thread that waits beside it can answer a signal at once.
    signal.signal(signal.SIGTERM, leave)
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join()
    Path(staged).unlink(missing_ok=True)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _copy_and_examine(source: str, staged: str, wait_seconds: float) -> Facts:
    """Lets go of the source before the check, so that writers wait for the copy only."""
    connection = open_source(source, wait_seconds)
    try:
        facts: Facts = {"journal_mode": pragma(connection, "journal_mode"), "sqlite": sqlite3.sqlite_version}
        _copy(connection, staged)
    finally:
        connection.close()
    status = Path(source).stat()
    facts |= {"mode": stat.S_IMODE(status.st_mode) & 0o777, "uid": status.st_uid, "gid": status.st_gid}
    return facts | examine(staged, "quick_check")


def _copy(connection: sqlite3.Connection, staged: str) -> None:
    """Copies page by page in one step of the backup API: rowids and free pages stay where they are."""
    copy = connect(staged, "mode=rw")
    try:
        # The copy is worth nothing until it is complete: no journal, no flush to the disk.
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            copy.execute(f"PRAGMA {setting}")
        connection.backup(copy, pages=-1, progress=_refuse_to_wait)
    except sqlite3.Error as error:
        if kind_of(error) == "full":
            need = pragma(connection, "page_count") * pragma(connection, "page_size")
            raise Failure("staging_full", f"the snapshot needs {need} bytes") from error
        raise
    finally:
        with contextlib.suppress(sqlite3.Error):
            copy.close()


def _refuse_to_wait(status: int, _remaining: int, _total: int) -> None:
    """Python would repeat a blocked step for ever; within a read transaction none can be blocked for long."""
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise Failure("busy", "the database is locked")


def examine(path: str, check: str) -> Facts:
    """Describes a database file that nobody else uses, and checks it; raises Failure when it is not sound."""
    connection = connect(path, "mode=ro&immutable=1")
    try:
        page_count, page_size = pragma(connection, "page_count"), pragma(connection, "page_size")
        size_bytes = Path(path).stat().st_size
        if page_count == 0 or size_bytes != page_count * page_size:
            raise Failure("damaged", f"it has {size_bytes} bytes instead of {page_count} pages of {page_size} bytes")
        warnings = _check(connection, check)
        return {
            "page_count": page_count,
            "page_size": page_size,
            "user_version": pragma(connection, "user_version"),
            "application_id": pragma(connection, "application_id"),
            "encoding": pragma(connection, "encoding"),
            "schema_objects": connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0],
            "warnings": warnings,
        }
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, check: str) -> list[str]:
    """Returns what to warn about; raises Failure for damage."""
    try:
        warnings: list[str] = []
        found = _problems(connection, check)
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        found, warnings = _check_tables(connection, check)
    damage = [problem for problem in found if not _LOGICAL.match(problem)]
    if damage:
        raise Failure("damaged", "; ".join(damage[:MAX_PROBLEMS]))
    return warnings + found


def _check_tables(connection: sqlite3.Connection, check: str) -> tuple[list[str], list[str]]:
    """Checks table by table, for a schema that needs functions or collations which only its application has.

    Returns (problems, a warning per table that could not be checked).
    """
    found, warnings = [], []
    for table in _tables(connection):
        try:
            found += _problems(connection, f"{check}({_quoted(table)})")
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_ERROR:
                raise
            warnings.append(f"table {table} was copied but could not be checked here: {error}")
    return found, warnings


def _problems(connection: sqlite3.Connection, check: str) -> list[str]:
    rows = [str(row[0]) for row in connection.execute(f"PRAGMA {check}")]
    return [] if rows == ["ok"] else rows


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Returns the tables that hold rows themselves: a virtual one, which has no root page, may lack its module."""
    sql = r"SELECT name FROM sqlite_master WHERE type='table' AND rootpage>0 AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"
    return [row[0] for row in connection.execute(sql)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def probe(path: str, limit_seconds: str) -> Facts:
    """Opens and checks a live database without keeping its writers waiting for more than PROBE_CHECK_SECONDS."""
    signal.alarm(int(limit_seconds))
    connection = open_source(path, LOCK_WAIT_SECONDS)
    try:
        facts: Facts = {
            "version": sqlite3.sqlite_version,
            "size_bytes": pragma(connection, "page_count") * pragma(connection, "page_size"),
            "journal_mode": pragma(connection, "journal_mode"),
        }
        return facts | {"quick_check": _bounded_check(connection, facts["size_bytes"])}
    finally:
        connection.close()


def _bounded_check(connection: sqlite3.Connection, size_bytes: int) -> str:
    if size_bytes > PROBE_CHECK_MAX_BYTES:
        return "not run: the database is big, and every backup checks its copy"
    deadline = time.monotonic() + PROBE_CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        return "; ".join(["ok", *_check(connection, "quick_check")])
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        return f"stopped after {PROBE_CHECK_SECONDS:g} s without a finding"


def count_rows(path: str, wait_seconds: str) -> Facts:
    """Returns rows per table, all of one point in time."""
    connection = open_source(path, float(wait_seconds))
    try:
        counts = {}
        for table in _tables(connection):
            counts[table] = connection.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone()[0]  # noqa: S608 -- quoted
        return counts
    finally:
        connection.close()


_ACTIONS: dict[str, Callable[..., Facts]] = {
    "snapshot": snapshot,
    "examine": examine,
    "probe": probe,
    "count": count_rows,
    "refuse_in_use": refuse_in_use,
    "replace": replace,
}
