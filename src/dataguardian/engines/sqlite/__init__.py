"""SQLite databases: a consistent snapshot while writers write, and a restore that never leaves half a file.

A live database file is opened through SQLite only, and only in a child process (sqlite_child): closing it by any other
way in this process would drop the locks that this process holds on it. The snapshot is staged on disk, for SQLite
cannot dump a database page by page into a pipe; its name is gone from the folder before its first byte is read here.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator

from dataguardian.domain.errors import (
    DumpFailedError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    UsageError,
)
from dataguardian.domain.urls import Url, absolute_path
from dataguardian.engines.base import (
    CheckStatus,
    DumpOptions,
    DumpStream,
    Engine,
    EngineAdapter,
    EngineConfig,
    Inventory,
    ProbeResult,
    RestoreOptions,
    RestoreStream,
    ToolVersion,
)
from dataguardian.engines.sqlite import restore
from dataguardian.engines.sqlite.process import (
    STAGING_HINT,
    RefusalError,
    ask,
    check_regular,
    shown_path,
    staged_file,
    translated,
)
from dataguardian.engines.sqlite.restore import STREAM_KIND, disk_error, write_all
from dataguardian.registry import ClientProgram

MAGIC = b"SQLite format 3\x00"
"""The first bytes of every database (https://sqlite.org/fileformat.html#magic_header_string)."""
BUSY_WAIT_SECONDS = 60.0
"""How long a snapshot waits for a writer that holds the database exclusively."""
PROBE_LIMIT_SECONDS = 10

_PROBE_STATUS: dict[str, CheckStatus] = {
    "busy": "timeout",
    "timeout": "timeout",
    "missing": "unreachable",
    "denied": "auth_failed",
    "cannot_open": "auth_failed",
    "read_only": "auth_failed",
}


class SqliteConfig(EngineConfig):
    """`file_path` is absolute; bytes of it that are not UTF-8 are surrogate escapes, as from os.fsdecode."""

    type: Literal["sqlite"] = "sqlite"
    file_path: str

    @field_validator("file_path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not path.startswith("/") or "\x00" in path:
            raise ValueError("must be an absolute path")
        return path

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes `sqlite:///absolute/path.db`."""
        path = absolute_path(url)
        if path.endswith("/"):
            raise UsageError(f"{url} names a folder, not a database file", hint="write sqlite:///absolute/file.db")
        if url.query:
            raise UsageError(f"{url} has options, and SQLite has none", hint="write a ? in a file name as %3F")
        return cls(file_path=path)

    def describe(self) -> str:
        return str(Url("sqlite", path=self.file_path))

    def default_name(self) -> str:
        return shown_path(Path(self.file_path).stem)


class SqliteEngine(Engine):
    def __init__(self, config: SqliteConfig) -> None:
        self._path = config.file_path
        self._name = config.default_name()
        self._warnings: list[str] = []

    @property
    def local_path(self) -> str:
        return self._path

    def check(self) -> ProbeResult:
        try:
            _require_source(self._path)
            facts = ask("probe", self._path, str(PROBE_LIMIT_SECONDS))
        except RefusalError as refusal:
            error = translated(refusal, self._path, DumpFailedError)
            return ProbeResult(_PROBE_STATUS.get(refusal.kind, "error"), error.message)
        except NotFoundError as error:
            return ProbeResult("unreachable", error.message)
        except NotAllowedError as error:
            return ProbeResult("auth_failed", error.message)
        except UsageError as error:
            return ProbeResult("error", error.message)
        return ProbeResult("ok", metadata=facts)

    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        if options.include or options.exclude:
            raise UsageError("a SQLite backup takes no --include or --exclude: it is the whole database")
        _require_source(self._path)
        yield _Snapshot(self._path, self._name)

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        restore.prepare(self._path, streams, options)

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        self._warnings = restore.restore(self._path, streams, options)

    @property
    def warnings(self) -> list[str]:
        return list(self._warnings)

    def inventory(self) -> Inventory:
        _require_source(self._path)
        try:
            return Inventory(items=ask("count", self._path, str(BUSY_WAIT_SECONDS)))
        except RefusalError as refusal:
            raise translated(refusal, self._path, DumpFailedError) from refusal

    @property
    def tools(self) -> list[ToolVersion]:
        return [ToolVersion("sqlite", sqlite3.sqlite_version)]


class _Snapshot:
    """The database's one stream: entering it takes the snapshot, leaving it frees the disk."""

    kind = STREAM_KIND

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self.size_hint_bytes: int | None = None
        self.restore_by_hand = ["cat > restored.db && sqlite3 restored.db 'PRAGMA integrity_check'"]
        self.metadata: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._path = path
        self._stack = ExitStack()
        self._head = b""
        self._read_bytes = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._descriptor, staged = stack.enter_context(staged_file())
            try:
                facts = ask("snapshot", self._path, staged, str(BUSY_WAIT_SECONDS))
            except RefusalError as refusal:
                raise translated(refusal, self._path, DumpFailedError) from refusal
            self.warnings = facts.pop("warnings")
            self.metadata = facts
            self.size_hint_bytes = facts["page_count"] * facts["page_size"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def readinto(self, buffer: memoryview) -> int:
        count = os.readv(self._descriptor, [buffer])
        if self._read_bytes < len(MAGIC):
            self._head += bytes(buffer[: min(count, len(MAGIC))])
        self._read_bytes += count
        return count

    def finish(self) -> None:
        if self._read_bytes != self.size_hint_bytes or not self._head.startswith(MAGIC):
            raise DumpFailedError(
                f"the snapshot of {shown_path(self._path)} gave {self._read_bytes} bytes, not the database's "
                f"{self.size_hint_bytes}",
                hint="something else changed the staging folder; run the backup again",
            )


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:
    """Stages the stream and has SQLite check all of it, indexes included; see StreamValidator.

    Raises DiskFullError when the staging folder has no room, and whatever `chunks` raises.
    """
    if kind != STREAM_KIND:
        raise IntegrityError(f"a stream of kind {kind} is no SQLite database")
    with staged_file() as (descriptor, staged):
        for chunk in chunks:
            try:
                write_all(descriptor, chunk)
            except OSError as error:
                raise disk_error(error, staged, STAGING_HINT) from error
        try:
            facts = ask("examine", staged, "integrity_check")
        except RefusalError as refusal:
            raise IntegrityError(f"this is not a sound SQLite database: {refusal}") from refusal
    if any(facts[key] != metadata[key] for key in ("page_count", "page_size") if key in metadata):
        raise IntegrityError("this is not the SQLite database that was backed up: it has another size")


def _require_source(path: str) -> None:
    """Looks without opening; raises NotFoundError, NotAllowedError or UsageError."""
    if check_regular(path) is None:
        raise NotFoundError(f"there is no database {shown_path(path)}", hint="check the path", path=shown_path(path))
    if not os.access(path, os.R_OK):
        raise NotAllowedError(f"this user may not read {shown_path(path)}", path=shown_path(path))


def _programs() -> list[ClientProgram]:
    return [ClientProgram("sqlite (Python's)", sqlite3.__file__, sqlite3.sqlite_version, install="comes with Python")]


ADAPTER = EngineAdapter(
    type="sqlite",
    schemes=("sqlite",),
    example="sqlite:///absolute/path.db",
    config=SqliteConfig,
    build=SqliteEngine,
    validate=validate,
    programs=_programs,
)
