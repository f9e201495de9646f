"""Replacing a live SQLite database by another file; runs in the child process only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import signal
import sqlite3
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from dataguardian.engines.sqlite_child.access import LOCK_WAIT_SECONDS, Failure, connect, kind_of

SIDE_SUFFIXES = ("-wal", "-shm", "-journal")
# The bytes on which SQLite locks (https://sqlite.org/fileformat.html#the_lock_byte_page): pending, reserved, shared.
LOCK_START, LOCK_LENGTH = 0x40000000, 512

_held: list[object] = []
"""Locks that must last until the process ends, because SQLite would remove files by name when it closes them."""


def refuse_in_use(path: str) -> dict[str, object]:
    """Raises Failure when a process has the database open or holds a lock on it, as far as this user can see."""
    _refuse(itertools.chain(_processes_with(path), _lock_holders(path)))
    return {}


def _refuse(users: Iterable[str]) -> None:
    if names := list(dict.fromkeys(users)):
        raise Failure("in_use", ", ".join(names))


def _processes_with(path: str) -> Iterator[str]:
    """Yields the processes that have the file open: without a transaction, a reader or writer holds no lock."""
    if not Path("/proc/self/fd").is_dir():
        return
    wanted, name = Path(path).stat(), Path(path).name
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and int(process.name) != os.getpid() and _has_open(process / "fd", name, wanted):
                yield f"process {process.name} ({_command(process.name)})"


def _has_open(folder: Path, name: str, wanted: os.stat_result) -> bool:
    for link in folder.iterdir():
        with contextlib.suppress(OSError):
            # Compared by name first: asking a dead network mount about a file would hang.
            if link.readlink().name == name and os.path.samestat(link.stat(), wanted):
                return True
    return False


def _command(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="backslashreplace").strip()


def _lock_holders(path: str) -> Iterator[str]:
    """Yields who holds one of SQLite's locks, also when the process belongs to somebody else. Linux on 64 bits only."""
    if not sys.platform.startswith("linux") or struct.calcsize("P") != 8:  # noqa: PLR2004 -- bytes of a pointer
        return
    layout = "hhqqi"  # struct flock: l_type, l_whence, l_start, l_len, l_pid
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        question = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, LOCK_START, LOCK_LENGTH, 0)
        kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
        if kind != fcntl.F_UNLCK:
            with contextlib.suppress(OSError):
                yield f"process {pid} ({_command(str(pid))})"
                return
            yield f"process {pid}"
    finally:
        os.close(descriptor)


def replace(target: str, fresh: str) -> dict[str, object]:
    """Puts the file `fresh` into the place of the database `target`: whoever looks sees the old or the new, whole.

    The old one is locked against everybody and made whole by itself before its side files are put aside, so that
    neither can they be replayed onto the new one, nor is the old one less than whole when this ends half-way. Once it
    is replaced, what goes wrong is among the `warnings` of the answer.
    """
    connection = _lock(target)
    try:
        _refuse(_processes_with(target))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        aside = _put_aside(target, fresh)
        try:
            Path(fresh).replace(target)
        except BaseException:
            _put_back(aside)
            raise
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    try:
        for moved in aside.values():
            Path(moved).unlink()
        sync_directory(target)
    except OSError as error:
        return {"warnings": [f"the old database's side files could not be tidied up: {error.strerror}"]}
    return {"warnings": []}


def _lock(target: str) -> sqlite3.Connection | None:
    """Locks the old database until this process ends; returns its connection unless it is no readable database."""
    connection = connect(target, "mode=rw", LOCK_WAIT_SECONDS)
    try:
        _lock_through_sqlite(connection)
    except sqlite3.Error as error:
        connection.close()
        if kind_of(error) not in ("not_a_database", "damaged"):
            raise
        _lock_by_hand(target)
        return None
    except BaseException:
        connection.close()
        raise
    _held.append(connection)
    return connection


def _lock_through_sqlite(connection: sqlite3.Connection) -> None:
    """Exclusive mode keeps the lock after the transaction, and a WAL database refuses it while anybody has it open."""
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise Failure("busy", "its write-ahead log is in use")


def _lock_by_hand(target: str) -> None:
    """Takes the lock that SQLite would take, on a file that SQLite cannot read: an application may still have it."""
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    _held.append(descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, LOCK_LENGTH, LOCK_START)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise Failure("busy", "the database is locked") from error
        raise


def _put_aside(target: str, fresh: str) -> dict[str, str]:
    """Renames what lies beside the old database; returns old names and new ones."""
    aside: dict[str, str] = {}
    try:
        for suffix in SIDE_SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                Path(target + suffix).rename(fresh + suffix)
                aside[target + suffix] = fresh + suffix
        sync_directory(target)
    except BaseException:
        _put_back(aside)
        raise
    return aside


def _put_back(aside: dict[str, str]) -> None:
    for name, moved in aside.items():
        Path(moved).rename(name)


def sync_directory(path: str) -> None:
    """Makes renames in the folder of `path` survive a power cut."""
    descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
