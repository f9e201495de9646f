"""One part on its way out and back: its hashes, and the same checked in reverse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from dataguardian.domain.artifact import PartRecord
from dataguardian.domain.errors import DamagedPartError
from dataguardian.streams.codecs import Codec, Data

Opener = Callable[[bytes], bytes | bytearray]
"""Decrypts a part; raises DamagedPartError, or KeyNeededError when it was sealed for other keys."""


class RunningHash:
    """SHA-256 of a stream's raw bytes so far. One pass proves every part, that it is in its place, and the whole."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, piece: Data) -> None:
        self._hash.update(piece)

    def hexdigest(self) -> str:
        """Returns the hash of what has come up to now; more may follow."""
        return self._hash.hexdigest()

    def checked(self, raw: bytes, part: PartRecord) -> bytes:
        """Returns the stream's next part if all hashes so far match, else raises DamagedPartError."""
        if part.running_sha256 is not None:  # else `unseal` has checked the part's own
            self._hash.update(raw)
            if self.hexdigest() != part.running_sha256:
                raise DamagedPartError(f"{part.path} does not decompress to the bytes that were read", path=part.path)
        return raw


def check_stored(data: bytes, part: PartRecord) -> None:
    """Raises DamagedPartError unless these are the bytes that were stored."""
    if len(data) != part.stored_size_bytes:
        raise DamagedPartError(
            f"{part.path} has {len(data)} bytes where {part.stored_size_bytes} were stored", path=part.path
        )
    if hashlib.sha256(data).hexdigest() != part.stored_sha256:
        raise DamagedPartError(f"{part.path} was damaged: its SHA-256 is not the one recorded", path=part.path)


def unseal(held: bytes, part: PartRecord, codec: Codec, opener: Opener | None = None) -> bytes:
    """Returns the raw bytes after the stored ones were checked; raises DamagedPartError. Whether they are the right
    ones `RunningHash.checked` tells, which needs the parts in order; those of early backups have a hash of their own.

    `opener` decrypts, and gives less than it gets: what a hostile part may take is bounded before it is read.
    """
    check_stored(held, part)
    try:
        data = held if opener is None else opener(held)
        del held  # of a part, no more than two shapes are in memory
        raw = codec.decompress(data, part.size_bytes)
    except DamagedPartError as error:
        raise DamagedPartError(f"{part.path}: {error.message}", path=part.path) from error
    if part.sha256 is not None and hashlib.sha256(raw).hexdigest() != part.sha256:
        raise DamagedPartError(f"{part.path} does not decompress to the bytes that were read", path=part.path)
    return raw
