"""An engine whose streams are given bytes, for what no real source can be brought to do: an empty stream, a stream that
ends exactly with a part, two of one name, one that breaks at a given byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from dataguardian.core.backup import BackupPlan
from dataguardian.domain.errors import IntegrityError
from dataguardian.engines.base import (
    DumpOptions,
    Engine,
    Inventory,
    ProbeResult,
    RestoreOptions,
    RestoreStream,
    ToolVersion,
)


@dataclass
class BytesStream:
    """`fail_at` raises `error` when so many bytes were read; `stepped` is called before every read."""

    name: str
    data: bytes
    kind: str = "raw"
    piece_bytes: int = 64 * 1024
    fail_at: int | None = None
    error: Exception | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    restore_by_hand: list[str] = field(default_factory=lambda: ["cat"])
    size_hint_bytes: int | None = None
    closed: int = 0
    finished: int = 0
    _at: int = 0

    def readinto(self, buffer: memoryview) -> int:
        if self.error is not None and self.fail_at is not None and self._at >= self.fail_at:
            raise self.error
        piece = self.data[self._at : self._at + min(self.piece_bytes, len(buffer))]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def finish(self) -> None:
        self.finished += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed += 1


class BytesEngine(Engine):
    """Restores into `restored`, a list of (name, bytes), all at once at the end."""

    def __init__(self, *streams: BytesStream) -> None:
        self.streams = streams
        self.restored: list[tuple[str, bytes]] = []
        self.asked_for = 0

    def check(self) -> ProbeResult:
        return ProbeResult("ok")

    def dump(self, options: DumpOptions) -> Iterator[BytesStream]:
        for stream in self.streams:
            self.asked_for += 1
            yield stream

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        """Anything can be restored here."""

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        beside = [(stream.name, b"".join(stream.chunks())) for stream in streams]
        options.before_swap()
        self.restored = beside

    def inventory(self) -> Inventory:
        return Inventory({stream.name: len(stream.data) for stream in self.streams})

    @property
    def tools(self) -> list[ToolVersion]:
        return []


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:
    """Deep check of a stream of bytes: `metadata` may hold the size that it must have."""
    size_bytes = sum(len(chunk) for chunk in chunks)
    if size_bytes != metadata.get("size_bytes", size_bytes):
        raise IntegrityError("it has another size")


def read_nothing(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:
    """A careless engine's check, which does not look at the stream at all."""


def plan(name: str = "bytes", *, execution_id: str = "0001", **more: Any) -> BackupPlan:
    return BackupPlan(
        **{
            "execution_id": execution_id,
            "name": name,
            "engine": "bytes",
            "source": "bytes://x",
            "part_size_bytes": 64 * 1024,
        }
        | more
    )
