"""Stop requests arrive as signals, whose handlers raise in the main thread wherever it is just then.

What must not be torn apart (a child or a file, and the note that says who removes it) runs `unbroken`; a handler that
is about to raise asks `postpone` first. Blocking the signals themselves would not do: Python runs handlers in the main
thread whichever thread the kernel interrupts, and children inherit the mask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Unbroken:
    def __init__(self) -> None:
        self._depth = 0
        self._postponed: Callable[[], object] | None = None

    def postpone(self, stop: Callable[[], object]) -> bool:
        """Keeps `stop`, which raises, for the end of the block that runs now; false when there is none."""
        if self._depth:
            self._postponed = stop
        return self._depth > 0

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._depth += 1

    def __exit__(self, *exc: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if self._depth == 0 and self._postponed is not None:
            stop, self._postponed = self._postponed, None
            stop()


unbroken = _Unbroken()
"""`with unbroken:` for short work in the main thread; in other threads, which no signal interrupts, it does nothing."""

postpone = unbroken.postpone
