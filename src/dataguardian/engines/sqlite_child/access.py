"""How a SQLite file is opened, within the child process only, and what SQLite's errors mean to the parent."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

LOCK_WAIT_SECONDS = 2.0

_KINDS = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_NOTADB: "not_a_database",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_CANTOPEN: "cannot_open",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "denied",
}
ERRNO_KINDS = {
    errno.ENOENT: "missing",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
}


class Failure(Exception):  # noqa: N818 -- an answer to the parent, not an error of this program
    """What the parent turns into one of the project's errors; `kind` says into which."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def kind_of(error: sqlite3.Error) -> str:
    return _KINDS.get(primary_code(error), "failed")


def primary_code(error: sqlite3.Error) -> int:
    """Returns the error's primary result code; 0 when the module gives none, as for misuse."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def connect(path: str, query: str, wait_seconds: float = 0.0) -> sqlite3.Connection:
    """Opens without touching the file yet. The address is percent-encoded, so that every file name can be written."""
    connection = sqlite3.connect(
        f"file://{quote(os.fsencode(path))}?{query}", uri=True, timeout=wait_seconds, isolation_level=None
    )
    connection.text_factory = _lenient_text
    return connection


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def pragma(connection: sqlite3.Connection, name: str) -> Any:  # noqa: ANN401 -- an int or a str, by the pragma
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def open_source(path: str, wait_seconds: float) -> sqlite3.Connection:
    """Returns a connection within a read transaction: what it reads stays one point in time.

    Reading only is tried first, except where it would leave side files behind; a hot journal, or a write-ahead log
    that has to be recovered, needs permission to write.
    """
    for query in _ways_to_open(path):
        connection = connect(path, query, wait_seconds)
        try:
            connection.execute("BEGIN")
            pragma(connection, "schema_version")  # takes the lock without parsing a schema that may need extensions
        except sqlite3.OperationalError as error:
            connection.close()
            last = error
            if primary_code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise last


def _ways_to_open(path: str) -> list[str]:
    """Returns the URI queries to try.

    A reader without permission to write cannot clean up after itself: on a WAL database that nobody has open (it has
    no -wal then) it would leave an empty -wal and -shm, which a writer removes on closing without a write to the
    database. On a read-only file system nobody can change the file, so that it may be called immutable.
    """
    has_wal = Path(f"{path}-wal").exists()
    read_only_system = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    if read_only_system and not has_wal:
        return ["mode=ro", "mode=ro&immutable=1"]
    if not has_wal and os.access(path, os.W_OK):
        return ["mode=rw", "mode=ro"]
    return ["mode=ro", "mode=rw"]
