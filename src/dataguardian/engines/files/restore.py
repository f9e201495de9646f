"""Unpacking an archive beside its target, and swapping the two."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dataguardian.domain.errors import (
    DataGuardianError,
    DiskFullError,
    NotAllowedError,
    NotFoundError,
    RestoreFailedError,
    TargetNotEmptyError,
    UsageError,
)
from dataguardian.engines.files.inspect import Privileges, feed_inspected
from dataguardian.engines.files.tar import Tar, is_below, mounts
from dataguardian.engines.processes import ChildProcess
from dataguardian.interruption import undoing

# Paths are strings with surrogate escapes, made by os.path: pathlib would not add anything here.
# ruff: noqa: PTH102, PTH112, PTH116, PTH118, PTH119, PTH120 -- see above

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
_FULL = re.compile(r"No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes?")
_NOT_ALLOWED = re.compile(r"Operation not permitted|Permission denied")
_INHERITED = ("system.posix_acl_default", "system.posix_acl_access")
_MAX_NAME_BYTES = 255
_MARK = ".dataguardian-"
_MAX_COMPLAINTS = 10


@dataclass(frozen=True)
class Target:
    """The folder that a restore replaces. `path` is absolute, its parent is free of links."""

    path: str
    exists: bool
    empty: bool

    @property
    def parent(self) -> str:
        return os.path.dirname(self.path)


def inspect_target(path: str, *, drop_existing: bool) -> Target:
    """Returns the target when it can be restored to; raises UsageError, TargetNotEmptyError or AccessError."""
    name = os.path.basename(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise UsageError(f"{path!a} cannot be a restore's target", hint="name a folder below it")
    parent = os.path.realpath(os.path.dirname(path.rstrip("/")))
    _check_parent(parent)
    target = _look_at(os.path.join(parent, name))
    _refuse_mounts(target)
    if not target.empty and not drop_existing:
        raise TargetNotEmptyError(
            f"{path!a} is not empty",
            hint="restore to a new folder, or give --drop-existing (drop_existing)",
        )
    return target


def restore_archive(
    tar: Tar, target: Target, chunks: Iterator[bytes], *, before_swap: Callable[[], None], privileges: Privileges
) -> list[str]:
    """Unpacks `chunks` and puts the result in the target's place; whatever goes wrong leaves the target as it was.

    What `privileges` do not have is left out. Returns warnings.
    """
    staging, left = _staging_path(target), _leftovers(target)
    try:
        _make_staging(staging)
        warnings = [*left, *_extract(tar, staging, chunks, privileges=privileges)]
        _sync(staging)
        before_swap()
        _swap(staging, target)
    except BaseException as error:
        with undoing():
            if not remove_tree(staging):
                error.add_note(f"{staging!a} could not be removed")
        raise
    return [*warnings, *_sync_folder(target.parent), *_remove_former(target, staging)]


def remove_tree(path: str) -> bool:
    """Removes a folder and everything in it, folders without write permission too; never leaves its file system.

    Returns whether it is gone, which it may have been before.
    """
    if not os.path.lexists(path):
        return True
    command: list[str | bytes] = ["rm", "-rf", "--one-file-system", "--", os.fsencode(path)]
    if _run(command):
        return True
    _run(["chmod", "-R", "u+rwX", "--", os.fsencode(path)])
    return _run(command)


def _run(argv: list[str | bytes]) -> bool:
    with ChildProcess(argv) as child:
        return child.wait() == 0


def _check_parent(parent: str) -> None:
    if not os.path.isdir(parent):
        raise NotFoundError(f"there is no folder {parent!a} to restore into", hint="create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise NotAllowedError(
            f"{parent!a} cannot be written to", hint="restore as a user that may, or to another folder"
        )


def _look_at(path: str) -> Target:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return Target(path, exists=False, empty=True)
    except OSError as error:
        raise NotAllowedError(f"{path!a} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a folder"
        raise UsageError(f"{path!a} is {kind}", hint="name the folder itself, or one that does not exist yet")
    if status.st_dev != os.stat(os.path.dirname(path)).st_dev:
        raise _mounted(path)
    try:
        return Target(path, exists=True, empty=not os.listdir(path))  # noqa: PTH208 -- see above
    except PermissionError as error:
        raise NotAllowedError(f"{path!a} cannot be read", hint="restore as a user that may") from error


def _refuse_mounts(target: Target) -> None:
    """A mount point cannot be renamed, and one inside would be emptied with the former content."""
    for mount in mounts():
        if is_below(mount.point, target.path):
            raise _mounted(mount.point)


def _mounted(path: str) -> UsageError:
    return UsageError(
        f"{path!a} is a mount point, which a restore cannot replace",
        hint="restore to a folder below it or beside it, then move the content",
    )


def _staging_path(target: Target) -> str:
    return os.path.join(target.parent, _staging_name(target) + os.urandom(6).hex())


def _staging_name(target: Target) -> str:
    """Returns what the names of all folders begin with that restores into this target make beside it."""
    name = os.fsencode("." + os.path.basename(target.path))[: _MAX_NAME_BYTES - len(_MARK) - 2 * 6]
    return os.fsdecode(name) + _MARK


def _leftovers(target: Target) -> list[str]:
    """Names what restores left that were killed. Only people can tell what of it may go: after the swap it is what the
    target held before.
    """
    beginning, names = _staging_name(target), list[str]()
    with contextlib.suppress(OSError):  # a folder may be written to and not be listed
        names = sorted(name for name in os.listdir(target.parent) if name.startswith(beginning))  # noqa: PTH208 -- see above
    return [
        f"an interrupted restore left {os.path.join(target.parent, name)!a}; remove it when no restore is running"
        for name in names
    ]


def _make_staging(staging: str) -> None:
    try:
        os.mkdir(staging, 0o700)
    except OSError as error:
        raise _translated(error, f"{staging!a} cannot be made") from error
    for attribute in _INHERITED:
        with contextlib.suppress(OSError):
            os.removexattr(staging, attribute)


def _extract(tar: Tar, staging: str, chunks: Iterator[bytes], *, privileges: Privileges) -> list[str]:
    complaints: list[str] = []
    warnings: list[str] = []

    def complain(line: str) -> None:
        if len(complaints) < _MAX_COMPLAINTS:
            complaints.append(line.removeprefix(f"{tar.path}: "))

    command = tar.extract_command(staging, capabilities=privileges != "none")
    with ChildProcess(command, env=tar.environment(), stdin=True, on_stderr=complain) as child:
        try:
            warnings = feed_inspected(chunks, child.write, stop=lambda: bool(complaints), privileges=privileges)
        except BrokenPipeError:
            complain("tar went away before the end of the archive")
        if not complaints:
            child.close_stdin()
        code = child.wait() if not complaints else None
        if code == 0 and not complaints:
            return warnings
    if code is not None:
        complain(f"tar ended with code {code}")
    raise _failed(complaints)


def _failed(complaints: list[str]) -> DataGuardianError:
    """Made of everything that tar said until it was stopped: the first line tells what went wrong."""
    text = "; ".join(complaints[:3])
    if any(_FULL.search(line) for line in complaints):
        return DiskFullError(
            f"no room for the restored files: {text}", hint="make room, or restore to another disk; nothing was changed"
        )
    hint = "the target was not changed; the manifest says how to restore by hand"
    if any(_NOT_ALLOWED.search(line) for line in complaints):
        hint = f"restore as root, or onto a file system that can hold this; {hint}"
    return RestoreFailedError(f"tar could not restore the files: {text}", hint=hint)


def _sync(staging: str) -> None:
    """Waits until the file system has everything on disk; the errors of delayed writes show up here."""
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            raise _translated(error, "the restored files could not be written to disk") from error
    finally:
        os.close(descriptor)


def _sync_folder(path: str) -> list[str]:
    """The swap has happened already, so an error is a warning."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return [f"{path!a} could not be flushed to the disk: {error.strerror}"]
    return []


