"""kill -9, at the worst moments. Whatever it tears apart, the next start mends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.service import SETTLE_SECONDS, Service, check_storage, stored

COMMITTED = "dataguardian.service.executions:Executions.enqueue"
"""The row is committed, and the queue does not know of it."""
PARTS_STORED = "dataguardian.runner.child:Link.confirm"
"""In the runner: every part is stored, or all is restored beside the target, and nothing is published."""
MANIFEST_STORED = "dataguardian.service.executions:Executions.complete"
"""The backup exists, and the catalogue does not know."""
MIGRATING = "alembic.runtime.migration:HeadMaintainer.update_to_step"
"""The tables are there, the transaction is open."""
REMOVING = "dataguardian.service.removal:_delete_some"
"""In the cleanup: the manifest of a failed attempt is gone, its parts are there."""


def settle_and_clean(service: Service, disk: Path) -> list[dict[str, Any]]:
    """Waits for everything to end, cleans up, and holds the storage against the catalogue; returns all executions."""
    rows = service.settled()
    service.clean_up()
    check_storage(disk, rows)
    return rows


@pytest.mark.parametrize("point", [MIGRATING, COMMITTED, PARTS_STORED, MANIFEST_STORED])
def test_the_service_is_killed_in_its_first_backup(service: Service, point: str) -> None:
    """Wherever its first start is torn apart, the second one ends it: one backup, told of once, and no orphans."""
    service.points = [point]
    service.spawn()
    service.reached(point)
    left = service.kill()
    service.points = []
    began = time.monotonic()
    service.start()
    [row] = settle_and_clean(service, service.home / "backups")
    assert time.monotonic() - began < SETTLE_SECONDS
    assert row["status"] == "completed", row["error_message"]
    assert row["metadata"]["adopted"] is (point == MANIFEST_STORED)
    assert len(service.notifications("backup_success")) == 1
    assert service.notifications("backup_failed") == []
    service.gone(left)
    assert service.stop() == 0


def test_a_runner_is_killed(service: Service) -> None:
    """kill -9 of a runner is a crash that may pass: the queue tries again, and nobody is told of a failure."""
    service.points = [PARTS_STORED]
    service.start()
    os.kill(service.reached(PARTS_STORED), signal.SIGKILL)
    [row] = service.settled()
    assert stored(service.home / "backups").keys() > {row["backup_path"]}  # the parts of the first attempt
    [row] = settle_and_clean(service, service.home / "backups")
    assert (row["status"], row["attempt"]) == ("completed", 2)
    assert len(service.notifications("backup_success")) == 1
    assert service.notifications("backup_failed") == []
    assert service.stop() == 0
    service.gone()


def test_the_power_fails_in_a_backup_and_again_in_the_cleanup(service: Service) -> None:
    """Nobody could tidy up; the next attempt works beside what was left, and cleanup removes that, and only that."""
    disk = service.home / "backups"
    service.points = [PARTS_STORED]
    service.start()
    service.reached(PARTS_STORED)
    [torn] = stored(disk)
    service.cut_power()
    service.points = [REMOVING]
    service.start()
    [row] = service.settled()
    assert row["status"] == "completed", row["error_message"]
    assert stored(disk).keys() == {torn, row["backup_path"]}
    service.post("/api/system/cleanup")
    service.reached(REMOVING)
    service.cut_power()
    service.points = []
    service.start()
    assert torn in stored(disk)
    [same] = settle_and_clean(service, disk)
    assert same["id"] == row["id"]
    assert service.stop() == 0


def test_the_service_is_killed_in_a_restore(service: Service) -> None:
    """A restore is begun once: it has failed, says what to do, left the target as it was, and can be started anew."""
    service.start()
    job = service.job("shop")
    backup = service.ended(service.run(job))
    assert backup["status"] == "completed", backup["error_message"]
    service.settled()
    assert service.stop() == 0
    source = service.folder("shop-source")
    (source / "a.txt").write_text("changed since\n")
    before = {path.name for path in source.parent.iterdir()}
    service.points = [PARTS_STORED]
    service.start()
    order = {"confirm": "shop", "drop_existing": True}
    service.post(f"/api/executions/{backup['id']}/restore", order)
    service.reached(PARTS_STORED)
    left = service.kill()
    service.points = []
    service.start()
    [torn] = service.get("/api/restores")["data"]
    torn = service.ended(f"/api/restores/{torn['id']}")
    assert torn["status"] == "failed"
    assert "look at the target" in torn["error_message"]
    service.gone(left)
    assert (source / "a.txt").read_text() == "changed since\n"
    beside = {path.name for path in source.parent.iterdir()} - before
    assert not [name for name in beside if "source" in name]
    again = service.post(f"/api/executions/{backup['id']}/restore", order)["restore_id"]
    done = service.ended(f"/api/restores/{again}")
    assert done["status"] == "completed", done["error_message"]
    assert (source / "a.txt").read_text() == "hello\n"
    assert service.stop() == 0
