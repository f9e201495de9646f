"""Sources that the command line's tests back up, and the service that they talk to."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.service import Service, cleared, short_folder


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A small SQLite database."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
        database.executemany("INSERT INTO items (name) VALUES (?)", [(f"item {n}",) for n in range(5000)])
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a few files."""
    folder = tmp_path / "tree"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "one.txt").write_text("one\n")
    (folder / "two.log").write_text("two\n")
    return folder


@pytest.fixture
def slow_tree(tmp_path: Path) -> Path:
    """A folder whose backup with SLOW takes some ten seconds: there is time to stop it."""
    folder = tmp_path / "slow"
    folder.mkdir()
    chooser = random.Random(7)
    words = [chooser.randbytes(6).hex() for _ in range(4000)]
    (folder / "words").write_text(" ".join(chooser.choices(words, k=4_000_000)))
    return folder


@pytest.fixture
def big_shop(tmp_path: Path) -> Path:
    """A SQLite database of some 300 MB, whose restore takes a moment."""
    path = tmp_path / "big.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE blobs (content BLOB)")
        database.executemany("INSERT INTO blobs VALUES (zeroblob(?))", [(1 << 20,)] * 300)
    return path


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """One running service per test process; every test adds things of its own names."""
    started = Service(short_folder())
    started.start()
    yield started
    assert started.stop() == 0
    cleared(started.folder)


@pytest.fixture
def own_service() -> Iterator[Service]:
    """A service that one test has for itself, to be started by the test."""
    made = Service(short_folder())
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    cleared(made.folder)
