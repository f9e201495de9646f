"""SIGTERM: no new work, time for what runs, and the rest handed back."""

from __future__ import annotations

import signal

import httpx
import pytest

from tests.faults.service import Service, catalogue, check_storage, wait_until
from tests.faults.test_kills import PARTS_STORED

STATES = "SELECT status, attempt FROM backup_executions ORDER BY created_at"


def test_running_work_ends_within_the_grace(service: Service) -> None:
    """A backup that runs at SIGTERM becomes complete; one that waits is not begun, and runs after the next start."""
    service.env = {"DATAGUARDIAN_DRAIN_SECONDS": "120"}
    service.points = [PARTS_STORED]
    service.start()
    job = service.job("shop")
    service.reached(PARTS_STORED)
    service.post("/api/system/queues/backup-queue/pause")
    service.run(job)
    service.post("/api/system/queues/backup-queue/resume")
    service.signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in service.log, "it stops")
    with pytest.raises(httpx.HTTPError):
        wait_until(lambda: not service.get("/api/executions"), "the API is gone")
    service.go(PARTS_STORED)
    assert service.wait() == 0
    service.gone()
    first, second = catalogue(service.parts, service.home, STATES)
    assert first == ("completed", 1)
    assert second[0] in ("queued", "completed")  # it may have been begun before the signal, and was then let end
    service.points = []
    service.start()
    rows = service.settled()
    assert [row["status"] for row in rows] == ["completed"] * 2
    assert service.stop() == 0


def test_what_does_not_end_in_time_is_handed_back(service: Service) -> None:
    """After the grace the runner removes what it stored; the next start begins anew, and the try was not lost."""
    service.env = {"DATAGUARDIAN_DRAIN_SECONDS": "0.5"}
    service.points = [PARTS_STORED]
    service.start()
    service.reached(PARTS_STORED)
    assert service.stop() == 0
    service.gone()
    assert not list((service.home / "backups").rglob("*.zst"))
    assert catalogue(service.parts, service.home, STATES) == [("queued", 1)]
    assert catalogue(service.parts, service.home, "SELECT tries_left FROM backup_executions") == [(3,)]
    service.points = []
    service.start()
    [row] = service.settled()
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert len(service.notifications("backup_success")) == 1
    service.clean_up()
    check_storage(service.home / "backups", [row])
    assert service.stop() == 0
