"""Restores and verifications: asked for by API, carried out by a worker, and what becomes of them in a crash."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from dataguardian.db.models import BackupExecution
from dataguardian.queues.definitions import QueueName
from dataguardian.service.executions import LEASE, QUEUED_GRACE
from dataguardian.service.work import MAX_ATTEMPTS
from dataguardian.service.workkinds import Kind, WorkClaim, kind_of, queue_job_id
from tests.api.stage import Desk, database, is_error, notes, play


def test_a_backup_comes_back_into_its_own_datasource(tmp_path: Path) -> None:
    """With the name typed and `drop_existing` set, what was lost since the backup is back; the restore has a log."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        backup = await desk.backup(job)
        database(tmp_path / "shop.db", "written after the backup")
        refused = await _restored(desk, backup, {"confirm": "shop"})
        assert refused["status"] == "failed"
        assert "already exists" in refused["error_message"], refused
        assert len(notes(tmp_path / "shop.db")) == 2
        done = await _restored(desk, backup, {"confirm": "shop", "drop_existing": True})
        assert done["status"] == "completed", done
        assert done["size_bytes"] > 0
        assert notes(tmp_path / "shop.db") == ["hello"]
        logs = (await desk.get(f"/api/restores/{done['id']}/logs")).json()["data"]
        assert logs[-1]["message"] == "completed"
        assert [row.id for row in await desk.here.all_executions()] == [backup.id]

    play(tmp_path, story)


def test_a_backup_goes_into_another_datasource_of_its_type(tmp_path: Path) -> None:
    """The confirmation is the name of the one that is written to; the source stays as it is."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        other = await desk.datasource("copy")
        (tmp_path / "copy.db").unlink()
        body = {"confirm": "copy", "target_datasource_id": other["id"]}
        done = await _restored(desk, backup, body)
        assert done["status"] == "completed", done
        assert notes(tmp_path / "copy.db") == ["hello"]

    play(tmp_path, story)


def test_a_restore_that_nobody_confirmed_does_not_begin(tmp_path: Path) -> None:
    """A wrong or missing name, another type, an unknown stream, target or backup, a run that holds no backup."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        backup = await desk.backup(job)
        other = await desk.datasource("copy")
        files = await desk.made(
            "/api/datasources", {"name": "tree", "type": "files", "connection_config": {"source_path": str(tmp_path)}}
        )
        path = f"/api/executions/{backup.id}/restore"
        wrong = is_error(await desk.post(path, {"confirm": "Shop"}), 422, "wrong_usage")
        assert "shop" in wrong["details"]["hint"]
        is_error(await desk.post(path, {"confirm": "shop", "target_datasource_id": other["id"]}), 422)
        is_error(await desk.post(path, {"confirm": "tree", "target_datasource_id": files["id"]}), 422, "wrong_usage")
        is_error(await desk.post(path, {"confirm": "shop", "streams": ["nothing"]}), 422, "wrong_usage")
        is_error(await desk.post(path, {}), 422, "validation")
        is_error(await desk.post(path), 422, "validation")
        is_error(await desk.post(path, {"confirm": "shop", "target_datasource_id": str(uuid.uuid4())}), 404)
        is_error(await desk.post(f"/api/executions/{uuid.uuid4()}/restore", {"confirm": "shop"}), 404, "not_found")
        await desk.post(f"/api/backup-jobs/{job['id']}/run")
        queued = (await desk.get("/api/executions", status="queued")).json()["data"][0]
        for verb, body in (("restore", {"confirm": "shop"}), ("verify", {})):
            is_error(await desk.post(f"/api/executions/{queued['id']}/{verb}", body), 409, "conflict")
        assert (await desk.get("/api/restores")).json()["data"] == []

    play(tmp_path, story)


