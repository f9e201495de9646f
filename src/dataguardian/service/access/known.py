"""Who was recognised a moment ago, so that a request does not cost a look into the catalogue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dataguardian.domain.clock import Clock

KEPT_SECONDS = 3.0
"""How long another process may still let in whom this one has just locked out."""
MOST_ENTRIES = 1024

T = TypeVar("T")


class Known:
    """What hashes of secrets stand for. Every change of who may do what ends in `forget`, which works at once here."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, object]] = OrderedDict()
        self._generation = 0

    async def get(self, key: str, kind: type[T], load: Callable[[], Awaitable[T | None]]) -> T | None:
        """Returns what `key` stands for; loads it when it is not known. None, for a stranger, is not kept."""
        found = self.peek(key, kind)
        if found is not None:
            return found
        now, generation = self._clock.monotonic(), self._generation
        loaded = await load()
        if loaded is not None and generation == self._generation:  # else what was read may be what was changed
            self._entries[key] = (now + KEPT_SECONDS, loaded)
            self._entries.move_to_end(key)
            while len(self._entries) > MOST_ENTRIES:
                self._entries.popitem(last=False)
        return loaded

    def peek(self, key: str, kind: type[T]) -> T | None:
        """Returns what is known of `key` from a moment ago."""
        expires, found = self._entries.get(key, (0.0, None))
        is_recent = 0 <= expires - self._clock.monotonic() <= KEPT_SECONDS
        return found if isinstance(found, kind) and is_recent else None

    def forget(self) -> None:
        self._generation += 1
        self._entries.clear()
