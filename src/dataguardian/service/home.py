"""The home directory: who holds it, and since when."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import IO, Self

from dataguardian.domain.errors import ConflictError, NotAllowedError

LOCK = "lock"
NOTE = "newest-backup"
IDENTITY = "id"


class Home:
    """A home that is held. One process at a time: its lock proves that rows of other boots belong to the dead.

    `home_id` is made once and stays; `boot_id` is new each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot_id = uuid.uuid4().hex
        self.home_id = ""
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Raises ConflictError when another process holds it, NotAllowedError when it cannot be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.fdopen(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another DataGuardian runs on {self.path} (process {self._holder()})",
                hint="stop it first, or set DATAGUARDIAN_HOME to another directory",
            ) from error
        except OSError as error:
            raise NotAllowedError(
                f"the home directory {self.path} cannot be used: {error.strerror}",
                hint="give this user a directory of its own with DATAGUARDIAN_HOME",
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self.home_id = self._identity()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def folder(self, name: str) -> Path:
        """Returns a folder of the home, made when it is missing."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def _identity(self) -> str:
        path = self.path / IDENTITY
        if not path.exists():
            partial = path.with_suffix(".new")
            partial.write_text(uuid.uuid4().hex)
            partial.replace(path)
        return path.read_text().strip()

    def _holder(self) -> str:
        return (self.path / LOCK).read_text().strip() or "unknown"


def is_held(home: Path) -> bool:
    """Tells whether a process holds this home right now."""
    try:
        descriptor = os.open(home / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def identity(home: Path) -> str:
    """Returns the home's id; empty for one that no service has run on yet."""
    try:
        return (home / IDENTITY).read_text().strip()
    except OSError:
        return ""


def note_backup(home: Path, execution_id: uuid.UUID) -> None:
    """Remembers, outside the catalogue, the newest backup that was recorded: a catalogue without it is an older one."""
    path = home / NOTE
    partial = path.with_suffix(".new")
    partial.write_text(str(execution_id))
    partial.replace(path)


def noted_backup(home: Path) -> uuid.UUID | None:
    try:
        return uuid.UUID((home / NOTE).read_text().strip())
    except (OSError, ValueError):
        return None


def forget_note(home: Path) -> None:
    (home / NOTE).unlink(missing_ok=True)
