"""Asking the child process that opens SQLite databases, and putting its refusals into the project's errors."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dataguardian
from dataguardian.domain.errors import (
    DataGuardianError,
    DiskFullError,
    EngineError,
    NotAllowedError,
    NotFoundError,
    TargetInUseError,
    UsageError,
)
from dataguardian.engines.processes import ChildProcess
from dataguardian.interruption import unbroken
from dataguardian.settings import Settings

_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from dataguardian.engines.sqlite_child import main; main(sys.argv[1:])"
)
_ANSWER_BUFFER_BYTES = 64 * 1024

STAGING_HINT = "point DATAGUARDIAN_STAGING_DIR at a folder with more room"


class RefusalError(Exception):
    """What the child answered instead of a result; never leaves the SQLite engine."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def ask(action: str, *arguments: str) -> dict[str, Any]:
    """Runs one action of sqlite_child in a process of its own; raises RefusalError."""
    root = Path(dataguardian.__file__).parents[1]
    # -I and -S: no variable, no user's site folder and no .pth file decides what the child imports.
    argv: list[str | bytes] = [sys.executable, "-I", "-S", "-c", _PROGRAM, os.fsencode(root), action]
    argv += map(os.fsencode, arguments)
    with ChildProcess(argv, stdout=True) as child:
        output = b"".join(_read_all(child))
        code = child.wait()
        return _result(output, code, child.stderr_lines)


def _read_all(child: ChildProcess) -> Iterator[bytes]:
    buffer = memoryview(bytearray(_ANSWER_BUFFER_BYTES))
    while count := child.readinto(buffer):
        yield bytes(buffer[:count])


def _result(output: bytes, code: int, stderr_lines: list[str]) -> dict[str, Any]:
    if code == -signal.SIGALRM:
        raise RefusalError("timeout", "no answer in time")
    try:
        answer = json.loads(output) if code == 0 else {}
    except ValueError:
        answer = {}
    if "error" in answer:
        raise RefusalError(answer["error"], answer["message"])
    if "ok" not in answer:
        reason = stderr_lines[-1] if stderr_lines else "without a word"
        raise RefusalError("failed", f"the process that reads SQLite ended with code {code}: {reason}")
    return dict(answer["ok"])


@dataclass(frozen=True)
class _Meaning:
    """What a refusal means to the user. `error` None stands for what the caller was about: a dump or a restore."""

    error: type[DataGuardianError] | None
    message: str
    hint: str = ""


_ACCESS = _Meaning(
    NotAllowedError,
    "this user may not open the database {path}: {reason}",
    "SQLite needs to read the file, and to write in its folder when a -wal or -journal lies beside it",
)
_MEANINGS = {
    "missing": _Meaning(NotFoundError, "there is no database {path}", "check the path"),
    "denied": _ACCESS,
    "read_only": _ACCESS,
    "cannot_open": _ACCESS,
    "in_use": _Meaning(TargetInUseError, "the database {path} is in use: {reason}", "stop the application first"),
    "busy": _Meaning(
        None,
        "another process kept the database {path} locked",
        "try again when its long transaction has ended, or stop the application",
    ),
    "not_a_database": _Meaning(
        None,
        "{path} is not a SQLite database, or it is encrypted",
        "an encrypted database (SQLCipher, SEE) can be backed up as a file while its application is down",
    ),
    "damaged": _Meaning(
        None,
        "the database {path} is damaged, or was written by a newer SQLite than this one: {reason}",
        "restore an older backup, or salvage rows with `sqlite3 old.db .recover | sqlite3 new.db`",
    ),
    "staging_full": _Meaning(
        DiskFullError, "the staging folder has no room for the database {path}: {reason}", STAGING_HINT
    ),
    "full": _Meaning(DiskFullError, "the disk of {path} is full: {reason}", "make room there"),
}


def translated(refusal: RefusalError, path: str, failure: type[EngineError]) -> DataGuardianError:
    """Returns the error that users meet. `failure` is for what is wrong with the database, not with the access."""
    meaning = _MEANINGS.get(refusal.kind, _Meaning(None, "SQLite could not work with {path}: {reason}"))
    shown = shown_path(path)
    message = meaning.message.format(path=shown, reason=refusal)
    return (meaning.error or failure)(message, hint=meaning.hint, path=shown)


def shown_path(path: str) -> str:
    """Returns a path as people can read it: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_regular(path: str) -> os.stat_result | None:
    """Returns what lies at `path`, None for nothing, without opening it; raises UsageError for what is no file."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NotAllowedError(f"{shown_path(path)} cannot be looked at: {error.strerror}") from error
    if not Path(path).is_file():
        raise UsageError(f"{shown_path(path)} is not a file", hint="give the path of the database file itself")
    return status


@contextmanager
def staged_file() -> Iterator[tuple[int, str]]:
    """Creates an empty file, for this user only, in the staging folder; yields (descriptor, path) and removes it."""
    folder = Settings.from_environment().staging_dir
    descriptor, path = -1, ""
    try:
        with unbroken:
            descriptor, path = tempfile.mkstemp(prefix="dataguardian-", suffix=".sqlite", dir=folder)
        yield descriptor, path
    except OSError as error:
        if path:
            raise
        raise NotAllowedError(
            f"the staging folder {shown_path(str(folder))} cannot be written to: {error.strerror}",
            hint="point DATAGUARDIAN_STAGING_DIR at a folder that exists and is yours",
        ) from error
    finally:
        with unbroken:
            if path:
                os.close(descriptor)
                Path(path).unlink(missing_ok=True)