def test_two_restores_into_one_target_do_not_meet(tmp_path: Path) -> None:
    """The second is a conflict that names the first; after the first was cancelled it may begin."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        path = f"/api/executions/{backup.id}/restore"
        both = await asyncio.gather(*(desk.post(path, {"confirm": "shop"}) for _ in range(2)))
        first, second = sorted(both, key=lambda answer: answer.status_code)
        assert first.status_code == 202
        restore_id = first.json()["restore_id"]
        assert is_error(second, 409, "conflict")["details"]["restore_id"] == restore_id
        cancelled = await desk.post(f"/api/restores/{restore_id}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
        is_error(await desk.post(f"/api/restores/{restore_id}/cancel"), 409, "conflict")
        assert (await desk.post(path, {"confirm": "shop"})).status_code == 202

    play(tmp_path, story)


def test_work_on_a_backup_keeps_it_from_being_deleted(tmp_path: Path) -> None:
    """A queued restore or verification is a lease; when it has ended the backup may go, and takes them along."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        path = f"/api/executions/{backup.id}"
        for verb, body, place in (("verify", {}, "verifications"), ("restore", {"confirm": "shop"}, "restores")):
            started = (await desk.post(f"{path}/{verb}", body)).json()
            is_error(await desk.delete(path, force="true"), 409, "conflict")
            (work_id,) = started.values()
            assert (await desk.post(f"/api/{place}/{work_id}/cancel")).status_code == 202
        assert (await desk.delete(path, force="true")).status_code == 204
        assert (await desk.get("/api/restores")).json()["data"] == []

    play(tmp_path, story)


def test_a_verification_finds_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    """Good at both levels; then a flipped bit is found, told as a critical notification, and the row says so."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        for body in (None, {"deep": True}):
            done = await _verified(desk, backup, body)
            assert (done["status"], done["ok"], done["errors"]) == ("completed", True, []), done
        part = next((tmp_path / "storage-of-shop").rglob("000001.zst"))
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
        done = await _verified(desk, backup, None)
        assert (done["status"], done["ok"]) == ("completed", False)
        assert "000001.zst" in done["errors"][0]
        alarm = (await desk.get("/api/notifications", severity="critical")).json()["data"][0]
        assert alarm["type"] == "system_alarm"
        assert alarm["metadata"]["execution_id"] == str(backup.id)

    play(tmp_path, story)


def test_lists_of_work_are_narrowed_by_the_backup(tmp_path: Path) -> None:
    """By execution, job, datasource, storage location, state and time."""

    async def story(desk: Desk) -> None:
        first, second = await desk.job("first"), await desk.job("second")
        backups = [await desk.backup(first), await desk.backup(second)]
        ids = [(await desk.post(f"/api/executions/{backup.id}/verify")).json()["verification_id"] for backup in backups]
        for query in (
            {"execution_id": str(backups[0].id)},
            {"job_id": first["id"]},
            {"datasource_id": first["datasource_id"], "status": "queued"},
            {"storage_location_id": first["storage_location_id"]},
        ):
            body = (await desk.get("/api/verifications", **query)).json()
            assert [row["id"] for row in body["data"]] == [ids[0]], query
        later = (desk.here.clock.now() + timedelta(days=1)).isoformat()
        assert (await desk.get("/api/verifications", **{"from": later})).json()["data"] == []
        assert (await desk.get("/api/verifications", to=later)).json()["pagination"]["total"] == 2

    play(tmp_path, story)


def test_a_running_restore_is_cancelled_and_changes_nothing(tmp_path: Path) -> None:
    """The runner is stopped before the swap; the target is as it was."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        database(tmp_path / "shop.db", "newer")
        answer = await desk.post(f"/api/executions/{backup.id}/restore", {"confirm": "shop", "drop_existing": True})
        path = f"/api/restores/{answer.json()['restore_id']}"
        async with desk.restoring():
            while (await desk.get(path)).json()["status"] == "queued":
                await asyncio.sleep(0.02)
            await desk.post(f"{path}/cancel")
            done = await desk.ended(path)
        assert done["status"] == "cancelled"
        assert len(notes(tmp_path / "shop.db")) == 2

    play(tmp_path, story)


def test_an_interrupted_restore_has_failed_and_an_interrupted_verification_begins_anew(tmp_path: Path) -> None:
    """After a crash nobody finds a database replaced that they did not ask for; a check does no harm."""

    async def story(desk: Desk) -> None:
        restore, verification = (claim.row for claim in await _both_running(desk))
        reborn = type(desk.services.work)(desk.here.reboot().context, desk.services.events)
        assert await reborn.reconcile() == 2
        failed = (await desk.get(f"/api/restores/{restore.id}")).json()
        assert failed["status"] == "failed"
        assert "look at the target" in failed["error_message"]
        again = (await desk.get(f"/api/verifications/{verification.id}")).json()
        assert (again["status"], again["attempt"]) == ("queued", 1)
        assert await desk.services.work.claim(Kind.VERIFICATION, verification.id, 1) is None
        assert await desk.services.work.claim(Kind.VERIFICATION, verification.id, 2) is not None

    play(tmp_path, story)


