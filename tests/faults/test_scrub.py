"""kill -9 in the middle of a weekly sample: on embedded parts and on PostgreSQL + Redis it goes on where it was."""

from __future__ import annotations

from typing import Any

from tests.faults.service import Service, wait_for

BACKUPS = 3


def test_a_sample_survives_kill_9(service: Service) -> None:
    """Verifications that were queued or running end after the restart, each once; the rotten one is told of, once."""
    service.start()
    first = service.settled()[0]
    job = f"/api/backup-jobs/{first['job_id']}/run"
    for _ in range(BACKUPS - 1):
        service.ended(f"/api/executions/{service.post(job)['execution_id']}")
    part = next((service.home / "backups" / first["backup_path"]).rglob("000001.*"))
    *whole, last = part.read_bytes()
    part.write_bytes(bytes([*whole, last ^ 1]))
    service.put("/api/system/settings/scrub", {"value": {"percent": 100}})
    planned = service.post("/api/system/scrub")["sample"]["storage_locations"]
    assert [(entry["planned"], entry["active"]) for entry in planned] == [(BACKUPS, BACKUPS)]
    service.kill()
    service.gone()
    service.start()

    def ended() -> list[dict[str, Any]] | None:
        rows = service.get("/api/verifications", limit=100)["data"]
        return rows if all(row["status"] not in {"queued", "running"} for row in rows) else None

    rows = wait_for(ended, "every verification has ended", 120)
    assert sorted(row["execution_id"] for row in rows) == sorted(row["id"] for row in service.executions())
    assert {row["execution_id"]: row["ok"] for row in rows} == {
        row["id"]: row["id"] != first["id"] for row in service.executions()
    }
    shown = {
        row["id"]: (row["last_verified_at"] is not None, row["last_verification_ok"]) for row in service.executions()
    }
    assert shown == {row["id"]: (True, row["id"] != first["id"]) for row in service.executions()}
    assert len(service.notifications("system_alarm")) == 1
    assert service.stop() == 0
