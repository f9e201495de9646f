"""Disks that fill up, peers that hang, and people who change their minds while a backup runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import missing
from tests.faults.service import Parts, Service, check_storage, wait_for, wait_until, words
from tests.faults.test_kills import PARTS_STORED
from tests.notifiers.peers import hang, misbehaving_server

MB = 1_000_000


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        missing("root, to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Writes until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass


def test_a_job_is_edited_and_may_not_be_deleted_while_it_runs(service: Service) -> None:
    """What runs goes on as it was begun; the next run is as the job is then. What is in use is not deleted: 409."""
    service.start()
    service.settled()
    job = service.job("shop")
    service.stop()
    service.points = [PARTS_STORED]
    service.start()
    running = service.run(job)
    service.reached(PARTS_STORED)
    other = service.folder("other-disk")
    storage = service.post("/api/storage-locations", {"name": "other", "type": "local", "config": {"path": str(other)}})
    service.put(f"/api/backup-jobs/{job['id']}", {"name": "shop 2", "storage_location_id": storage["id"]})
    used = {
        "backup-jobs": job["id"],
        "datasources": job["datasource_id"],
        "storage-locations": job["storage_location_id"],
    }
    for things, thing in used.items():
        answer = service.call("DELETE", f"/api/{things}/{thing}")
        assert (answer.status_code, "in use by" in answer.text) == (409, True), answer.text
    service.go(PARTS_STORED)
    first = service.ended(running)
    assert (first["status"], first["storage_location_id"]) == ("completed", job["storage_location_id"])
    check_storage(service.folder("shop-disk"), [first])
    second = service.ended(service.run(job))
    assert (second["status"], second["storage_location_id"]) == ("completed", storage["id"])
    assert second["backup_path"].startswith("shop-2-")
    check_storage(other, [second])
    assert service.stop() == 0


def test_a_storage_fills_up_in_the_middle(tmp_path: Path, services: Callable[..., Service]) -> None:
    """The backup has failed, in clear words, once and for all; nothing of it is left; the storage is known as full."""
    service = services(Parts(tmp_path))
    with small_disk(tmp_path / "small", 6) as disk:
        service.start()
        job = service.job("shop", storage_path=disk)
        service.tree("shop-source", 20 * MB)
        row = service.ended(service.run(job))
        assert (row["status"], row["attempt"]) == ("failed", 1)
        assert "full" in row["error_message"] or "No space" in row["error_message"]
        assert not [path for path in disk.rglob("*") if path.is_file()]
        [told] = service.notifications("backup_failed")
        assert words(told["message"]) == words(row["error_message"])
        ballast = disk / "ballast"
        fill(ballast)
        service.stop()
        service.start()  # which checks what was not checked in these five minutes

        def status() -> bool:
            return bool(service.get(f"/api/storage-locations/{job['storage_location_id']}")["status"] == "full")

        wait_until(status, "the storage is known to be full")
        assert len(service.notifications("storage_full")) == 1
        ballast.unlink()
        service.tree("shop-source", 1 * MB)
        assert service.ended(service.run(job))["status"] == "completed"
        assert service.stop() == 0
        service.gone()


def test_the_disk_of_the_home_fills_up(tmp_path: Path, services: Callable[..., Service]) -> None:
    """Catalogue and queue can write nothing for a while: calls say why, and with room again everything goes on."""
    with small_disk(tmp_path / "home", 64) as home:
        service = services(Parts(tmp_path), points=[PARTS_STORED])
        service.start()
        job = service.job("shop")
        service.reached(PARTS_STORED)
        ballast = home / "ballast"
        fill(ballast)

        def refused() -> bool:
            answer = service.call("POST", f"/api/backup-jobs/{job['id']}/run")
            assert answer.status_code in (202, 409, 503), answer.text
            return bool(answer.status_code == 503)

        wait_until(refused, "a run is refused")
        service.go(PARTS_STORED)
        time.sleep(3)
        assert service.call("GET", "/api/executions").status_code == 200
        ballast.unlink()
        wait_for(lambda: not refused() or None, "a run is taken again")
        rows = service.settled()
        assert [row["status"] for row in rows] == ["completed"] * len(rows), [row["error_message"] for row in rows]
        assert service.stop() == 0
        service.gone()


def test_a_receiver_of_notifications_that_hangs_holds_nothing_up(
    tmp_path: Path, services: Callable[..., Service]
) -> None:
    """A webhook that takes the connection and never answers: backups run meanwhile, and the service stops in time."""
    service = services(Parts(tmp_path), env={"DATAGUARDIAN_DRAIN_SECONDS": "1"})
    with misbehaving_server(hang) as dead:
        service.start()
        channel = {"type": "webhook", "url": f"http://127.0.0.1:{dead.port}/", "timeout_seconds": 20}
        routes = [{"types": ["backup_success"], "channels": ["dead"]}]
        value = {"channels": {"dead": channel}, "routes": routes}
        service.put("/api/system/settings/notifications", {"value": value})
        job = service.job("shop")
        for _ in range(2):
            assert service.ended(service.run(job))["status"] == "completed"
        service.settled()
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 60
        service.gone()
