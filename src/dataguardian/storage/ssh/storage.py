"""The storage on top of a link, and what the errors of SFTP mean to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import asyncssh

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    NotAllowedError,
    ObjectMissingError,
    StorageConnectionError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UnreachableError,
    UsageError,
)
from dataguardian.storage.base import Data, Storage, StoredObject, checked_path
from dataguardian.storage.ssh.link import Link, LostError, Session
from dataguardian.storage.ssh.remote import Entry, Remote, shown
from dataguardian.storage.temporary import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from dataguardian.storage.ssh import SshConfig

T = TypeVar("T")

MAX_NAME_BYTES = 255
FOLDERS_AT_ONCE = 8

_Segments = tuple[str, ...]
_MISSING = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_DENIED = (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect, asyncssh.SFTPOpUnsupported)
_FULL = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)


class SshStorage(Storage):
    def __init__(self, config: SshConfig) -> None:
        self._address = config.describe()
        self._user = config.username or "that user"
        self._link = Link(config.target, config.timeout_seconds)
        self._remote = Remote(config.folder, self._address)

    def put(self, path: str, data: Data) -> None:
        segments = _segments(path)
        view = memoryview(data).cast("B")
        self._call(segments, lambda session: self._remote.put(session, segments, view))

    def get(self, path: str, max_bytes: int) -> bytes:
        segments = _segments(path)
        return self._call(segments, lambda session: self._remote.get(session, segments, max_bytes))

    def stat(self, path: str) -> StoredObject:
        segments = _segments(path)
        found = self._call(segments, lambda session: self._remote.stat(session, segments))
        return StoredObject(path, found.size_bytes)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._walk(_segments(prefix) if prefix else ())

    def folders(self, prefix: str = "") -> Iterator[str]:
        return self._subfolders(_segments(prefix) if prefix else ())

    def delete(self, path: str) -> None:
        segments = _segments(path)
        self._call(segments, lambda session: self._remote.delete(session, segments))

    def discard(self, directory: str) -> None:
        self._call((), lambda session: self._remote.discard(session, directory))

    def free_space(self) -> int | None:
        return self._call((), self._remote.free_space)

    def _walk(self, top: _Segments) -> Iterator[StoredObject]:
        waiting = [top] if self._is_folder(top) else []
        while waiting:
            batch, waiting = waiting[-FOLDERS_AT_ONCE:], waiting[:-FOLDERS_AT_ONCE]
            for folder, entries in zip(batch, self._entries(batch), strict=True):
                waiting += [(*folder, entry.name) for entry in entries if entry.is_folder]
                for entry in entries:
                    if entry.is_object:
                        yield StoredObject("/".join((*folder, entry.name)), entry.size_bytes)

    def _subfolders(self, top: _Segments) -> Iterator[str]:
        if self._is_folder(top):
            for entry in self._entries([top])[0]:
                if entry.is_folder and not entry.name.startswith("."):
                    yield entry.name

    def _is_folder(self, folder: _Segments) -> bool:
        async def look(session: Session) -> bool:
            if await self._remote.is_folder(session, folder):
                return True
            await self._remote.require_root(session)
            return False

        return self._call(folder, look)

    def _entries(self, folders: Sequence[_Segments]) -> Sequence[Sequence[Entry]]:
        async def scan(session: Session) -> Sequence[Sequence[Entry]]:
            return await asyncio.gather(*(self._remote.entries(session, folder) for folder in folders))

        return self._call(folders[0], scan)

    def _call(self, path: _Segments, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        try:
            return self._link.call(work)
        except LostError as error:
            raise self._lost(error.__cause__ or error) from error.__cause__
        except (asyncssh.SFTPError, asyncssh.ChannelOpenError) as error:
            raise self._translated(error, path) from error
        except (AuthenticationError, NotAllowedError) as error:
            raise StorageDeniedError(error.message, hint=error.hint, **error.details) from error
        except UnreachableError as error:
            no_such_host = isinstance(error.__cause__, socket.gaierror)
            kind = StorageUnreachableError if no_such_host else StorageConnectionError
            raise kind(error.message, hint=error.hint) from error

    def _lost(self, error: BaseException) -> StorageConnectionError:
        reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
        return StorageConnectionError(
            f"the connection to {self._address} was lost: {reason}", hint="check the network, or raise timeout_seconds"
        )

    def _translated(self, error: asyncssh.Error, path: _Segments) -> DataGuardianError:
        where = f"{shown(path)} in {self._address}" if path else self._address
        reason = f"{where}: {error.reason}"
        if isinstance(error, _MISSING):
            return ObjectMissingError(f"{where} does not exist", path=shown(path))
        if isinstance(error, _DENIED):
            hint = f"let {self._user} read, write and enter the folder, on the server (ls -ld, chown, chmod)"
            return StorageDeniedError(f"not allowed: {reason}", hint=hint, path=shown(path))
        if isinstance(error, _FULL):
            hint = "free some space there or delete old backups, then run it again"
            return StorageFullError(f"no room: {reason}", hint=hint, path=shown(path))
        hint = "SFTP says no more than that: look at the server's log, its disks and the user's quota"
        return StorageTransientError(f"the server failed at {reason}", hint=hint, path=shown(path))


def _segments(path: str) -> _Segments:
    segments = tuple(checked_path(path).split("/"))
    if any(segment.startswith(TEMPORARY_PREFIX) for segment in segments):
        raise UsageError(f"{path!r}: names that begin with {TEMPORARY_PREFIX} are kept for temporary files")
    if any(len(segment.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES for segment in segments):
        raise UsageError(f"{shown(segments)}: a name is longer than {MAX_NAME_BYTES} bytes", hint="give a shorter one")
    return segments
