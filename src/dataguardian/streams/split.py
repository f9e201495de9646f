"""Splitting: raw bytes come into a fixed pool of buffers, and each full buffer is one part.

Splitting comes first, so that parts are compressed, sealed and stored in parallel, and each repeats alone.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

PROCESS_BUDGET_BYTES = 136 * 1024 * 1024
"""For raw buffers and compressed parts together; with the interpreter and its libraries it stays under 200 MB."""
MAX_WORKERS = 4
_M_MMAP_THRESHOLD = -3
_BIG_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Lanes:
    """How much goes on at once: `workers` compress, `buffers` hold raw bytes, `in_flight` parts are not yet stored.

    Reading has `ahead` parts in work, each of them stored and raw at once.
    """

    workers: int
    buffers: int
    in_flight: int
    ahead: int


def plan_lanes(part_size_bytes: int, cores: int | None = None, *, encrypted: bool = False) -> Lanes:
    """Returns as many workers as cores and the byte budget allow: 2 workers + 3 parts in the worst case.

    An encrypted backup has one thread less that waits: its part's memory is for the sealed copy, of one part at a time,
    and for the library (25 MB).

    One buffer more than workers is being filled; two threads more than workers wait for the disk or the network, so
    that neither the dump nor the processor stands still during an fsync. Big parts give that up, one by one; parts
    beyond half of the budget take it all: one is raw while another is stored.
    """
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    affordable, copies = PROCESS_BUDGET_BYTES // part_size_bytes, 1 if encrypted else 0
    workers = max(1, min(cores, (affordable - 3) // 2, MAX_WORKERS))
    buffers = max(1, min(workers + 1, affordable - 2))
    in_flight = max(1, min(workers + 2, affordable - buffers) - copies)
    ahead = max(1, min(workers + 1, affordable // 2 - 1))  # and one more is raw: the one that is being written
    return Lanes(workers, buffers, in_flight, ahead)


def give_back_big_blocks() -> None:
    """Tells the C library to return freed blocks of a part's size to the system at once.

    glibc learns from the first such block to keep them, per thread, which cost 70 MB when parts are read.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BIG_BLOCK_BYTES)


def room_outside(size_bytes: int) -> memoryview:
    """Returns writable bytes outside the heap, whose memory goes back to the system with the last view of them.

    In huge pages where the kernel has them: else a block of a part's size takes 4,000 faults to fill.
    """
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(block)


class BufferPool:
    """A fixed number of equal buffers, allocated outside the heap so that they never fragment it."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(mmap.mmap(-1, size_bytes))

    def acquire(self) -> mmap.mmap:
        """Waits for a free buffer. Whoever holds one must release it, whatever happens."""
        return self._free.get()

    def release(self, buffer: mmap.mmap) -> None:
        self._free.put(buffer)


def fill(readinto: Callable[[memoryview], int], buffer: mmap.mmap, seen: Callable[[memoryview], object]) -> int:
    """Reads until the buffer is full or the stream ends; returns the bytes in it.

    `seen` gets each piece while it is hot. A return below the buffer's size means that the stream has ended.
    """
    filled = 0
    with memoryview(buffer) as view:
        while filled < len(view):
            with view[filled:] as rest:
                count = readinto(rest)
                if count == 0:
                    break
                with rest[:count] as piece:
                    seen(piece)
            filled += count
    return filled
