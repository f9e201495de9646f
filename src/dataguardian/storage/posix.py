"""Files and folders by descriptor, and what the system's error numbers mean to a storage.

Everything is opened relative to a folder that is open already and without following symbolic links: a link inside a
storage must not lead out of it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from dataguardian.domain.errors import (
    DataGuardianError,
    ObjectMissingError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.storage.direct import DirectWriter

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MISSING = {errno.ENOENT, errno.ENOTDIR}
_BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
_DENIED_HINTS = {
    errno.EACCES: "allow user {user} to read, write and enter it: chown -R {user} {root!r}",
    errno.EPERM: "allow user {user} to read, write and enter it, and look for immutable files: lsattr -R {root!r}",
    errno.EROFS: "the file system is mounted read-only: look at the system's log (dmesg), or remount it read-write",
    errno.ELOOP: "symbolic links inside a storage are not followed: make the folder that it leads to the storage",
    errno.EXDEV: "another file system is mounted inside the storage: make it a storage of its own",
    errno.EISDIR: "a folder lies where the object belongs: move it away",
    errno.EEXIST: "a file lies where a folder belongs: move it away",
}


def object_error(error: OSError, path: str, root: str, address: str) -> DataGuardianError:
    """Returns what a storage at `root` raises for an error at one of its objects ('' for the root)."""
    where = f"{shown(path)} in {address}" if path else address
    reason = f"{where}: {error.strerror or error}"
    if error.errno in _FULL:
        hint = "free some space there or delete old backups, then run it again"
        return StorageFullError(f"no room: {reason}", hint=hint, path=shown(path))
    if error.errno in _DENIED_HINTS:
        hint = _DENIED_HINTS[error.errno].format(user=os.geteuid(), root=root)
        return StorageDeniedError(f"not allowed: {reason}", hint=hint, path=shown(path))
    if error.errno in _MISSING:
        return ObjectMissingError(f"{where} does not exist", path=shown(path))
    if error.errno in _BAD_NAME:
        return UsageError(reason, hint="give it a shorter, plainer name", path=shown(path))
    return StorageTransientError(reason, hint="look at the system's log (dmesg)", path=shown(path))


def shown(path: str) -> str:
    """Returns `path` in a form that every terminal and log can take: names need not be UTF-8."""
    return path if path.isprintable() else ascii(path)


def _refuse_link(name: str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, f"{name!r} is a symbolic link, and those are not followed inside a storage")


def root_error(error: OSError, root: str, address: str) -> DataGuardianError:
    """Returns what is raised when the root itself cannot be opened. It is never created: a mount that is missing
    must not fill the disk beneath it.
    """
    if error.errno in (errno.ENOENT, errno.ENOTCONN):
        hint = f"mount it when it is a mount point, else: mkdir -p {root!r}"
        return StorageUnreachableError(f"the storage {address} does not exist", hint=hint)
    if error.errno == errno.ENOTDIR:
        hint = "give the address of a folder"
        return StorageDeniedError(f"the storage {address} is not a folder", hint=hint)
    return object_error(error, "", root, address)


def open_folder(parent: int, name: str, *, create: bool = False) -> int:
    """Returns a descriptor; raises FileNotFoundError, NotADirectoryError (FileExistsError when it is to be created)."""
    try:
        return os.open(name, _OPEN_FOLDER, dir_fd=parent)
    except NotADirectoryError as error:
        _refuse_link(name, os.stat(name, dir_fd=parent, follow_symlinks=False))
        if create:
            raise OSError(errno.EEXIST, f"{name!r} is a file where a folder belongs") from error
        raise


def object_size(parent: int, name: str) -> int:
    """Returns the size in bytes; raises FileNotFoundError for what is no object, such as a folder or a pipe."""
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    _refuse_link(name, found)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a file")
    return found.st_size


def open_object(parent: int, name: str) -> int:
    """Returns a descriptor for reading; raises what `object_size` raises."""
    object_size(parent, name)
    return os.open(name, _OPEN_FILE, dir_fd=parent)


def entry_size(entry: os.DirEntry[str]) -> int | None:
    """Returns the size in bytes; None for what is no object, or no longer there."""
    with suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else None
    return None


def write(root: int, name: str, view: memoryview, writer: DirectWriter) -> float:
    """Writes and syncs a new file; returns its time of change, which is the filesystem's own clock."""
    fd = os.open(name, _CREATE, 0o600, dir_fd=root)
    try:
        written = writer.write(fd, view)
        while written < view.nbytes:
            written += os.pwrite(fd, view[written:], written)
        os.fsync(fd)
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def read(fd: int, max_bytes: int) -> bytes:
    """Returns the file's bytes, at most one more than `max_bytes`; a usual object takes one read and no copy."""
    chunks: list[bytes] = []
    room = min(os.fstat(fd).st_size, max_bytes) + 1
    while room > 0 and (chunk := os.read(fd, room)):
        chunks.append(chunk)
        room -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def sync_folder(fd: int) -> None:
    """Makes the names in a folder durable, as far as its file system knows how to (CIFS and some FUSE do not)."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def changed_before(entry: os.DirEntry[str], moment: float) -> bool:
    return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < moment
