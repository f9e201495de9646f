"""What both SQLite test modules need: databases to back up, other processes that use them, and comparing two."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataguardian.engines.base import DumpOptions, RestoreOptions
from dataguardian.engines.sqlite import SqliteConfig, SqliteEngine

PAIRS = "CREATE TABLE a(x); CREATE TABLE b(x);"


def engine_for(path: Path) -> SqliteEngine:
    return SqliteEngine(SqliteConfig(file_path=str(path)))


def build(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)
    return path


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@dataclass
class Dumped:
    data: bytes
    metadata: dict[str, Any]
    warnings: list[str]


def dump(path: Path, buffer_bytes: int = 100_000) -> Dumped:
    """Dumps like the pipeline does, through a buffer that no page size divides."""
    buffer, data = memoryview(bytearray(buffer_bytes)), bytearray()
    (dumped,) = engine_for(path).dump(DumpOptions())
    with dumped as stream:
        while count := stream.readinto(buffer):
            data += buffer[:count]
        stream.finish()
        assert stream.kind == "sqlite"
        assert stream.size_hint_bytes == len(data)
        return Dumped(bytes(data), stream.metadata, stream.warnings)


@dataclass
class Back:
    """A RestoreStream of bytes at hand; `error` strikes after half of them."""

    data: bytes
    metadata: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    name: str = "shop"
    kind: str = "sqlite"
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.size_bytes = self.size_bytes or len(self.data)

    def chunks(self) -> Iterator[bytes]:
        half = len(self.data) // 2
        yield self.data[:half]
        if self.error:
            raise self.error
        yield self.data[half:]


def restore(back: Back, target: Path, *, drop_existing: bool = False) -> Path:
    options = RestoreOptions(drop_existing=drop_existing)
    engine = engine_for(target)
    engine.prepare_restore([(back.name, back.kind)], options)
    engine.restore(iter([back]), options)
    return target


def content(path: Path) -> dict[str, Any]:
    """Everything that a database says: its schema, and every row of every real table with its rowid."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        found: dict[str, Any] = {"schema": schema}
        for _, name, _, _ in (row for row in schema if row[0] == b"table"):
            quoted = '"' + name.decode().replace('"', '""') + '"'
            try:
                found[name.decode()] = connection.execute(f"SELECT rowid, * FROM {quoted}").fetchall()
            except sqlite3.OperationalError:
                found[name.decode()] = connection.execute(f"SELECT * FROM {quoted}").fetchall()
        for setting in ("user_version", "application_id", "encoding", "page_size", "auto_vacuum", "journal_mode"):
            found[setting] = connection.execute(f"PRAGMA {setting}").fetchone()
        return found


PRELUDE = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
def say(word): print(word, flush=True)
"""


@contextmanager
def other_process(path: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a script with a connection `c` to the database, until it said its first word; killed in the end."""
    argv = [sys.executable, "-c", PRELUDE + script, os.fsencode(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


def killed(path: Path, script: str) -> None:
    """Runs a script that ends by kill -9 once it is ready, so that SQLite leaves what a crash leaves."""
    with other_process(path, script) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()


def children(parent: int | None = None) -> set[int]:
    """Returns the children of a process, of this one by default."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == (parent or os.getpid()):
                found.add(int(entry.name))
    return found
