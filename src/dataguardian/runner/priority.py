"""A backup must not slow down what it protects: it gets less of the processor and of the disk than everybody else."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

NICENESS = 10
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_BEST_EFFORT_LOWEST = 2 << 13 | 7


def lower_priority() -> None:
    """Lowers this process's priority, and that of every thread and child that it starts. Failing to is no error."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # kernels that share processors out by session look at the session's own value
        Path("/proc/self/autogroup").write_text(str(NICENESS))
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _BEST_EFFORT_LOWEST)
