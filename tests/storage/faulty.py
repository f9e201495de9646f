"""Scripted faults around a real storage. A fault that never fired fails its test: `assert_all_fired()`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Literal

from dataguardian.storage.base import Data, Storage, StoredObject

Op = Literal["put", "get", "stat", "list", "folders", "delete", "free_space"]


@dataclass(kw_only=True)
class Fault:
    """One thing that goes wrong, at the `nth` call of `op` (from 1) whose path matches `path`, and `times` in a row.

    `error` is raised instead of the call, or with `late` after it was carried out (the answer got lost; a listing
    breaks off after `keep` items). Without an error, `keep` cuts what is stored or given back to so many bytes or
    items, and `forget` claims success without doing anything.
    """

    op: Op
    nth: int = 1
    times: int = 1
    path: str = "*"
    error: Exception | None = None
    late: bool = False
    keep: int | None = None
    forget: bool = False
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def meets(self, op: str, path: str) -> bool:
        if op != self.op or not fnmatch.fnmatchcase(path, self.path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class FaultyStorage(Storage):
    """Passes everything on to `storage`, but for what the faults say. Safe for several threads."""

    def __init__(self, storage: Storage, *faults: Fault) -> None:
        self._storage = storage
        self._faults = faults
        self._lock = Lock()
        self.calls: list[tuple[str, str]] = []

    def assert_all_fired(self) -> None:
        missed = [fault for fault in self._faults if fault.fired != fault.times]
        assert not missed, f"these faults never fired, or not as often as scripted: {missed}"

    def put(self, path: str, data: Data) -> None:
        fault = self._fault("put", path)
        if not fault.forget:
            self._storage.put(path, data if fault.keep is None else memoryview(data)[: fault.keep])
        _raise_late(fault)

    def get(self, path: str, max_bytes: int) -> bytes:
        fault = self._fault("get", path)
        data = self._storage.get(path, max_bytes)
        _raise_late(fault)
        return data[: fault.keep]

    def stat(self, path: str) -> StoredObject:
        fault = self._fault("stat", path)
        found = self._storage.stat(path)
        _raise_late(fault)
        return found if fault.keep is None else StoredObject(path, fault.keep)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        fault = self._fault("list", prefix)
        yield from islice(self._storage.list(prefix), fault.keep)
        _raise_late(fault)

    def folders(self, prefix: str = "") -> Iterator[str]:
        fault = self._fault("folders", prefix)
        yield from islice(self._storage.folders(prefix), fault.keep)
        _raise_late(fault)

    def delete(self, path: str) -> None:
        fault = self._fault("delete", path)
        if not fault.forget:
            self._storage.delete(path)
        _raise_late(fault)

    def free_space(self) -> int | None:
        fault = self._fault("free_space", "")
        _raise_late(fault)
        return self._storage.free_space() if fault.keep is None else fault.keep

    def _fault(self, op: Op, path: str) -> Fault:
        """Returns the fault that this call meets, or one that does nothing; raises an early error."""
        with self._lock:
            self.calls.append((op, path))
            # Every fault counts the call, also those that another one overtakes.
            met = [fault for fault in self._faults if fault.meets(op, path)]
            for fault in met[:1]:
                fault.fired += 1
        fault = met[0] if met else Fault(op=op)
        if fault.error is not None and not fault.late:
            raise fault.error
        return fault


def _raise_late(fault: Fault) -> None:
    if fault.error is not None:
        raise fault.error
