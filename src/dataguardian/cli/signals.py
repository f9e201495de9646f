"""SIGINT, SIGTERM and SIGHUP: the first one stops the work by an exception, and later ones let the clean-up finish."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from dataguardian.domain.errors import CancelledError, DataGuardianError
from dataguardian.interruption import postpone

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Remembers that a signal asked to stop.

    The handler raises in the main thread, so that a read that waits for a silent child ends too. An exception that is
    raised inside a finalizer is lost, so `check`, called with every report of progress, raises it again.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._raised = False
        self._done = False

    def install(self) -> None:
        """Takes the signals over, in the main thread. Those that the caller ignores (nohup, `&`) stay ignored."""
        for signum in HANDLED:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._handle)
        sys.unraisablehook = _report_unraisable

    def check(self) -> None:
        """Raises CancelledError once a signal has arrived."""
        if self.signum is not None:
            self._raised = True
            raise self._error(self.signum)

    def sleep(self, seconds: float) -> None:
        """Sleeps; in a thread other than the main one, which no signal interrupts, a stop ends it by CancelledError.

        The main thread sleeps on while it cleans up after a stop, because a retried delete is part of that.
        """
        if threading.current_thread() is threading.main_thread():
            time.sleep(seconds)
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))

    def commit(self) -> None:
        """The last moment to stop, before what cannot be recalled: raises CancelledError once a signal has arrived."""
        self.check()
        self.finish()

    def finish(self) -> None:
        """Only what cannot be recalled, or the result, is left to do: a signal comes too late from now on."""
        self._done = True

    def retire(self) -> None:
        """Nothing but the interpreter's own end is left, which would let a signal kill a program that is done."""
        self._done = True
        for signum in HANDLED:
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, signal.SIG_IGN)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._done or self.signum is not None:
            text = b"too late to stop, finishing...\n" if self._done else b"cleaning up, please wait...\n"
            with contextlib.suppress(OSError):
                os.write(2, text)
            return
        self.signum, self._raised = signum, False
        if not postpone(self._stop, frame):
            self._stop()

    def _stop(self) -> None:
        """Raises, unless a `check` was first, or it has become too late since the signal came."""
        if not self._raised and not self._done:
            self.check()

    @staticmethod
    def _error(signum: int) -> CancelledError:
        return CancelledError(f"stopped by {signal.Signals(signum).name}", signum=signum)


def _report_unraisable(lost: sys.UnraisableHookArgs) -> None:
    """A stop that was raised where nobody could catch it is raised again by `check`: no stack trace for it."""
    if lost.exc_type is not CancelledError:
        sys.__unraisablehook__(lost)


STOP = StopRequest()
"""The one of this process."""


@contextlib.contextmanager
def stoppable(outcome: str) -> Iterator[None]:
    """Turns whatever came of a signal inside the block into one CancelledError that tells its `outcome`.

    An error that a clean-up left (its notes say what remains) is told instead of the outcome, which it contradicts.
    """
    try:
        STOP.check()  # a stop that came while modules were loaded may wait for a good moment still
        yield
    except Exception as error:
        if STOP.signum is None:
            raise
        raise told(error, STOP.signum, outcome) from error


def told(error: Exception, signum: int, outcome: str = "") -> CancelledError:
    """Returns what the user hears of an error that a signal led to."""
    notes = getattr(error, "__notes__", [])
    name = signal.Signals(signum).name
    stopped = CancelledError(
        f"stopped by {name}: {outcome}" if outcome and not notes else f"stopped by {name}", signum=signum
    )
    for note in notes:
        stopped.add_note(note)
    if not isinstance(error, CancelledError):
        stopped.add_note(f"it ended with: {error.message if isinstance(error, DataGuardianError) else repr(error)}")
    return stopped
