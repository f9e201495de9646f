"""The runner's line to the service that started it."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from dataguardian.core.progress import Progress
from dataguardian.domain.errors import CancelledError
from dataguardian.runner.protocol import Answer, Message, Task
from dataguardian.runner.stop import Stop

PROGRESS_SECONDS = 0.25
FRESH_SECONDS = 20.0
"""An answer that took longer is asked for again: this process may have been frozen, and the lease may be over."""


class Link:
    """The line to the service. Only this writes to the real standard output; whatever else prints goes to stderr."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._last_progress = 0.0

    def receive_task(self) -> Task:
        task = Task.model_validate_json(sys.stdin.buffer.readline())
        threading.Thread(target=self._listen, name="service", daemon=True).start()
        return task

    def send(self, kind: str, data: dict[str, Any]) -> None:
        line = Message.model_validate({"kind": kind, "data": data}).model_dump_json().encode() + b"\n"
        with self._lock:
            self._out.write(line)

    def report(self, progress: Progress) -> None:
        self.stop.check()
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = now
            self.send("progress", asdict(progress))

    def confirm(self) -> None:
        """Asks whether the work is still ours, before what cannot be recalled; nothing stops the runner afterwards.

        Raises CancelledError when it is not: somebody else has taken over, or a person has cancelled it.
        """
        asked = -FRESH_SECONDS
        while time.monotonic() - asked >= FRESH_SECONDS:
            asked = time.monotonic()
            self.send("confirm", {})
            if not self._answers.get().go:
                raise CancelledError("it was cancelled, or another worker has taken over, so nothing more is written")
        self.stop.no_return()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._answers.put(Answer.model_validate_json(line))
        self._answers.put(Answer(go=False))
        os.kill(os.getpid(), signal.SIGTERM)  # the service is gone: stop, clean up
