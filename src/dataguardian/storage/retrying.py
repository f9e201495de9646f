"""The only place that retries a storage. Adapters classify errors, this wrapper repeats what is worth repeating."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain, count
from typing import TypeVar

from dataguardian.domain.clock import Clock, SystemClock
from dataguardian.domain.errors import StorageTransientError
from dataguardian.storage.base import Data, Storage, StoredObject
from dataguardian.storage.limited import LimitedStorage

T = TypeVar("T")
Sleep = Callable[[float], object]


class RetryingStorage(Storage):
    """Repeats calls that end in StorageTransientError, and no others, until one of two bounds is met.

    A call is tried at most `max_tries` times, and no new try begins later than `max_seconds` after the first. The n-th
    pause is drawn from between half and all of `first_pause_seconds * 2^(n-1)`, at most `max_pause_seconds`, so that
    threads that failed together do not come back together. `put` and `delete` may be repeated because the contract
    makes them idempotent. A listing that breaks off begins anew and leaves out what it has already given.

    `sleep` may raise to cancel a pause.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        max_tries: int = 6,
        max_seconds: float = 120.0,
        first_pause_seconds: float = 0.5,
        max_pause_seconds: float = 20.0,
        sleep: Sleep = time.sleep,
        clock: Clock | None = None,
    ) -> None:
        self._storage = storage
        self._max_tries = max_tries
        self._max_seconds = max_seconds
        self._first_pause_seconds = first_pause_seconds
        self._max_pause_seconds = max_pause_seconds
        self._sleep = sleep
        self._clock = clock or SystemClock()

    @property
    def local_path(self) -> str | None:
        return self._storage.local_path

    def put(self, path: str, data: Data) -> None:
        self._repeat(lambda: self._storage.put(path, data))

    def put_hashed(self, path: str, data: Data, sha256: str) -> None:
        self._repeat(lambda: self._storage.put_hashed(path, data, sha256))

    def get(self, path: str, max_bytes: int) -> bytes:
        return self._repeat(lambda: self._storage.get(path, max_bytes))

    def stat(self, path: str) -> StoredObject:
        return self._repeat(lambda: self._storage.stat(path))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._listing(lambda: self._storage.list(prefix), lambda entry: entry.path)

    def folders(self, prefix: str = "") -> Iterator[str]:
        return self._listing(lambda: self._storage.folders(prefix), str)

    def delete(self, path: str) -> None:
        self._repeat(lambda: self._storage.delete(path))

    def discard(self, directory: str) -> None:
        self._repeat(lambda: self._storage.discard(directory))

    def free_space(self) -> int | None:
        return self._repeat(self._storage.free_space)

    def check(self) -> None:
        self._repeat(self._storage.check)

    def _listing(self, start: Callable[[], Iterator[T]], key: Callable[[T], str]) -> Iterator[T]:
        given: set[str] = set()
        for breaks in count(1):
            items = self._repeat(lambda: _begun(start(), given, key))
            try:
                for item in items:
                    given.add(key(item))
                    yield item
            except StorageTransientError:
                if breaks >= self._max_tries:
                    raise
                self._sleep(self._pause_seconds(breaks))
            else:
                return

    def _repeat(self, call: Callable[[], T]) -> T:
        began = self._clock.monotonic()
        tries = 0
        while True:
            tries += 1
            try:
                return call()
            except StorageTransientError as error:
                pause = self._pause_seconds(tries)
                passed = self._clock.monotonic() - began
                if tries >= self._max_tries or passed + pause > self._max_seconds:
                    raise _exhausted(error, tries, passed) from error
            self._sleep(pause)

    def _pause_seconds(self, tries: int) -> float:
        longest = min(self._max_pause_seconds, self._first_pause_seconds * 2.0 ** min(tries - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads load, keeps no secret


def wrap(storage: Storage, *, sleep: Sleep = time.sleep, limit_mbps: float | None = None) -> Storage:
    """Returns the storage as the pipeline uses it, with every wrapper around it: the one place that stacks them.

    `limit_mbps` is the bandwidth limit of whoever uses it; of that one and the storage's own the lower one counts.
    """
    limits = [limit for limit in (storage.bandwidth_limit_mbps, limit_mbps) if limit is not None]
    if limits:
        storage = LimitedStorage(storage, min(limits), sleep=sleep)
    return RetryingStorage(storage, sleep=sleep)


def _begun(items: Iterator[T], given: AbstractSet[str], key: Callable[[T], str]) -> Iterator[T]:
    """Asks for the first item that was not given yet, so that what fails until then fails here."""
    new = (item for item in items if key(item) not in given)
    first = next(new, None)
    return iter(()) if first is None else chain((first,), new)


def _exhausted(error: StorageTransientError, tries: int, passed_seconds: float) -> StorageTransientError:
    return type(error)(
        f"{error.message} (tried {tries} times in {passed_seconds:.0f} s)",
        hint=error.hint or "check that the storage answers (network, disk), then run it again",
        **error.details,
    )
