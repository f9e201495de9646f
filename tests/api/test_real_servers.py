"""The same API on PostgreSQL and Redis: every list, filter and verb meets the other SQL at least once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataguardian.service.secrets import MASK
from tests.api.stage import Desk, database, is_error, notes, play
from tests.faults.service import RedisServer
from tests.servers import PostgresServer


@pytest.fixture
def servers(tmp_path: Path, postgres17: PostgresServer) -> Iterator[dict[str, str]]:
    redis = RedisServer(tmp_path / "redis")
    yield {"database_url": postgres17.url(postgres17.database()), "redis_url": redis.url}
    redis.stop()


def test_a_backup_is_defined_run_checked_restored_and_deleted(tmp_path: Path, servers: dict[str, str]) -> None:
    """The main path, from nothing to nothing."""

    async def story(desk: Desk) -> None:
        info = (await desk.get("/api/system/info")).json()
        assert (info["catalogue"], info["queue"]) == ("postgresql", "redis")
        job = await desk.job(schedule_cron="0 4 * * *", retention_policy={"keep_daily": 3})
        backup = await desk.backup(job)
        database(tmp_path / "shop.db", "later")
        path = f"/api/executions/{backup.id}"
        check = (await desk.post(f"{path}/verify", {"deep": True})).json()["verification_id"]
        restore = (await desk.post(f"{path}/restore", {"confirm": "shop", "drop_existing": True})).json()["restore_id"]
        is_error(await desk.delete(path, force=True), 409, "conflict")
        async with desk.restoring():
            assert (await desk.ended(f"/api/verifications/{check}"))["ok"] is True
            assert (await desk.ended(f"/api/restores/{restore}"))["status"] == "completed"
        assert notes(tmp_path / "shop.db") == ["hello"]
        preview = (await desk.get(f"/api/backup-jobs/{job['id']}/retention-preview")).json()
        assert [row["keep"] for row in preview["backups"]] == [True]
        assert (await desk.get("/api/system/overview")).json()["last_24_hours"]["completed"] == 1
        assert "dataguardian_job_last_success_size_bytes" in (await desk.get("/metrics")).text
        assert (await desk.delete(path, force=True)).status_code == 204
        assert (await desk.delete(f"/api/backup-jobs/{job['id']}")).status_code == 204
        assert (await desk.delete(f"/api/datasources/{job['datasource_id']}")).status_code == 204

    play(tmp_path, story, **servers)


def test_every_list_takes_every_filter(tmp_path: Path, servers: dict[str, str]) -> None:
    """Alone and all at once; what fits is found."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        backup = await desk.backup(job)
        await desk.post(f"/api/executions/{backup.id}/verify")
        times = {"from": "2026-02-01T00:00:00Z", "to": "2027-01-01T00:00:00+01:00"}
        place = {name: job[name] for name in ("datasource_id", "storage_location_id")}
        of_backup = place | times | {"job_id": job["id"]}
        lists = {
            "/api/datasources": {},
            "/api/storage-locations": {},
            "/api/backup-jobs": place,
            "/api/executions": of_backup | {"status": "completed"},
            "/api/verifications": of_backup | {"status": "queued", "execution_id": str(backup.id)},
            "/api/notifications": times
            | {"type": "backup_success", "severity": "info", "unread": "true"}
            | {"entity_type": "backup_job", "entity_id": job["id"]},
            f"/api/executions/{backup.id}/logs": {"after": 1},
        }
        for path, filters in lists.items():
            for query in ({}, *({name: value} for name, value in filters.items()), filters):
                body = (await desk.get(path, **query)).json()
                assert body["data"], (path, query)
                assert len(body["data"]) == body["pagination"]["total"]
        nothing = of_backup | {"execution_id": str(uuid.uuid4()), "status": "failed"}
        assert (await desk.get("/api/restores", **nothing)).json()["data"] == []
        assert (await desk.get("/api/health", **place, **times, status="ok")).json()["data"] == []

    play(tmp_path, story, **servers)


def test_settings_and_conflicts_hold_there_too(tmp_path: Path, servers: dict[str, str]) -> None:
    """Masks, taken names, one default, a lease against a deletion at the same moment."""

    async def story(desk: Desk) -> None:
        path = "/api/system/settings/notifications"
        channels = {"ops": {"type": "webhook", "url": "http://127.0.0.1:1/x"}}
        shown = (await desk.put(path, {"value": {"channels": channels}})).json()["value"]["channels"]
        assert shown["ops"]["url"] == MASK
        assert (await desk.put(path, {"value": {"channels": shown}})).status_code == 200
        await desk.storage("disk", is_default=True)
        assert (await desk.storage("other", is_default=True))["is_default"]
        is_error(
            await desk.post("/api/storage-locations", {"name": "disk", "type": "local", "config": {"path": "/x"}}), 409
        )
        huge = {"name": "x", "type": "local", "config": {"path": "/x", "max_size_gb": 1e308}}
        assert (await desk.post("/api/storage-locations", huge)).status_code in {201, 422}

    play(tmp_path, story, **servers)