def test_a_verification_whose_workers_keep_dying_fails_in_the_end(tmp_path: Path) -> None:
    """Nothing is begun for ever."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        row = await desk.services.work.start_verification(backup.id, deep=False)
        for number in range(1, MAX_ATTEMPTS + 1):
            assert await desk.services.work.claim(Kind.VERIFICATION, row.id, number)
            desk.here.clock.advance(seconds=LEASE.total_seconds() + 1)
            await desk.services.work.reconcile()
        shown = (await desk.get(f"/api/verifications/{row.id}")).json()
        assert shown["status"] == "failed"
        assert f"{MAX_ATTEMPTS} times" in shown["error_message"]

    play(tmp_path, story)


def test_a_worker_that_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    """Frozen past its lease and woken, it finds the work taken over, whatever it wanted to record."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        work = desk.services.work
        row = await work.start_verification(backup.id, deep=False)
        frozen = await work.claim(Kind.VERIFICATION, row.id, 1)
        assert frozen is not None
        assert await work.renew(frozen) is False
        desk.here.clock.advance(seconds=LEASE.total_seconds() + 1)
        await work.reconcile()
        taken = await work.claim(Kind.VERIFICATION, row.id, 2)
        assert taken is not None
        result = {"ok": False, "errors": ["wrong"], "level": "stored", "parts": 1}
        assert await work.renew(frozen) is None
        assert await work.complete(frozen, result) is False
        await work.cancelled(frozen)
        await work.hand_back(frozen)
        assert await work.complete(taken, result | {"ok": True, "errors": []}) is True
        assert (await desk.get(f"/api/verifications/{row.id}")).json()["ok"] is True

    play(tmp_path, story)


def test_work_that_the_queue_lost_is_queued_again_once(tmp_path: Path) -> None:
    """A crash between commit and enqueue is mended under a new number; what the queue knows is left alone."""

    async def story(desk: Desk) -> None:
        backup = await desk.backup(await desk.job())
        work, queues = desk.services.work, desk.services.context.queues
        row = await work.start_verification(backup.id, deep=False)
        desk.here.clock.advance(seconds=QUEUED_GRACE.total_seconds() + 1)
        assert await work.reconcile() == 0
        await queues.remove(QueueName.RESTORE, queue_job_id(row))
        assert await work.reconcile() == 1
        assert await queues.states(QueueName.RESTORE, [f"{row.id}-2"]) != ["unknown"]
        async with desk.restoring():
            assert (await desk.ended(f"/api/verifications/{row.id}"))["ok"] is True

    play(tmp_path, story)


def test_a_shutdown_hands_a_verification_back_and_ends_a_restore(tmp_path: Path) -> None:
    """Running work that cannot end in time: the check waits for the next start, the restore says what to do."""

    async def story(desk: Desk) -> None:
        claims = await _both_running(desk)
        restore, verification = (claim.row for claim in claims)
        for claim in claims:
            await desk.services.work.hand_back(claim)
        assert (await desk.get(f"/api/restores/{restore.id}")).json()["status"] == "failed"
        assert (await desk.get(f"/api/verifications/{verification.id}")).json()["status"] == "queued"

    play(tmp_path, story)


async def _both_running(desk: Desk) -> list[WorkClaim]:
    """Returns the claims of a restore and of a verification of one backup."""
    backup = await desk.backup(await desk.job())
    work = desk.services.work
    rows = [await work.start_restore(backup.id, confirm="shop"), await work.start_verification(backup.id, deep=False)]
    claims = [await work.claim(kind_of(row), row.id, 1) for row in rows]
    return [claim for claim in claims if claim is not None]


async def _restored(desk: Desk, backup: BackupExecution, body: dict[str, Any]) -> dict[str, Any]:
    answer = await desk.post(f"/api/executions/{backup.id}/restore", body)
    assert answer.status_code == 202, answer.text
    async with desk.restoring():
        return await desk.ended(f"/api/restores/{answer.json()['restore_id']}")


async def _verified(desk: Desk, backup: BackupExecution, body: dict[str, Any] | None) -> dict[str, Any]:
    answer = await desk.post(f"/api/executions/{backup.id}/verify", body)
    assert answer.status_code == 202, answer.text
    async with desk.restoring():
        return await desk.ended(f"/api/verifications/{answer.json()['verification_id']}")
