"""A backup must not slow down what it protects: it gets less of the processor and of the disk than everybody else."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from pathlib import Path

NICENESS = 10
TRIES = 5
PAUSE_SECONDS = 0.1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_BEST_EFFORT_LOWEST = 2 << 13 | 7


def lower_priority() -> None:
    """Lowers this process's priority, and that of every thread and child that it starts. Failing to is no error.

    For the leader of a session: kernels with `sched_autogroup` first share processors out by session.
    """
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        _step_session_back(Path("/proc/self/autogroup"))
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _BEST_EFFORT_LOWEST)


def _step_session_back(autogroup: Path) -> None:
    for _ in range(TRIES):
        try:
            autogroup.write_text(str(NICENESS))
        except BlockingIOError:  # the kernel lets ordinary users do this ten times a second, all of them together
            time.sleep(PAUSE_SECONDS)
        else:
            return
