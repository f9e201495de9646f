"""A folder of this machine, or of anything that is mounted on it: `file:///absolute/folder`.

An object is a file below the root. A put writes a temporary file in the root itself, syncs it, moves it to its name and
syncs the folders, so that an object is absent or whole whatever is killed when, and durable when `put` returns. A
killed put leaves its temporary file; no method shows it. `discard` removes it, or a later put once it is a day old.

Nothing below the root is reached through a symbolic link (the root itself may be one), and `lost+found` is not ours.
Calls take as long as the kernel lets them: a hard-mounted network folder whose server is gone waits for it. A `delete`
is not synced: after a power cut an object may be back.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, ValidationError

from dataguardian.domain.errors import (
    DataGuardianError,
    IntegrityError,
    ObjectMissingError,
    StorageDeniedError,
    StorageFullError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.sizes import format_size
from dataguardian.domain.urls import Url, absolute_path
from dataguardian.storage import posix as files
from dataguardian.storage.base import Data, Storage, StorageAdapter, StorageConfig, StoredObject, checked_path
from dataguardian.storage.byhand import ByHand, quoted
from dataguardian.storage.direct import DirectWriter
from dataguardian.storage.temporary import TEMPORARY, TEMPORARY_PREFIX, is_temporary_of, temporary_name

STALE_SECONDS = 24 * 3600
SWEEP_SECONDS = 3600

_FOREIGN = "lost+found"
_RACES = 1000
"""How often a put makes a folder again that deletes of other objects keep removing."""


def _absolute(value: object) -> str:
    """Accepts any absolute path, also one with surrogate escapes, which pydantic's own `str` refuses."""
    if not isinstance(value, str) or not value.startswith("/") or "\x00" in value:
        raise ValueError("must be an absolute path")
    return value.rstrip("/") or "/"


class LocalConfig(StorageConfig):
    """A folder. `max_size_gb` (in 10^9 bytes) bounds what may be kept in it; None means the disk does."""

    type: Literal["local"] = "local"
    path: Annotated[str, PlainValidator(_absolute)]
    max_size_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @classmethod
    def from_url(cls, url: Url) -> Self:
        path = absolute_path(url)
        unknown = sorted(url.query.keys() - {"max_size_gb", "bandwidth_limit_mbps"})
        if unknown:
            known = "known: max_size_gb, bandwidth_limit_mbps"
            raise UsageError(f"a file:// storage has no option {unknown[0]!r}", hint=known)
        try:
            return cls.model_validate({"path": path, **url.query})
        except ValidationError as error:
            wrong = error.errors()[0]["loc"][0]
            raise UsageError(
                f"{wrong}={url.query.get(str(wrong))!r} is not a number above 0", hint="write ?max_size_gb=500"
            ) from error

    def describe(self) -> str:
        return str(Url(scheme="file", path=self.path))

    def by_hand(self, known_hosts: str = "") -> ByHand:  # noqa: ARG002 -- a folder needs none
        folder = quoted(f"{self.path.rstrip('/')}/")
        return ByHand(
            "cp",
            [f'mkdir -p "./$1" && cp -R {folder}"$1"/. "./$1"'],
            [f'ls -1 {folder}"$1"'],
            notes=["a disk that is mounted elsewhere now: write its folder into these two commands"],
        )


