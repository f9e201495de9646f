"""Stop requests arrive as signals, whose handlers raise in the main thread wherever it is just then.

What must not be torn apart (a child or a file, and the note that says who removes it) runs `unbroken`; a handler that
is about to raise asks `postpone` first. Blocking the signals themselves would not do: Python runs handlers in the main
thread whichever thread the kernel interrupts, and children inherit the mask.

Where an error is on its way and what was begun is undone, a stop adds nothing but half a clean-up: it is dropped
(`undoing`). Whoever waits for this process reads the error, and a handler that remembers the request tells of both.

Nor does Python itself bear it everywhere. What is raised inside an import reaches us as another error (Python wraps
what comes out of `__set_name__`, libraries take it for a package that is missing), and half a module would be in the
way of the clean-up. What is raised while a thread is started makes the thread fail or leaves it unknown to its pool,
and a condition that has just been entered would stay locked for ever. There the stop is raised a moment later.
"""

from __future__ import annotations

import atexit
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_IMPORTING = "<frozen importlib._bootstrap>"
_POOLS = str(Path(threading.__file__).parent / "concurrent" / "futures" / "thread.py")
_WHOLE = {
    (threading.__file__, "Thread.start"),
    (threading.__file__, "Condition.__enter__"),
    (threading.__file__, "Condition.__exit__"),
    (_POOLS, "ThreadPoolExecutor.submit"),
    (tempfile.__file__, "_get_default_tempdir"),  # makes a file in the folder, to see whether it can
}
"""File and name of functions that are short and not to be torn apart."""
_AGAIN_SECONDS = 0.005


class _Unbroken:
    def __init__(self) -> None:
        self._depth = 0
        self._postponed: Callable[[], object] | None = None

    def postpone(self, stop: Callable[[], object], frame: FrameType | None) -> bool:
        """Keeps `stop`, which raises, for the end of the block that runs now, or for a better moment when Python must
        not be interrupted in `frame`, where the signal came; false when there is neither.
        """
        if self._depth:
            self._postponed = stop
        elif _is_inside_of_whole(frame):
            _ask_again(stop)
        else:
            return False
        return True

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """For clean-ups while an error is on its way: a stop that comes inside is not raised."""
        with self:
            before = self._postponed
            try:
                yield
            finally:
                if threading.current_thread() is threading.main_thread():
                    self._postponed = before

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


def _is_inside_of_whole(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _IMPORTING or (code.co_filename, code.co_qualname) in _WHOLE:
            return True
        frame = frame.f_back
    return False


def _ask_again(stop: Callable[[], object]) -> None:
    """Has an alarm call `stop` in the main thread, unless the moment is a bad one again.

    A debugger's way, which stops behind a certain line, would skip the `finally` that this line is the last before.
    """
    before, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)

    def disarm() -> None:
        atexit.unregister(disarm)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)

    def again(_signum: int, frame: FrameType | None) -> None:
        disarm()
        if not postpone(stop, frame):
            stop()

    atexit.register(disarm)  # to a process that ends, and has handlers no more, an alarm is deadly
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


unbroken = _Unbroken()
"""`with unbroken:` for short work in the main thread; in other threads, which no signal interrupts, it does nothing."""

undoing = unbroken.undoing
postpone = unbroken.postpone
