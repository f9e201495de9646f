"""SQLite files for the conformance suite."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dataguardian.domain.urls import parse_url
from tests.acceptance.comparing import sqlite_dump
from tests.acceptance.sources import odd_database
from tests.engines.conformance import EngineFixture

ODD = [
    "-rf",
    "a=b c",
    "quo'te\"s\\ and spaces",
    "ÜPPER lower 日本 🐘",
    "file:x?mode=ro#y",
    "%s{}$1 %41",
    "...",
    "new\nline",
]


class SqliteFixture(EngineFixture):
    type = "sqlite"
    is_server = False

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dg-sqlite-"))
        self._numbers = itertools.count(1)

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def sample(self) -> str:
        return _address(odd_database(self._new()))

    def large(self) -> str:
        path = self._new()
        _run(path, "CREATE TABLE t (x BLOB)", _blobs("t", 30))
        return _address(path)

    def empty(self) -> str:
        path = self._new()
        _run(path, "CREATE TABLE t (x)", "DROP TABLE t")
        return _address(path)

    def target(self) -> str:
        return _address(self._new())

    def odd(self) -> Sequence[str]:
        return [self._odd(name) for name in ODD]

    def missing(self) -> str:
        return _address(self._new())

    def content(self, address: str) -> Mapping[str, Any]:
        path = _path(address)
        return {"dump": sqlite_dump(path)} if path.exists() else {}

    def names(self) -> set[str]:
        return {str(path.relative_to(self._folder)) for path in self._folder.rglob("*")}

    def ledger(self) -> str:
        path = self._new()
        tables = "CREATE TABLE a_from (n); CREATE TABLE m_filler (x); CREATE TABLE z_to (n)"
        _run(path, "PRAGMA journal_mode=WAL", *tables.split("; "), _blobs("m_filler", 15))
        _run(path, "INSERT INTO a_from VALUES (0)", "INSERT INTO z_to VALUES (0)")
        return _address(path)

    @contextmanager
    def transfer(self, address: str) -> Iterator[Callable[[], None]]:
        with closing(sqlite3.connect(_path(address), isolation_level=None, timeout=30)) as connection:

            def once() -> None:
                connection.executescript(
                    "BEGIN IMMEDIATE; UPDATE a_from SET n = n - 1; UPDATE z_to SET n = n + 1; COMMIT"
                )

            yield once

    def is_balanced(self, address: str) -> bool:
        with closing(sqlite3.connect(_path(address))) as connection:
            ((taken, given),) = connection.execute("SELECT a_from.n, z_to.n FROM a_from, z_to").fetchall()
        return taken + given == 0 != taken

    def _new(self, name: str = "x.db") -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder / name

    def _odd(self, name: str) -> str:
        path = self._new(name)
        quoted = '"' + name.replace('"', '""') + '"'
        _run(path, f"CREATE TABLE {quoted} ({quoted})", f"INSERT INTO {quoted} VALUES (42)")
        return _address(path)


def _address(path: Path) -> str:
    return f"sqlite://{quote(str(path))}"


def _path(address: str) -> Path:
    return Path(parse_url(address).path)


def _blobs(table: str, count: int) -> str:
    """Returns a statement that adds as many rows of a megabyte."""
    numbers = f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT {count})"
    return f"INSERT INTO {table} {numbers} SELECT randomblob(1000000) FROM s"


def _run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


FIXTURES = [SqliteFixture]
