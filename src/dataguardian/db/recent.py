"""What was counted a moment ago. A total over a million rows costs as much as everything else on its page."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

KEPT_SECONDS = 10.0
EXACT_UP_TO = 10_000
"""Smaller totals are always counted anew: that is quick, and there a row more or less is seen."""
MOST_ENTRIES = 256


class Recent:
    """Values by key, each for `kept_seconds`. Bounded: the oldest goes when there are too many."""

    def __init__(self, kept_seconds: float = KEPT_SECONDS) -> None:
        self._kept_seconds = kept_seconds
        self._entries: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get(self, key: Hashable) -> Any | None:  # noqa: ANN401 -- what was put there
        """Returns the value, None when there is none that is recent."""
        expires, value = self._entries.get(key, (0.0, None))
        return value if time.monotonic() < expires else None

    def put(self, key: Hashable, value: Any) -> None:  # noqa: ANN401 -- anything
        self._entries[key] = (time.monotonic() + self._kept_seconds, value)
        self._entries.move_to_end(key)
        while len(self._entries) > MOST_ENTRIES:
            self._entries.popitem(last=False)

    def put_total(self, key: Hashable, total: int) -> None:
        if total > EXACT_UP_TO:
            self.put(key, total)

    def clear(self) -> None:
        self._entries.clear()