class LocalStorage(Storage):
    def __init__(self, config: LocalConfig) -> None:
        self._root = config.path
        self._address = config.describe()
        self._identity: tuple[int, int] | None = None
        self._durable: set[str] = set()
        self._swept_at = -math.inf
        self._writer = DirectWriter()
        limit_gb = config.max_size_gb
        self._quota = None if limit_gb is None else _Quota(int(limit_gb * 10**9), self._count, self._address)

    @property
    def local_path(self) -> str:
        return self._root

    def put(self, path: str, data: Data) -> None:
        segments = _segments(path)
        view = memoryview(data).cast("B")
        with self._translated(path), self._folder(()) as root, self._reserved(segments, view.nbytes):
            temporary = temporary_name(path)
            try:
                self._sweep(root, files.write(root, temporary, view, self._writer))
                self._move(root, temporary, segments)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=root)
                self._prune(segments[:-1])
                raise

    def get(self, path: str, max_bytes: int) -> bytes:
        segments = _segments(path)
        with self._translated(path), self._opened(segments) as fd:
            data = files.read(fd, max_bytes) if os.fstat(fd).st_size <= max_bytes else None
        if data is None or len(data) > max_bytes:
            raise IntegrityError(
                f"{files.shown(path)} in {self._address} is larger than the {max_bytes} bytes it may have at most",
                path=files.shown(path),
            )
        return data

    def stat(self, path: str) -> StoredObject:
        segments = _segments(path)
        with self._translated(path), self._folder(segments[:-1]) as folder:
            return StoredObject(path, files.object_size(folder, segments[-1]))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._walk(_segments(prefix) if prefix else ())

    def folders(self, prefix: str = "") -> Iterator[str]:
        return self._subfolders(_segments(prefix) if prefix else ())

    def delete(self, path: str) -> None:
        segments = _segments(path)
        with suppress(ObjectMissingError):
            size_bytes = self.stat(path).size_bytes
            with self._translated(path), self._folder(segments[:-1]) as folder:
                os.unlink(segments[-1], dir_fd=folder)
            if self._quota is not None:
                self._quota.give_back(size_bytes)
        self._prune(segments[:-1])

    def discard(self, directory: str) -> None:
        with self._translated(directory), self._folder(()) as root, os.scandir(root) as entries:
            for entry in entries:
                if is_temporary_of(entry.name, directory):
                    with suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=root)

    def free_space(self) -> int:
        with self._translated(), self._folder(()) as root:
            disk = os.fstatvfs(root)
        free = disk.f_bavail * disk.f_frsize
        return free if self._quota is None else min(free, self._quota.left())

    def _size(self, segments: Sequence[str]) -> int:
        try:
            return self.stat("/".join(segments)).size_bytes
        except (ObjectMissingError, StorageDeniedError):  # a link is no object; a put would replace it
            return 0

    def _count(self) -> int:
        return sum(entry.size_bytes for entry in self._walk(()))

    @contextmanager
    def _reserved(self, segments: Sequence[str], size_bytes: int) -> Iterator[None]:
        """Takes room within `max_size_gb` before a byte is written, and gives it back when the put fails."""
        if self._quota is None:
            yield
            return
        growth_bytes = size_bytes - self._size(segments)
        self._quota.take(growth_bytes)
        try:
            yield
        except BaseException:
            self._quota.give_back(growth_bytes)
            raise

    @contextmanager
    def _folder(self, segments: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Opens a folder below the root one name at a time, so that no link on the way is followed."""
        fd = self._open_root()
        try:
            for depth, name in enumerate(segments, 1):
                inner = self._enter(fd, segments[:depth]) if create else files.open_folder(fd, name)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _enter(self, parent: int, segments: Sequence[str]) -> int:
        """Opens a folder, and makes it when it is missing; raises FileNotFoundError when `parent` was pruned."""
        for _ in range(_RACES):
            with suppress(FileNotFoundError):
                return files.open_folder(parent, segments[-1], create=True)
            self._durable.discard("/".join(segments))
            with suppress(FileExistsError):
                os.mkdir(segments[-1], 0o700, dir_fd=parent)
        raise OSError(errno.EAGAIN, "its folder is removed again and again")

    def _open_root(self) -> int:
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise files.root_error(error, self._root, self._address) from error
        found = os.fstat(fd)
        identity = (found.st_dev, found.st_ino)
        self._identity = self._identity or identity
        if identity != self._identity:
            os.close(fd)
            raise StorageUnreachableError(
                f"{self._address} is not the folder that it was when this run began",
                hint="was it unmounted? mount it again, then repeat the run",
            )
        return fd

    @contextmanager
    def _opened(self, segments: Sequence[str]) -> Iterator[int]:
        with self._folder(segments[:-1]) as folder:
            fd = files.open_object(folder, segments[-1])
        try:
            yield fd
        finally:
            os.close(fd)

    def _move(self, root: int, temporary: str, segments: Sequence[str]) -> None:
        folders = segments[:-1]
        for _ in range(_RACES):
            with suppress(FileNotFoundError), self._folder(folders, create=True) as folder:
                os.rename(temporary, segments[-1], src_dir_fd=root, dst_dir_fd=folder)
                files.sync_folder(folder)
                break
        else:
            raise OSError(errno.EAGAIN, "its folder is removed again and again")
        with suppress(FileNotFoundError):  # somebody has deleted the object already
            self._sync_parents(folders)

    def _sync_parents(self, folders: Sequence[str]) -> None:
        """Makes each folder's own entry durable, once: a sync of a folder is a flush of the disk."""
        for depth in range(len(folders)):
            name = "/".join(folders[: depth + 1])
            if name not in self._durable:
                with self._folder(folders[:depth]) as parent:
                    files.sync_folder(parent)
                self._durable.add(name)

    def _prune(self, folders: Sequence[str]) -> None:
        for depth in range(len(folders), 0, -1):
            try:
                with suppress(FileNotFoundError), self._folder(folders[: depth - 1]) as parent:
                    os.rmdir(folders[depth - 1], dir_fd=parent)
            except (OSError, DataGuardianError):
                return

    def _sweep(self, root: int, now: float) -> None:
        """Removes temporaries of killed puts, at most once an hour. `now` is the time by the filesystem's own clock.

        A living put that is so slow or so unlucky with the clock that it loses its file fails with a transient error
        and is repeated: nothing that was stored is ever touched.
        """
        if now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        with suppress(OSError), os.scandir(root) as entries:
            for entry in entries:
                if TEMPORARY.fullmatch(entry.name) and files.changed_before(entry, now - STALE_SECONDS):
                    os.unlink(entry.name, dir_fd=root)

    def _walk(self, top: Sequence[str]) -> Iterator[StoredObject]:
        waiting = [tuple(top)]
        while waiting:
            segments = waiting.pop()
            for entry in self._entries(segments):
                path = (*segments, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif (size_bytes := files.entry_size(entry)) is not None:
                    yield StoredObject("/".join(path), size_bytes)

    def _subfolders(self, top: Sequence[str]) -> Iterator[str]:
        for entry in self._entries(top):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield entry.name

    def _entries(self, segments: Sequence[str]) -> Iterator[os.DirEntry[str]]:
        """Yields what lies in a folder and is ours, nothing when the folder is not there (any more)."""
        path = "/".join(segments)
        with self._translated(path), suppress(FileNotFoundError, NotADirectoryError):  # noqa: SIM117 -- one per line
            with self._folder(segments) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    if not TEMPORARY.fullmatch(entry.name) and (segments or entry.name != _FOREIGN):
                        yield entry

    @contextmanager
    def _translated(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise files.object_error(error, path, self._root, self._address) from error


class _Quota:
    """Keeps `max_size_gb`. What lies in the storage is counted once and added up from then on, so that another
    process's puts are seen by the next run only.
    """

    def __init__(self, limit_bytes: int, count: Callable[[], int], address: str) -> None:
        self._limit_bytes = limit_bytes
        self._count = count
        self._address = address
        self._lock = Lock()
        self._used_bytes: int | None = None

    def take(self, growth_bytes: int) -> None:
        """Reserves room before a byte is written; raises StorageFullError when there is not enough."""
        with self._lock:
            used_bytes = self._used()
            if growth_bytes > 0 and used_bytes + growth_bytes > self._limit_bytes:
                raise StorageFullError(
                    f"{self._address} holds {format_size(used_bytes)} of the {format_size(self._limit_bytes)} that "
                    f"max_size_gb allows, which leaves no room for {format_size(growth_bytes)} more",
                    hint="delete old backups or raise max_size_gb",
                )
            self._used_bytes = used_bytes + growth_bytes

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            if self._used_bytes is not None:
                self._used_bytes -= size_bytes

    def left(self) -> int:
        with self._lock:
            return max(0, self._limit_bytes - self._used())

    def _used(self) -> int:
        return self._count() if self._used_bytes is None else self._used_bytes


def _segments(path: str) -> tuple[str, ...]:
    segments = tuple(checked_path(path).split("/"))
    if any(segment.startswith(TEMPORARY_PREFIX) for segment in segments):
        raise UsageError(f"{path!r}: names that begin with {TEMPORARY_PREFIX} are kept for temporary files")
    return segments


ADAPTER = StorageAdapter(
    type="local",
    schemes=("file",),
    example="file:///var/backups",
    config=LocalConfig,
    build=LocalStorage,
)
