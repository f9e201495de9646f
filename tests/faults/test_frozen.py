"""A worker that froze and wakes when another one has taken its work over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.faults.service import Parts, Service, check_storage, wait_until
from tests.faults.test_kills import PARTS_STORED


def test_a_worker_that_wakes_too_late_writes_nothing_more(real: Parts, services: Callable[..., Service]) -> None:
    """Its parts are removed by itself, the other worker's backup is the only one, and is told of once."""
    lease = {"DATAGUARDIAN_LEASE_SECONDS": "3"}
    frozen = services(real, name="frozen", env=lease, points=[PARTS_STORED])
    other = services(real, name="other", role="worker", env=lease)
    frozen.start()
    runner = frozen.reached(PARTS_STORED)
    for pid in (frozen.pid, runner):
        os.kill(pid, signal.SIGSTOP)
    other.start()
    wait_until(lambda: "completed" in other.log, "the other worker has done it")
    frozen.go(PARTS_STORED)
    for pid in (runner, frozen.pid):
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "somebody else has taken over" in frozen.log, "it found out")
    [row] = frozen.settled()
    assert (row["status"], row["attempt"]) == ("completed", 2)
    check_storage(frozen.home / "backups", [row])
    assert len(frozen.notifications()) == 1
    frozen.clean_up()
    check_storage(frozen.home / "backups", [row])
    assert frozen.stop() == 0
    assert other.stop() == 0
