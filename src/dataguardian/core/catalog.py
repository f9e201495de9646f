"""Backups as a storage holds them: found by their manifests alone, no database needed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import NoReturn

from dataguardian.domain import artifact
from dataguardian.domain.artifact import Manifest, PartRecord
from dataguardian.domain.errors import (
    IntegrityError,
    ManifestError,
    NotFoundError,
    ObjectMissingError,
    StorageDeniedError,
    UsageError,
)
from dataguardian.domain.sizes import format_size
from dataguardian.storage.base import Storage, checked_path

_RUN = re.compile(r"[^/]+/\d{8}T\d{6}Z-[^/]+-\d+")
_READERS = 8
"""Manifests that are read at once: a storage at the other end of a network answers each after a while only."""
_USUAL_BYTES = 256 * 1024
"""So much of a manifest each reader takes at once; of hundreds of databases it is smaller."""
_UNUSUAL_BYTES = 32 * 1024 * 1024
"""What all bigger ones of a list may have together, one after the other: whoever writes into a storage may have put
thousands of them there.
"""


@dataclass(frozen=True)
class Backup:
    """One backup: `directory` is its path in the storage, `<job-slug>/<start>-<execution id>-<attempt>`."""

    directory: str
    manifest: Manifest
    parts: list[PartRecord]

    def parts_of(self, stream_directory: str) -> list[PartRecord]:
        return [part for part in self.parts if part.stream == stream_directory]


@dataclass(frozen=True)
class Listing:
    """`unreadable` maps directories whose manifest is damaged, or of another format, to the reason; `unfinished` are
    those of runs without one: runs that go on, that were killed, or whose manifest was lost.
    """

    backups: list[tuple[str, Manifest]]
    unreadable: dict[str, str]
    unfinished: list[str] = field(default_factory=list)


def list_backups(storage: Storage) -> Listing:
    """Returns every backup of a storage, oldest first. A directory without a manifest is not a backup."""
    found: list[tuple[str, Manifest]] = []
    unreadable: dict[str, str] = {}
    directories: list[str] = []
    unfinished: list[str] = []
    for job in storage.folders():
        try:
            directories += [f"{job}/{run}" for run in storage.folders(job)]
        except StorageDeniedError as error:
            unreadable[job] = error.message
        except UsageError:
            continue  # a name that no backup has
    look = _Looker(storage).look
    with ThreadPoolExecutor(_READERS, thread_name_prefix="list") as threads:
        for directory, manifest in zip(directories, threads.map(look, directories), strict=True):
            if isinstance(manifest, Manifest):
                found.append((directory, manifest))
            elif manifest is not None:
                unreadable[directory] = manifest
            elif _RUN.fullmatch(directory):
                unfinished.append(directory)
    return Listing(sorted(found, key=lambda entry: (entry[1].started_at, entry[0])), unreadable, sorted(unfinished))


class _Looker:
    """Reads the manifests of one list, in several threads and in bounded memory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._left_bytes = _UNUSUAL_BYTES
        self._alone = Lock()

    def look(self, directory: str) -> Manifest | str | None:
        """Returns the manifest, the reason why it cannot be read, or None when there is no backup."""
        try:
            path = f"{checked_path(directory)}/{artifact.MANIFEST}"
            try:
                data = self._storage.get(path, _USUAL_BYTES)
            except IntegrityError:  # it is bigger
                return self._look_at_unusual(path)
            return artifact.decode_manifest(data, where=path)
        except (IntegrityError, StorageDeniedError) as error:
            return error.message
        except (ObjectMissingError, UsageError):
            return None  # half-written, being deleted, or a folder with a name that no backup has

    def _look_at_unusual(self, path: str) -> Manifest | str:
        with self._alone:
            size_bytes = self._storage.stat(path).size_bytes
            if size_bytes > self._left_bytes:
                most = format_size(_UNUSUAL_BYTES)
                return (
                    f"{path} was not read: it has {format_size(size_bytes)}, and a list reads {most} of big manifests"
                )
            data = self._storage.get(path, min(self._left_bytes, artifact.MAX_MANIFEST_BYTES))
            self._left_bytes -= len(data)
            return artifact.decode_manifest(data, where=path)


def load_manifest(storage: Storage, directory: str) -> Manifest:
    """Raises ObjectMissingError when there is none, ManifestError or UnsupportedFormatError when it cannot be used."""
    path = f"{checked_path(directory)}/{artifact.MANIFEST}"
    return artifact.decode_manifest(storage.get(path, artifact.MAX_MANIFEST_BYTES), where=path)


def load_backup(storage: Storage, directory: str) -> Backup:
    """Returns a backup with all its records checked against each other.

    Raises NotFoundError when there is nothing of that name, ManifestError when its records are missing or damaged.
    """
    try:
        manifest = load_manifest(storage, directory)
    except ObjectMissingError as error:
        _tell_missing(storage, directory, error)
    path = f"{directory}/{artifact.PARTS}"
    try:
        data = storage.get(path, artifact.max_parts_bytes(manifest))
    except ObjectMissingError as error:
        raise ManifestError(f"{path} is missing", hint="the parts may still be restored by hand", path=path) from error
    return Backup(directory, manifest, artifact.decode_parts(data, manifest, where=path))


def split_backup_path(path: str) -> tuple[str, str]:
    """Splits `/storage/root/job/run` into (`/storage/root`, `job/run`); raises UsageError when it is too short."""
    head, _, run = path.rstrip("/").rpartition("/")
    root, _, job = head.rpartition("/")
    if not run or not job:
        raise UsageError(
            "that is not the address of a backup",
            hint="give it as `dataguardian list` prints it: the storage's address, the job's folder, the run's folder",
        )
    return root or "/", checked_path(f"{job}/{run}")


def _tell_missing(storage: Storage, directory: str, error: ObjectMissingError) -> NoReturn:
    if any(True for _ in storage.list(directory)):
        raise ManifestError(
            f"{directory} has no {artifact.MANIFEST}: it is not a backup, or an unfinished one", path=directory
        ) from error
    raise NotFoundError(
        f"there is no backup {directory} in that storage", hint="`dataguardian list STORAGE` shows what there is"
    ) from error
