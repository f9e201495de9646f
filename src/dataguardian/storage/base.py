"""What a storage owes to the pipeline.

A storage keeps immutable objects under relative, `/`-separated paths. Folders are part of names: they appear with their
first object and vanish with their last one.

Obligations, held by the conformance suite:

* `put` is **atomic**: the object is absent or whole, never partial, whatever is killed when. It writes under a unique
  temporary name that `list` never shows, and it is **durable** when it returns. It is idempotent: putting the same
  object again replaces it.
* Read-after-write: what `put` stored is seen by the next `get`, `stat` and `list`.
* A path that would leave the storage's root is refused with UsageError, before anything is touched.
* Every call is bounded in time. Nothing here retries: only `retrying` does, and only StorageTransientError.
* Errors: ObjectMissingError (no such object), StorageDeniedError (not allowed), StorageFullError (no room),
  StorageUnreachableError (the storage itself is not there), StorageTransientError (may work next time).
* Safe for several threads at once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dataguardian.domain.errors import IntegrityError, UsageError
from dataguardian.registry import Adapter, AdapterConfig
from dataguardian.storage.byhand import ByHand

Data = bytes | bytearray | memoryview

BandwidthLimit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Megabits (10^6 bits) per second."""

PROBE_PREFIX = ".dataguardian-check"


class StorageConfig(AdapterConfig):
    """Base of every storage's configuration: the fields of SPEC M3.

    `bandwidth_limit_mbps` (10^6 bits per second, up and down together) is kept by a wrapper.
    """

    bandwidth_limit_mbps: BandwidthLimit | None = None

    def by_hand(self, known_hosts: str = "") -> ByHand | None:  # noqa: ARG002 -- for those that are reached by SSH
        """Returns how stock tools read from here, for the recovery kit; None when nobody has told that yet.

        `known_hosts` is the text of DataGuardian's own file of host keys.
        """
        return None


class RemoteConfig(StorageConfig):
    """Base of storages that are reached over a network.

    `timeout_seconds` bounds silence: a call that moves no byte for so long ends in StorageTransientError.
    """

    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0


@dataclass(frozen=True)
class StoredObject:
    """An object as the storage sees it. `sha256` only where the storage itself computes one; never an ETag."""

    path: str
    size_bytes: int
    sha256: str | None = None


class Storage(ABC):
    bandwidth_limit_mbps: float | None = None
    """What its configuration allows; kept by whoever wraps it."""

    @property
    def local_path(self) -> str | None:
        """The absolute path of the local folder that holds the objects; None for a storage elsewhere."""
        return None

    @abstractmethod
    def put(self, path: str, data: Data) -> None:
        """Stores `data` as one atomic, durable object."""

    def put_hashed(self, path: str, data: Data, sha256: str) -> None:  # noqa: ARG002 -- for storages that send it along
        """Does the same with bytes whose SHA-256 (hexadecimal digits) the caller knows, and which must not change now.

        A storage that would compute it again overrides this: it then refuses bytes that are others than those that were
        hashed.
        """
        self.put(path, data)

    @abstractmethod
    def get(self, path: str, max_bytes: int) -> bytes:
        """Returns the whole object; raises IntegrityError, without reading it all, when it exceeds `max_bytes`."""

    @abstractmethod
    def stat(self, path: str) -> StoredObject:
        """Returns the object's size; raises ObjectMissingError."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yields every object in the folder `prefix` and below, in no order; nothing when there is none."""

    @abstractmethod
    def folders(self, prefix: str = "") -> Iterator[str]:
        """Yields the names of the folders directly in `prefix`: what lists backups without listing their parts."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes the object, and folders that it leaves empty; no error when it is absent."""

    def discard(self, directory: str) -> None:  # noqa: B027 -- most storages have nothing to do
        """Removes what killed puts of objects in a backup's `directory` left, and `list` does not show.

        A put that lives yet loses its temporary file, fails with StorageTransientError and may be repeated. Storages
        that take an object as a whole or not at all leave nothing.
        """

    @abstractmethod
    def free_space(self) -> int | None:
        """Returns how many bytes may still be put, None when the storage cannot tell."""

    def check(self) -> None:
        """Proves put, get, list and delete with a probe object; raises what went wrong."""
        path = f"{PROBE_PREFIX}/{os.urandom(8).hex()}"
        probe = os.urandom(1024)
        self.put(path, probe)
        try:
            if self.get(path, len(probe)) != probe or path not in {entry.path for entry in self.list(PROBE_PREFIX)}:
                raise IntegrityError("the storage did not give back what it was given", path=path)
        finally:
            self.delete(path)


def checked_path(path: str) -> str:
    """Returns `path` when it is relative, plain and stays inside the root; raises UsageError otherwise."""
    segments = path.split("/")
    if not path or "\x00" in path or "\\" in path or any(part in ("", ".", "..") for part in segments):
        raise UsageError(f"{path!r} is not a path inside the storage", path=ascii(path))
    return path


@dataclass(frozen=True, kw_only=True)
class StorageAdapter(Adapter[Storage]):
    """What a file in `storage/` exports as `ADAPTER`."""
