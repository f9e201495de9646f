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
print(os.nice(0), os.getsid(0) == os.getpid(), group.read_text().split()[-1] if group.exists() else "", sep=",")
"""


def test_process_and_session_step_back() -> None:
    """Linux may share processors out by session first: then only a session of its own, stepped back, leaves room."""
    argv = [sys.executable, "-c", LOWERED]
    done = subprocess.run(argv, start_new_session=True, check=True, stdout=subprocess.PIPE, text=True)
    autogroup = str(NICENESS) if Path("/proc/self/autogroup").exists() else ""
    assert done.stdout.strip() == f"{NICENESS},True,{autogroup}"
