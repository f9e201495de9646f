"""A worker that froze and wakes when another one has taken its work over."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable

import psycopg
import pytest

from tests.faults.service import Parts, Service, check_storage, wait_until
from tests.faults.test_kills import PARTS_STORED

_RENEWING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND state = '{}' AND query LIKE 'UPDATE backup_executions SET %lease_until=%'
"""


@pytest.mark.parametrize("moment", ["at any moment", "in a transaction"])
def test_a_worker_that_wakes_too_late_writes_nothing_more(
    real: Parts, services: Callable[..., Service], moment: str
) -> None:
    """Its parts are removed by itself, the other worker's backup is the only one, and is told of once."""
    lease = {"DATAGUARDIAN_LEASE_SECONDS": "3"}
    frozen = services(real, name="frozen", env=lease, points=[PARTS_STORED])
    other = services(real, name="other", role="worker", env=lease)
    frozen.start()
    runner = frozen.reached(PARTS_STORED)
    if moment == "in a transaction":
        stop_in_a_transaction(real, frozen.pid)
    for pid in (frozen.pid, runner):
        os.kill(pid, signal.SIGSTOP)
    other.start()
    wait_until(lambda: "completed" in other.log, lambda: f"the other worker has done it: {other.log}")
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


def stop_in_a_transaction(parts: Parts, pid: int) -> None:
    """Stops a service that renews a lease between its UPDATE and its COMMIT: it holds the row's lock."""
    assert parts.postgres is not None
    assert parts.database is not None
    ask = functools.partial(parts.postgres.execute, parts.database)
    with psycopg.connect(parts.postgres.url(parts.database)) as connection:
        connection.execute("SELECT id FROM backup_executions FOR UPDATE")
        wait_until(lambda: bool(ask(_RENEWING.format("active"))), "it waits for the lock that we hold")
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: bool(ask(_RENEWING.format("idle in transaction"))), "it has the lock")
