"""What this process is carrying out just now, so that it never takes its own living work for a dead worker's.

A lease that ran out usually means that its worker died. Not when the catalogue was away, the machine slept or the clock
was set: then nobody could renew. This process knows what it holds; of others it cannot know, and waits after an outage
until they had the time to renew.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from dataguardian.domain.errors import CatalogUnavailableError


class Holding:
    """One per process."""

    def __init__(self) -> None:
        self._held: set[tuple[uuid.UUID, int]] = set()
        self._away_at: float | None = None

    @contextmanager
    def of(self, work_id: uuid.UUID, attempt: int) -> Iterator[None]:
        """Within the block this process carries that attempt out."""
        self._held.add((work_id, attempt))
        try:
            yield
        finally:
            self._held.discard((work_id, attempt))

    def holds(self, work_id: uuid.UUID, attempt: int) -> bool:
        return (work_id, attempt) in self._held

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Remembers when the catalogue was found to be away."""
        try:
            yield
        except CatalogUnavailableError:
            self._away_at = time.monotonic()
            raise

    def was_away(self, seconds: float) -> bool:
        """Tells whether the catalogue was away within the last `seconds`."""
        return self._away_at is not None and time.monotonic() - self._away_at < seconds
