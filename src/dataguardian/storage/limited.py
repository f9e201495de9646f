"""A bandwidth limit around a storage, for the line that backups share with people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock

from dataguardian.domain.clock import Clock, SystemClock
from dataguardian.storage.base import Data, Storage, StoredObject

BITS = 8 * 10**-6
"""Megabits in a byte."""


class LimitedStorage(Storage):
    """Moves at most `limit_mbps` (10^6 bits per second) on average, up and down and all threads together.

    An object moves at the line's own speed, and the next one waits until the limit would have carried it: what is
    bounded is the average over a few parts. Listings and other small answers are not counted. `sleep` may raise to
    cancel a pause.
    """

    def __init__(
        self,
        storage: Storage,
        limit_mbps: float,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Clock | None = None,
    ) -> None:
        self._storage = storage
        self._limit_mbps = limit_mbps
        self._sleep = sleep
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._free_at = self._clock.monotonic()

    @property
    def local_path(self) -> str | None:
        return self._storage.local_path

    def put(self, path: str, data: Data) -> None:
        self._wait(memoryview(data).nbytes)
        self._storage.put(path, data)

    def put_hashed(self, path: str, data: Data, sha256: str) -> None:
        self._wait(memoryview(data).nbytes)
        self._storage.put_hashed(path, data, sha256)

    def get(self, path: str, max_bytes: int) -> bytes:
        self._wait(0)
        data = self._storage.get(path, max_bytes)
        self._charge(len(data))
        return data

    def stat(self, path: str) -> StoredObject:
        return self._storage.stat(path)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._storage.list(prefix)

    def folders(self, prefix: str = "") -> Iterator[str]:
        return self._storage.folders(prefix)

    def delete(self, path: str) -> None:
        self._storage.delete(path)

    def discard(self, directory: str) -> None:
        self._storage.discard(directory)

    def free_space(self) -> int | None:
        return self._storage.free_space()

    def _wait(self, size_bytes: int) -> None:
        """Waits for its turn, which `size_bytes` then take up."""
        start = self._charge(size_bytes)
        pause = start - self._clock.monotonic()
        if pause > 0:
            self._sleep(pause)

    def _charge(self, size_bytes: int) -> float:
        """Returns when the turn of what was charged begins."""
        with self._lock:
            start = max(self._free_at, self._clock.monotonic())
            self._free_at = start + size_bytes * BITS / self._limit_mbps
            return start
