"""Progress of long work, as one small immutable value that a callback gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`size_bytes` are raw, `stored_bytes` as they lie in the storage; `total_bytes` is a guess unless `exact`."""

    phase: str
    stream: str = ""
    size_bytes: int = 0
    stored_bytes: int = 0
    parts: int = 0
    total_bytes: int | None = None
    exact: bool = False


Report = Callable[[Progress], None]
"""Called from the main thread, often; it may raise CancelledError to stop the work."""


def silent(_: Progress) -> None:
    """For callers that do not watch."""
