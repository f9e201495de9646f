"""A backup gets less of the machine than what it protects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dataguardian.runner.priority import NICENESS

LOWERED = """
import os
from pathlib import Path
from dataguardian.runner.priority import lower_priority
lower_priority()
group = Path("/proc/self/autogroup")
assert os.sched_getscheduler(0) == os.SCHED_BATCH
print(os.nice(0), os.getsid(0) == os.getpid(), group.read_text().split()[-1] if group.exists() else "", sep=",")
"""


def test_process_and_session_step_back() -> None:
    """Linux may share processors out by session first: then only a session of its own, stepped back, leaves room."""
    argv = [sys.executable, "-c", LOWERED]
    done = subprocess.run(argv, start_new_session=True, check=True, stdout=subprocess.PIPE, text=True)
    autogroup = str(NICENESS) if Path("/proc/self/autogroup").exists() else ""
    assert done.stdout.strip() == f"{NICENESS},True,{autogroup}"


PROMPT = """
import ctypes, os, struct, sys
from dataguardian.runner.priority import answer_promptly, lower_priority

def slice_of_ours():
    attributes = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
    ctypes.CDLL(None).syscall(number, 0, attributes, 48, 0)
    return struct.unpack("=IIQiIQQQ", attributes.raw)[5]

usual = slice_of_ours()
answer_promptly()
short = slice_of_ours()
child = os.fork()
if child == 0:
    os.setsid()
    lower_priority()
    os._exit(0 if slice_of_ours() == usual else 1)
print(usual > short or usual == 0, os.waitpid(child, 0)[1])
"""


def test_short_slices_are_the_service_s_alone() -> None:
    """The service asks for short slices where the kernel knows them; its runners have the kernel's own again."""
    argv = [sys.executable, "-c", PROMPT]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["True", "0"]


READY = """
import os
from dataguardian.runner.priority import yield_readily
yield_readily()
first = os.sched_getscheduler(0)
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
yield_readily()
print(first == os.SCHED_BATCH, os.sched_getscheduler(0) == os.SCHED_IDLE, os.nice(0))
"""


def test_a_backup_by_hand_gives_way() -> None:
    """It keeps its share, and whoever wakes up goes first; what somebody has chosen for it (chrt) stays."""
    done = subprocess.run([sys.executable, "-c", READY], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["True", "True", "0"]
