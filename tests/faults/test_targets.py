"""Several storage locations, kill -9, and what the next start makes of it."""

from __future__ import annotations

from pathlib import Path

from dataguardian.core.verify import run_verify
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.faults.service import Service, wait_until

PARTS_STORED = "dataguardian.runner.link:Link.confirm"
"""In the runner: every part is stored, and only the manifests are missing."""


def objects(disk: Path, backup: str) -> dict[str, bytes]:
    folder = disk / backup
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def good(disk: Path, backup: str) -> bool:
    return run_verify(LocalStorage(LocalConfig(path=str(disk))), backup).ok


def test_killed_in_a_backup_and_in_its_repair(service: Service) -> None:
    """The service is killed when a backup to two storages lacks only its manifests: the next start takes it again, and
    cleanup removes what was left in both. Then one storage is away for a backup, which is partial, and the service is
    killed while it is repaired: the next start goes on with the repair, and both hold the same bytes.
    """
    service.start()
    second = service.folder("second-disk")
    location = {"name": "second", "type": "local", "config": {"path": str(second)}}
    further = service.post("/api/storage-locations", location)["id"]
    options = {"part_size_mb": 1, "storage_targets": [further]}
    job = service.job("shop", backup_options=options)
    first = service.folder("shop-disk")
    service.settled()
    assert service.stop() == 0
    service.points = [PARTS_STORED]
    service.start()
    path = service.run(job)
    service.reached(PARTS_STORED)
    left = service.kill()
    service.points = []
    service.start()
    row = service.ended(path)
    assert (row["status"], row["attempt"]) == ("completed", 2), row["error_message"]
    assert [target["status"] for target in row["targets"]] == ["stored", "stored"]
    service.gone(left)
    service.clean_up()
    for disk in (first, second):
        assert [str(run.relative_to(disk)) for run in (disk / "shop").iterdir()] == [row["backup_path"]]
        assert good(disk, row["backup_path"])

    second.rename(second.with_suffix(".away"))
    partial = service.ended(service.run(job))
    assert partial["status"] == "partial"
    assert [target["status"] for target in partial["targets"]] == ["stored", "behind"]
    [told] = service.notifications("backup_failed")
    assert told["severity"] == "warning"
    second.with_suffix(".away").rename(second)
    assert service.stop() == 0
    service.points = [PARTS_STORED]
    service.start()
    [repair] = service.post(f"/api/executions/{partial['id']}/repair")["repair_ids"]
    service.reached(PARTS_STORED)
    assert not (second / partial["backup_path"] / "manifest.json").exists()
    service.kill()
    service.points = []
    service.start()
    assert service.ended(f"/api/repairs/{repair}")["status"] == "completed"
    path = f"/api/executions/{partial['id']}"
    wait_until(lambda: service.get(path)["status"] == "completed", "the backup is completed")
    assert objects(first, partial["backup_path"]) == objects(second, partial["backup_path"])
    assert good(second, partial["backup_path"])
    assert len(service.notifications("backup_failed")) == 1
    assert service.stop() == 0
