"""Reading a backup's parts: fetched ahead by a few threads, checked, and handed over in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

from dataguardian.domain.artifact import PartRecord
from dataguardian.domain.errors import DamagedPartError, ObjectMissingError
from dataguardian.storage.base import Storage
from dataguardian.streams.codecs import Codec
from dataguardian.streams.sealing import check_stored, unseal
from dataguardian.streams.split import give_back_big_blocks, plan_lanes

T = TypeVar("T")


class PartReader:
    """Reads parts of one backup. Use as a context manager; leaving it drops what was fetched ahead."""

    def __init__(self, storage: Storage, directory: str, codec: Codec, part_size_bytes: int) -> None:
        self._storage = storage
        self._directory = directory
        self._codec = codec
        self._ahead = plan_lanes(part_size_bytes).ahead

    def __enter__(self) -> Self:
        give_back_big_blocks()
        self._threads = ThreadPoolExecutor(self._ahead, thread_name_prefix="fetch")
        return self

    def __exit__(self, *exc: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def stored(self, part: PartRecord) -> bytes:
        """Returns a part's stored bytes after their hash was checked; raises DamagedPartError."""
        data = self._fetch(part)
        check_stored(data, part)
        return data

    def raw(self, part: PartRecord) -> bytes:
        """Returns a part's raw bytes after both hashes were checked; raises DamagedPartError."""
        return unseal(self._fetch(part), part, self._codec)

    def in_order(
        self, work: Callable[[PartRecord], T], parts: Iterable[PartRecord]
    ) -> Iterator[tuple[PartRecord, Callable[[], T]]]:
        """Yields each part with a call that returns its result, or raises its error; works ahead within the lanes."""
        waiting: deque[tuple[PartRecord, Future[T]]] = deque()
        try:
            for part in parts:
                if len(waiting) >= self._ahead:
                    ready, future = waiting.popleft()
                    yield ready, future.result
                    del future  # and with it the bytes, before the next ones are fetched
                waiting.append((part, self._threads.submit(work, part)))
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result
        finally:
            for _, future in waiting:
                future.cancel()

    def _fetch(self, part: PartRecord) -> bytes:
        try:
            return self._storage.get(f"{self._directory}/{part.path}", part.stored_size_bytes)
        except ObjectMissingError as error:
            raise DamagedPartError(f"{part.path} is missing", path=part.path) from error
