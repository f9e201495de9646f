"""A backup must not slow down what it protects: it gets less of the processor and of the disk than everybody else.

Measured on two cores that three backups kept busy, the slowest in a hundred of the service's answers took 62 to 90 ms
while its runners ran at niceness 10, 54 to 69 ms at 19 as batches, 44 to 53 ms with short slices for itself besides.
Longer slices for runners made it worse (120 to 290 ms), and so did SCHED_IDLE (82 to 106 ms).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from pathlib import Path

NICENESS = 19
TRIES = 5
PAUSE_SECONDS = 0.1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_BEST_EFFORT_LOWEST = 2 << 13 | 7
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SLICE_NANOSECONDS = 200_000
_USUAL_SLICE = 0


def answer_promptly() -> None:
    """Asks for short slices of the processor, for this process and its threads: whoever needs it for moments only then
    gets it at once, although others are at work. It gets no larger share. Failing to is no error.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen for us
        _schedule(os.SCHED_OTHER, _SLICE_NANOSECONDS)


def yield_readily() -> None:
    """Has this process, and every thread and child that it starts from now on, give way to whoever wakes up: to the
    database that it backs up, for one. Their own work is interrupted half as often, which saves 2 % of the processor.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen for us
        _schedule(os.SCHED_BATCH, _USUAL_SLICE)


def lower_priority() -> None:
    """Lowers this process's priority, and that of every thread and child that it starts. Failing to is no error.

    For the leader of a session: kernels with `sched_autogroup` first share processors out by session.
    """
    os.nice(NICENESS)
    _schedule(os.SCHED_BATCH, _USUAL_SLICE)
    with contextlib.suppress(OSError):
        _step_session_back(Path("/proc/self/autogroup"))
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _BEST_EFFORT_LOWEST)


def _schedule(policy: int, slice_nanoseconds: int) -> None:
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is not None:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, policy, 0, niceness, 0, slice_nanoseconds, 0, 0)
        ctypes.CDLL(None, use_errno=True).syscall(number, 0, wanted, 0)


def _step_session_back(autogroup: Path) -> None:
    for _ in range(TRIES):
        try:
            autogroup.write_text(str(NICENESS))
        except BlockingIOError:  # the kernel lets ordinary users do this ten times a second, all of them together
            time.sleep(PAUSE_SECONDS)
        else:
            return