def _remove_former(target: Target, staging: str) -> list[str]:
    if remove_tree(staging):
        return []
    return [f"the former content of {target.path!a} could not be removed: it lies in {staging!a}"]


def _swap(staging: str, target: Target) -> None:
    """Puts `staging` in the target's place; afterwards `staging` is gone, or holds the former content."""
    try:
        if target.empty:
            os.rename(staging, target.path)  # noqa: PTH104 -- see above
        else:
            _exchange(staging, target.path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise TargetNotEmptyError(
                f"{target.path!a} was filled by somebody during the restore", hint="look at it, then restore again"
            ) from error
        raise _translated(error, f"{target.path!a} could not be replaced") from error


def _exchange(staging: str, path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = os.fsencode(staging), os.fsencode(path)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NO_EXCHANGE:
            raise OSError(number, os.strerror(number))
    _exchange_in_steps(staging, path)


def _exchange_in_steps(staging: str, path: str) -> None:
    """For file systems that cannot exchange: the target is missing for a moment, and comes back if that fails."""
    aside = f"{staging}-former"
    os.rename(path, aside)  # noqa: PTH104 -- see above
    try:
        os.rename(staging, path)  # noqa: PTH104 -- see above
    except BaseException:
        os.rename(aside, path)  # noqa: PTH104 -- see above
        raise
    os.rename(aside, staging)  # noqa: PTH104 -- see above


def _translated(error: OSError, what: str) -> DataGuardianError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{what}: {error.strerror}", hint="make room, or restore to another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotAllowedError(f"{what}: {error.strerror}", hint="restore as a user that may write there")
    return RestoreFailedError(f"{what}: {error.strerror}", hint="restore to a new folder beside it")
