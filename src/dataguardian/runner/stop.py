"""How the runner is stopped: one SIGTERM raises in the main thread, and what was begun is undone; later ones are late.

What must not be torn apart runs `unbroken` (dataguardian/interruption.py). Once the service has agreed to a backup's
publication or a restore's swap, nothing stops the runner any more: half a step would be worse than a late one.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from dataguardian.domain.errors import CancelledError
from dataguardian.interruption import postpone

LOOK_SECONDS = 0.1


class Stop:
    """The stop request of this process."""

    def __init__(self) -> None:
        self._asked = False
        self._raised = False

    def install(self) -> None:
        """Takes the signals over, in the main thread. Ctrl-C is for the service, which tells us."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def check(self) -> None:
        """Raises CancelledError once the service has asked: what a finalizer swallowed is raised again."""
        if self._asked:
            self._raised = True
            raise CancelledError("stopped by the service", signum=signal.SIGTERM)

    def no_return(self) -> None:
        """From now on nothing stops this process but its end."""
        self.check()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def sleep(self, seconds: float) -> None:
        """Sleeps between tries. A stop ends it in threads, which no signal interrupts; the main thread cleans up."""
        if threading.current_thread() is threading.main_thread():
            time.sleep(seconds)
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, LOOK_SECONDS))

    def _handle(self, _signum: int, frame: FrameType | None) -> None:
        if self._asked:
            return  # the clean-up is not interrupted again
        self._asked = True
        if not postpone(self._stop, frame):
            self._stop()

    def _stop(self) -> None:
        """Raises, unless a `check` was first since the signal came."""
        if not self._raised:
            self.check()
