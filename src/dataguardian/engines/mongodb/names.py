"""Names that a restore gives to what lies beside its target, and by which its leftovers are known."""

from __future__ import annotations

import os
import re

PREFIX = "__dataguardian_"
_OURS = re.compile(re.escape(PREFIX) + r"(new|old)_[0-9a-f]{8}_\d+")


def is_ours(collection: str) -> bool:
    """Tells whether a collection was made, or moved aside, by a restore."""
    return _OURS.fullmatch(collection) is not None


class Names:
    """The temporary names of one restore."""

    def __init__(self) -> None:
        self._token = os.urandom(4).hex()
        self._count = 0

    def new(self) -> str:
        """Returns a name for something that is being restored."""
        return self._next("new")

    def old(self) -> str:
        """Returns a name for something of the target that was moved aside."""
        return self._next("old")

    def _next(self, mark: str) -> str:
        self._count += 1
        return f"{PREFIX}{mark}_{self._token}_{self._count}"
