"""Restoring a SQLite database: written and checked beside the target, then put into its place at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataguardian.domain.errors import (
    DataGuardianError,
    DiskFullError,
    NotAllowedError,
    NotFoundError,
    RestoreFailedError,
    TargetInUseError,
    TargetNotEmptyError,
    UsageError,
)
from dataguardian.engines.base import RestoreOptions, RestoreStream
from dataguardian.engines.sqlite.process import RefusalError, ask, check_regular, shown_path, translated
from dataguardian.engines.sqlite_child.replacing import SIDE_SUFFIXES, sync_directory
from dataguardian.interruption import unbroken

STREAM_KIND = "sqlite"
_NAME_BYTES = 200
"""Of the target's name in the temporary file's, so that a suffix still fits into the 255 of a file name."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def prepare(path: str, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
    """Checks what `Engine.prepare_restore` promises; changes nothing."""
    kinds = [kind for _, kind in streams]
    if kinds != [STREAM_KIND]:
        raise UsageError(
            f"a SQLite database is restored from one stream of kind {STREAM_KIND}, not from: {', '.join(kinds)}",
            hint="choose one with --stream",
        )
    target = os.path.realpath(path)
    _check_folder(Path(target).parent)
    if check_regular(target) is None:
        _check_leftovers(target, options)
    elif not options.drop_existing:
        raise _occupied(target)
    else:
        try:
            ask("refuse_in_use", target)
        except RefusalError as refusal:
            raise translated(refusal, path, RestoreFailedError) from refusal


def restore(path: str, streams: Iterator[RestoreStream], options: RestoreOptions) -> list[str]:
    """Does what `Engine.restore` promises; returns warnings. A symbolic link stays one: the file that it means is
    replaced.
    """
    target = os.path.realpath(path)
    left = _left_beside(target)
    with _file_beside(target) as fresh:
        stream = next(streams, None)
        if stream is None or stream.kind != STREAM_KIND:
            raise UsageError(f"the backup has no stream of kind {STREAM_KIND} to restore")
        _write(fresh, stream)
        _examine(fresh)
        if next(streams, None) is not None:
            raise UsageError("a SQLite database is restored from one stream only", hint="choose one with --stream")
        _dress(fresh, stream.metadata)
        options.before_swap()
        return [*left, *_publish(fresh, target, options)]


def _left_beside(target: str) -> list[str]:
    """Names what restores left that were killed."""
    folder, beginning, names = Path(target).parent, _beside(target), list[str]()
    with suppress(OSError):  # a folder may be written to and not be listed
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.startswith(beginning))
    return [
        f"an interrupted restore left {shown_path(str(folder / name))}; remove it when no restore is running"
        for name in names
    ]


def _beside(target: str) -> str:
    """Returns what the names of all files begin with that restores into this target make beside it."""
    name = os.fsdecode(os.fsencode(Path(target).name)[:_NAME_BYTES])
    return f".{name}.dataguardian-"


@contextmanager
def _file_beside(target: str) -> Iterator[str]:
    """Yields the path of a new empty file in the target's folder, and removes it unless it was renamed."""
    fresh = Path(target).with_name(_beside(target) + os.urandom(6).hex())
    try:
        with _disk_errors(target):
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        yield str(fresh)
    finally:
        with unbroken:
            fresh.unlink(missing_ok=True)


def _write(fresh: str, stream: RestoreStream) -> None:
    size_bytes = 0
    # Closed before the file gets its name: from then on, closing it would drop the locks of this process on it.
    with open(fresh, "wb", buffering=0) as file:  # noqa: PTH123 -- unbuffered, and the path is a str
        for chunk in stream.chunks():
            with _disk_errors(fresh):
                write_all(file.fileno(), chunk)
            size_bytes += len(chunk)
        with _disk_errors(fresh):
            os.fsync(file.fileno())
    if size_bytes != stream.size_bytes:
        raise RestoreFailedError(f"the backup gave {size_bytes} bytes instead of {stream.size_bytes}")


def write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _examine(fresh: str) -> None:
    """The bytes are those of the backup, whose pages were checked when it was taken; this finds what came after."""
    try:
        ask("examine", fresh, "quick_check")
    except RefusalError as refusal:
        raise RestoreFailedError(
            f"the restored database is not sound: {refusal}", hint="restore another backup; the target is unchanged"
        ) from refusal


def _dress(fresh: str, metadata: dict[str, Any]) -> None:
    """Gives the file the mode it had, and its owner where this user may: root only, as with tar."""
    uid, gid, mode = (metadata.get(key) for key in ("uid", "gid", "mode"))
    if os.geteuid() == 0 and isinstance(uid, int) and isinstance(gid, int):
        try:
            os.chown(fresh, uid, gid)
        except OSError as error:
            # A container's root may lack the right, or the number may mean nothing in it.
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise RestoreFailedError(f"cannot set the owner of {shown_path(fresh)}: {error.strerror}") from error
    Path(fresh).chmod(mode & 0o777 if isinstance(mode, int) else 0o600)


def _publish(fresh: str, target: str, options: RestoreOptions) -> list[str]:
    if options.drop_existing and check_regular(target) is not None:
        return _replace(fresh, target)
    _check_leftovers(target, options)
    with _disk_errors(target):
        for suffix in SIDE_SUFFIXES if options.drop_existing else ():
            Path(target + suffix).unlink(missing_ok=True)
        _link(fresh, target)
        sync_directory(target)
    return []


def _replace(fresh: str, target: str) -> list[str]:
    try:
        return list(ask("replace", target, fresh)["warnings"])
    except RefusalError as refusal:
        if refusal.kind == "busy":
            raise TargetInUseError(
                f"the database {shown_path(target)} is in use", hint="stop the application that has it open first"
            ) from refusal
        raise translated(refusal, target, RestoreFailedError) from refusal


def _link(fresh: str, target: str) -> None:
    """A link never overwrites, whatever appeared in the meantime; where there are none, a look has to do."""
    try:
        os.link(fresh, target)
    except FileExistsError as error:
        raise _occupied(target) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise _occupied(target) from error
        Path(fresh).rename(target)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {shown_path(str(folder))}", hint="create it, then restore again")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise NotAllowedError(f"this user may not write in {shown_path(str(folder))}")


def _check_leftovers(target: str, options: RestoreOptions) -> None:
    """A log that an earlier database left behind would be replayed onto the new one, by whoever opens it."""
    sides = [side for suffix in SIDE_SUFFIXES if _has_bytes(side := Path(target + suffix)) and suffix != "-shm"]
    if sides and not options.drop_existing:
        raise TargetNotEmptyError(
            f"{shown_path(target)} is gone, but {shown_path(sides[0].name)} of it is still there",
            hint="move it away, or give --drop-existing (drop_existing) to have it removed",
        )


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _occupied(target: str) -> TargetNotEmptyError:
    return TargetNotEmptyError(
        f"{shown_path(target)} already exists",
        hint="restore to another path, or give --drop-existing (drop_existing) to replace it",
        path=shown_path(target),
    )


@contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path, "make room there, or restore to another disk") from error


def disk_error(error: OSError, path: str, hint: str) -> DataGuardianError:
    """Returns the error that users meet when writing below the folder of `path` failed."""
    folder = shown_path(str(Path(path).parent))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"the disk is full at {folder}", hint=hint, path=folder)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotAllowedError(f"this user may not write in {folder}: {error.strerror}", path=folder)
    return RestoreFailedError(f"cannot write in {folder}: {error.strerror}", path=folder)
