"""Reading a backup's parts: fetched ahead by a few threads, checked, and handed over in order.

Where several storages hold the same backup, a part that one of them lacks, or holds damaged, is read from another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from threading import Lock
from typing import Self, TypeVar

from dataguardian.domain.artifact import PartRecord
from dataguardian.domain.errors import DamagedPartError, IntegrityError, ObjectMissingError, StorageError
from dataguardian.storage.base import Storage
from dataguardian.streams.codecs import Codec
from dataguardian.streams.sealing import Opener, RunningHash, check_stored, unseal
from dataguardian.streams.split import give_back_big_blocks, plan_lanes

T = TypeVar("T")


class PartReader:
    """Reads parts of one backup. Use as a context manager; leaving it drops what was fetched ahead.

    `others` hold the same bytes as `storage`; one that does not answer is asked last from then on. `opener` decrypts
    the parts of an encrypted backup.
    """

    def __init__(
        self,
        storage: Storage,
        directory: str,
        codec: Codec,
        part_size_bytes: int,
        *,
        others: Sequence[Storage] = (),
        opener: Opener | None = None,
    ) -> None:
        self._storages = [storage, *others]
        self._lock = Lock()
        self._directory = directory
        self._codec = codec
        self._opener = opener
        self._ahead = plan_lanes(part_size_bytes).ahead
        self._begun: dict[str, Future[bytes]] = {}

    def __enter__(self) -> Self:
        give_back_big_blocks()
        self._threads = ThreadPoolExecutor(self._ahead, thread_name_prefix="fetch")
        return self

    def __exit__(self, *exc: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def stored(self, part: PartRecord) -> bytes:
        """Returns a part's stored bytes after their hash was checked; raises DamagedPartError."""
        return self._from_any(part, self._stored)

    def raw_in_order(self, parts: Iterable[PartRecord]) -> Iterator[tuple[PartRecord, Callable[[], bytes]]]:
        """Yields the parts of one stream, from its first one on, each with a call that returns its raw bytes after both
        hashes were checked, or raises DamagedPartError. Every call is to be made, and in order.
        """
        so_far = RunningHash()
        for part, expanded in self._in_order(self._begin, parts):
            yield part, partial(_checked, so_far, part, expanded)

    def begin(self, parts: Iterable[PartRecord]) -> None:
        """Starts on the parts with which `raw_in_order` is going to begin, and comes back at once."""
        self._begun = {part.path: self._begin(part) for part in islice(parts, self._ahead)}

    def in_order(
        self, work: Callable[[PartRecord], T], parts: Iterable[PartRecord]
    ) -> Iterator[tuple[PartRecord, Callable[[], T]]]:
        """Yields each part with a call that returns its result, or raises its error; works ahead within the lanes."""
        return self._in_order(lambda part: self._threads.submit(work, part), parts)

    def _in_order(
        self, start: Callable[[PartRecord], Future[T]], parts: Iterable[PartRecord]
    ) -> Iterator[tuple[PartRecord, Callable[[], T]]]:
        waiting: deque[tuple[PartRecord, Future[T]]] = deque()
        try:
            for part in parts:
                if len(waiting) >= self._ahead:
                    ready, future = waiting.popleft()
                    yield ready, future.result
                    del future  # and with it the bytes, before the next ones are fetched
                waiting.append((part, start(part)))
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result
        finally:
            for _, future in waiting:
                future.cancel()

    def _stored(self, storage: Storage, part: PartRecord) -> bytes:
        data = self._fetch(storage, part)
        check_stored(data, part)
        return data

    def _begin(self, part: PartRecord) -> Future[bytes]:
        return self._begun.pop(part.path, None) or self._threads.submit(self._expanded, part)

    def _expanded(self, part: PartRecord) -> bytes:
        return self._from_any(part, self._unsealed)

    def _unsealed(self, storage: Storage, part: PartRecord) -> bytes:
        return unseal(self._fetch(storage, part), part, self._codec, self._opener)

    def _from_any(self, part: PartRecord, read: Callable[[Storage, PartRecord], bytes]) -> bytes:
        """Returns what the first storage gives that has the part undamaged; raises what the first one raised."""
        first: StorageError | IntegrityError | None = None
        for storage in list(self._storages):
            try:
                return read(storage, part)
            except IntegrityError as error:
                first = first or error
            except StorageError as error:
                first = first or error
                self._put_last(storage)
        assert first is not None  # noqa: S101 -- there is a storage
        raise first

    def _put_last(self, storage: Storage) -> None:
        with self._lock:
            self._storages.sort(key=lambda other: other is storage)

    def _fetch(self, storage: Storage, part: PartRecord) -> bytes:
        try:
            return storage.get(f"{self._directory}/{part.path}", part.stored_size_bytes)
        except ObjectMissingError as error:
            raise DamagedPartError(f"{part.path} is missing", path=part.path) from error


def _checked(so_far: RunningHash, part: PartRecord, expanded: Callable[[], bytes]) -> bytes:
    return so_far.checked(expanded(), part)
