"""Writing past the page cache.

A part is written once and not read soon. Through the cache it would be copied into fresh pages, which takes more
processor time than to compress it (docs/architecture.md has the figures), and would drive out what a database on the
same machine keeps there.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from dataguardian.domain.sizes import KIB, MIB

BLOCK_BYTES = 4 * KIB
"""What addresses, offsets and lengths are multiples of: no disk's own blocks are bigger."""
CHUNK_BYTES = 4 * MIB
LEAST_BYTES = MIB
"""Less is not worth waiting for the disk: it gathers small objects better than we do."""

_KNOWN_TO_GAIN = frozenset({b"ext4", b"xfs"})
"""Network and FUSE file systems would ask the other side for each chunk; the others copy all the same."""
_MOUNTS = Path("/proc/self/mountinfo")


class DirectWriter:
    """The writes of one storage, from several threads: one at a time, so that a spinning disk need not run to and fro,
    and of one buffer, because the memory must be aligned.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._buffer: mmap.mmap | None = None
        self._gains: bool | None = None

    def write(self, fd: int, view: memoryview) -> int:
        """Writes the whole blocks that `view` begins with to a new file; returns how many bytes they have.

        The rest is the caller's: the last block's beginning, or everything where this way is closed. Raises OSError.
        """
        whole_bytes = view.nbytes - view.nbytes % BLOCK_BYTES
        if whole_bytes < LEAST_BYTES or not self._worthwhile(fd):
            return 0
        with self._lock, _past_the_cache(fd) as is_open:
            return self._copied(fd, view[:whole_bytes]) if is_open else 0

    def _worthwhile(self, fd: int) -> bool:
        if self._gains is None:
            self._gains = _file_system(os.fstat(fd).st_dev) in _KNOWN_TO_GAIN
        return self._gains

    def _copied(self, fd: int, view: memoryview) -> int:
        self._buffer = self._buffer or mmap.mmap(-1, CHUNK_BYTES)
        written = 0
        while written < view.nbytes:
            length = min(CHUNK_BYTES, view.nbytes - written)
            self._buffer[:length] = view[written : written + length]
            with memoryview(self._buffer)[:length] as aligned:
                count = _written(fd, aligned, written)
            written += count
            if count < length:  # a disk that is full tells so to the plain write that comes next
                break
        return written


def _written(fd: int, aligned: memoryview, offset: int) -> int:
    try:
        return os.pwrite(fd, aligned, offset)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a device with blocks that are bigger still
            return 0
        raise


@contextmanager
def _past_the_cache(fd: int) -> Iterator[bool]:
    """Lets the file's writes go to the disk itself, for the block; yields whether its file system does that."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _file_system(device: int) -> bytes:
    """Returns the type of the file system with this device number; empty where the kernel does not tell (or is not
    Linux).
    """
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return b""
    for line in lines:
        fields, _, rest = line.partition(b" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return b""
