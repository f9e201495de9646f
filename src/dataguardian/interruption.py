"""Stop requests arrive as signals, whose handlers raise in the main thread wherever it is just then.

What must not be torn apart (a child or a file, and the note that says who removes it) runs `unbroken`; a handler that
is about to raise asks `postpone` first. Blocking the signals themselves would not do: Python runs handlers in the main
thread whichever thread the kernel interrupts, and children inherit the mask.

Nor is a module torn apart while it is being imported: what is raised there reaches us as another error (Python wraps
what comes out of `__set_name__`, libraries take it for a package that is missing), and half a module would be in the
way of the clean-up. The stop is raised behind the import statement instead.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_IMPORTING = "<frozen importlib._bootstrap>"


class _Unbroken:
    def __init__(self) -> None:
        self._depth = 0
        self._postponed: Callable[[], object] | None = None

    def postpone(self, stop: Callable[[], object], frame: FrameType | None) -> bool:
        """Keeps `stop`, which raises, for the end of the block or of the import that `frame`, the one that a signal
        interrupted, runs in; false when there is neither.
        """
        if self._depth:
            self._postponed = stop
        elif (importer := _importer(frame)) is not None:
            _call_back_in(importer, stop)
        else:
            return False
        return True

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


def _importer(frame: FrameType | None) -> FrameType | None:
    """Returns the frame of the outermost import statement that is being carried out; None when there is none."""
    importer = None
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            importer = frame.f_back
        frame = frame.f_back
    return importer


def _call_back_in(frame: FrameType, stop: Callable[[], object]) -> None:
    """Calls `stop` as soon as anything happens in `frame` itself again, in the way of debuggers."""
    before = sys.gettrace()

    def trace(_frame: FrameType, _event: str, _argument: object) -> Any:  # noqa: ANN401 -- what sys.settrace takes
        frame.f_trace = None
        sys.settrace(before)
        stop()

    frame.f_trace = trace
    sys.settrace(lambda *_: None)  # frames that begin now are none of ours


unbroken = _Unbroken()
"""`with unbroken:` for short work in the main thread; in other threads, which no signal interrupts, it does nothing."""

postpone = unbroken.postpone
