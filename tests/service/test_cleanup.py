"""Cleanup: what goes, what stays, and everything that it must not trust."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dataguardian.core.backup import attempt_directory
from dataguardian.db.models import (
    AbandonedDirectory,
    BackupExecution,
    ExecutionLog,
    HealthCheck,
    NotificationRow,
    Restore,
)
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.domain.errors import ConflictError, NotFoundError, StorageUnreachableError
from dataguardian.domain.ids import new_id
from dataguardian.domain.retention import describe
from dataguardian.domain.states import CheckStatus, ExecutionStatus, WorkStatus
from dataguardian.queues.consumer import Consumer
from dataguardian.queues.definitions import QueueName
from dataguardian.service.cleanup import Cleanup
from dataguardian.storage.base import Storage
from dataguardian.storage.temporary import temporary_name
from dataguardian.workers.cleanup import CleanupWorker
from tests.db import rows
from tests.service.backups import completed, failed, play, storage_of
from tests.service.stage import START, Stage
from tests.storage.faulty import Fault, FaultyStorage

DAY = timedelta(days=1)
TWO_DAYS = {"keep_daily": 2, "keep_weekly": 0, "keep_monthly": 0}


def cleanup(here: Stage) -> Cleanup:
    return Cleanup(here.context, here.events)


def faulty(here: Stage, *faults: Fault) -> tuple[Cleanup, FaultyStorage]:
    """A cleanup whose storage misbehaves as scripted."""
    storage = FaultyStorage(storage_of(here), *faults)
    return Cleanup(here.context, here.events, opener=lambda *_: storage), storage


async def ids(here: Stage) -> set[uuid.UUID]:
    return {row.id for row in await here.all_executions()}


async def set_row(here: Stage, row_id: uuid.UUID, **values: object) -> None:
    async with here.context.db.write() as session:
        row = await ExecutionRepository(session).locked(row_id)
        for name, value in values.items():
            setattr(row, name, value)


def folders(here: Stage, name: str = "shop") -> set[str]:
    """The runs that have any file in a job's storage."""
    return {path.relative_to(here.folder / f"storage-of-{name}").parts[1] for path in here.stored(name)}


def test_what_no_rule_holds_goes_and_the_rest_stays(tmp_path: Path) -> None:
    """Rows, parts and folders of expired backups go, oldest first; the others can still be read; it is told once."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in range(5)]
        preview = await cleanup(here).retention_preview(job.id)
        assert [decision.id for decision in preview.doomed] == [str(row.id) for row in rows[2:]]
        assert preview.blocked is None
        assert describe(preview.decisions[1]) == "kept as a daily backup until 2026-03-02"
        report = await cleanup(here).run()
        assert (report.removed, report.problems, report.complete) == (3, [], True)
        assert await ids(here) == {row.id for row in rows[:2]}
        assert folders(here) == {Path(row.backup_path or "").name for row in rows[:2]}
        (note,) = await here.notifications()
        assert (note.type, note.severity, note.entity_id) == ("cleanup_completed", "info", job.id)
        assert note.details == {"removed": 3, "size_bytes": report.removed_bytes}
        assert report.removed_bytes == sum(row.compressed_size_bytes or 0 for row in rows[2:])
        assert (await cleanup(here).run()).removed == 0

    play(tmp_path, story)


def test_without_automatic_deletion_nothing_goes(tmp_path: Path) -> None:
    """A policy that is switched off keeps everything."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS | {"auto_delete": False})
        for age in (0, 30):
            await completed(here, job, START - age * DAY)
        assert (await cleanup(here).run()).removed == 0
        assert len(await ids(here)) == 2

    play(tmp_path, story)


def test_a_missing_manifest_is_an_alarm_and_no_deletion(tmp_path: Path) -> None:
    """The expired backup's manifest is gone: its row stays, somebody is told, and the next expired one still goes."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5, 6)]
        storage_of(here).delete(f"{rows[2].backup_path}/manifest.json")
        report = await cleanup(here).run()
        assert report.removed == 1
        assert await ids(here) == {rows[0].id, rows[2].id}
        assert "no manifest" in report.problems[0]
        alarm = [note for note in await here.notifications() if note.type == "system_alarm"]
        assert [note.severity for note in alarm] == ["critical"]
        assert str(rows[2].backup_path) in alarm[0].message

    play(tmp_path, story)


def test_a_manifest_of_another_backup_is_not_deleted(tmp_path: Path) -> None:
    """Where the row points there is a backup with another checksum, or of another execution: nobody touches it."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5, 6)]
        await set_row(here, rows[1].id, checksum="0" * 64)
        await set_row(here, rows[2].id, backup_path=rows[0].backup_path)
        report = await cleanup(here).run()
        assert report.removed == 0
        assert len(folders(here)) == 3
        assert any("checksum" in text for text in report.problems)
        assert any("another execution" in text for text in report.problems)

    play(tmp_path, story)


def test_an_empty_folder_in_the_place_of_a_disk_removes_nothing(tmp_path: Path) -> None:
    """The disk is not mounted, and its empty folder answers: no row goes, not even one whose deletion had begun."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5, 6)]
        await set_row(here, rows[2].id, status=ExecutionStatus.DELETING)
        place = here.folder / "storage-of-shop"
        place.rename(here.folder / "unmounted")
        place.mkdir()
        report = await cleanup(here).run()
        assert report.removed == 0
        assert "newest good backup" in report.problems[0]
        assert await ids(here) == {row.id for row in rows}
        place.rmdir()
        (here.folder / "unmounted").rename(place)
        assert (await cleanup(here).run()).removed == 2

    play(tmp_path, story)


def test_a_storage_that_is_away_stops_its_job_and_no_other(tmp_path: Path) -> None:
    """One job's storage is gone; the other job is cleaned, and the first one when its storage is back."""

    async def story(here: Stage) -> None:
        jobs = [await here.job(name, retention_policy=TWO_DAYS) for name in ("away", "near")]
        for job in jobs:
            for age in (0, 5):
                await completed(here, job, START - age * DAY)
        (here.folder / "storage-of-away").rename(here.folder / "gone")
        report = await cleanup(here).run()
        assert report.removed == 1
        assert [text.partition(":")[0] for text in report.problems] == ["away"]
        (here.folder / "gone").rename(here.folder / "storage-of-away")
        assert (await cleanup(here).run()).removed == 1

    play(tmp_path, story)


def test_a_storage_that_goes_in_the_middle_leaves_work_for_the_next_pass(tmp_path: Path) -> None:
    """The manifest is deleted and then the storage dies: the row says `deleting`, and the next pass ends it."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5, 6)]
        gone = StorageUnreachableError("the cable was pulled")
        broken, storage = faulty(here, Fault(op="delete", nth=2, times=1, error=gone))
        report = await broken.run()
        storage.assert_all_fired()
        assert report.removed == 0
        assert (await here.execution(rows[2].id)).status == "deleting"
        assert (await here.execution(rows[1].id)).status == "completed"
        assert (await cleanup(here).run()).removed == 2
        assert await ids(here) == {rows[0].id}
        assert len(folders(here)) == 1

    play(tmp_path, story)


def test_a_listing_that_is_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    """A storage lists one object at a time; the directory is emptied all the same."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in (0, 5):
            await completed(here, job, START - age * DAY)
        short, storage = faulty(here, Fault(op="list", times=2, keep=1))
        assert (await short.run()).removed == 1
        storage.assert_all_fired()
        assert len(folders(here)) == 1

    play(tmp_path, story)


def test_a_storage_that_only_claims_to_delete_is_found_out(tmp_path: Path) -> None:
    """Deletes that do nothing end the job with an error, not in an endless loop, and the row stays."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in (0, 5):
            await completed(here, job, START - age * DAY)
        liar, _ = faulty(here, Fault(op="delete", times=10**6, forget=True))
        report = await liar.run()
        assert report.removed == 0
        assert "still there" in report.problems[0]

    play(tmp_path, story)


class Interrupting(FaultyStorage):
    """Lets something happen between the second look at a manifest, the one of a doomed backup, and its deletion."""

    def __init__(self, storage: Storage, what: Callable[[], Coroutine[Any, Any, object]]) -> None:
        super().__init__(storage)
        self._what, self._loop = what, asyncio.get_running_loop()
        self._looks = self.happened = 0

    def get(self, path: str, max_bytes: int) -> bytes:
        data = super().get(path, max_bytes)
        self._looks += 1
        if self._looks == 2:
            asyncio.run_coroutine_threadsafe(self._what(), self._loop).result(10)
            self.happened += 1
        return data


@pytest.mark.parametrize("event", ["pinned", "leased"])
def test_what_happens_between_plan_and_deletion_counts(tmp_path: Path, event: str) -> None:
    """The backup is planned to go and its manifest was read; then it is pinned, or a restore takes it: it stays."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5)]

        async def happen() -> None:
            if event == "pinned":
                await here.executions.pin(rows[1].id, pinned=True)
            else:
                await lease(here, rows[1], job.datasource_id)

        storage = Interrupting(storage_of(here), happen)
        report = await Cleanup(here.context, here.events, opener=lambda *_: storage).run()
        assert storage.happened == 1
        assert (report.removed, report.problems) == (0, [])
        assert (await here.execution(rows[1].id)).status == "completed"
        assert len(folders(here)) == 2

    play(tmp_path, story)


async def lease(here: Stage, row: BackupExecution, target: uuid.UUID, status: str = "running") -> None:
    async with here.context.db.write() as session:
        session.add(
            Restore(
                id=new_id(START),
                created_at=START,
                updated_at=START,
                execution_id=row.id,
                status=WorkStatus(status),
                details={},
                attempt=1,
                enqueue_number=1,
                cancel_requested=False,
                target_datasource_id=target,
                drop_existing=False,
                streams=[],
            )
        )


def test_two_cleanups_at_once_remove_and_count_everything_once(tmp_path: Path) -> None:
    """Two passes run over the same jobs; together they report each backup once."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in range(7)]
        reports = await asyncio.gather(cleanup(here).run(), cleanup(here).run())
        assert sum(report.removed for report in reports) == 5
        assert [report.problems for report in reports] == [[], []]
        assert await ids(here) == {row.id for row in rows[:2]}
        told = [note.details["removed"] for note in await here.notifications()]
        assert sum(told) == 5

    play(tmp_path, story)


def test_a_backup_that_was_restored_and_verified_once_goes_with_that_history(tmp_path: Path) -> None:
    """Ended restores and logs of an expired backup do not hold it."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5)]
        await lease(here, rows[1], job.datasource_id, "completed")
        async with here.context.db.write() as session:
            session.add(log_line(rows[1].id, START))
        report = await cleanup(here).run()
        assert (report.removed, report.problems) == (1, [])
        async with here.context.db.read() as session:
            assert (await session.execute(select(ExecutionLog))).first() is None

    play(tmp_path, story)


def log_line(owner_id: uuid.UUID, at: datetime, number: int = 1) -> ExecutionLog:
    return ExecutionLog(
        id=new_id(at),
        created_at=at,
        updated_at=at,
        owner_id=owner_id,
        number=number,
        level="info",
        message="m",
        details={},
    )


def test_a_clock_that_jumped_stops_the_pass_for_a_day(tmp_path: Path) -> None:
    """Years ahead, then back: no backup goes until the clock was quiet for a day, or a person forces it."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 1)]
        assert (await cleanup(here).run()).problems == []
        here.clock.advance(days=3650)
        report = await cleanup(here).run()
        assert report.removed == 0
        assert "Nothing was removed" in report.problems[0]
        here.clock.advance(days=-3650)
        assert len((await cleanup(here).run()).problems) == 1
        assert await ids(here) == {row.id for row in rows}
        here.clock.advance(hours=19)
        assert len((await cleanup(here).run()).problems) == 1
        here.clock.advance(hours=2)
        assert (await cleanup(here).run()).removed == 1

    play(tmp_path, story)


def test_a_person_may_say_that_the_clock_is_right(tmp_path: Path) -> None:
    """After a long holiday the pass is refused once, and forced once."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in (0, 1):
            await completed(here, job, START - age * DAY)
        await cleanup(here).run()
        here.clock.advance(days=30)
        assert (await cleanup(here).run()).removed == 0
        assert (await cleanup(here).run(force=True)).removed == 1

    play(tmp_path, story)


def test_a_newest_backup_in_the_future_stops_its_job(tmp_path: Path) -> None:
    """A backup that bears a date yet to come was taken by a wrong clock: nothing of its job goes."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in (-40, 5, 6):
            await completed(here, job, START - age * DAY)
        report = await cleanup(here).run()
        assert report.removed == 0
        assert "yet to come" in report.problems[0]
        assert (await cleanup(here).retention_preview(job.id)).blocked is not None

    play(tmp_path, story)


def test_more_than_a_share_at_once_needs_a_person(tmp_path: Path) -> None:
    """A policy that was cut from weeks to days would take six of eight backups: refused, until it is forced."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in range(8):
            await completed(here, job, START - age * DAY)
        report = await cleanup(here).run()
        assert report.removed == 0
        assert "6 of its 8 backups" in report.problems[0]
        assert (await cleanup(here).run(job.id, force=True)).removed == 6

    play(tmp_path, story)


def test_leftovers_of_failed_attempts_go_and_nothing_else(tmp_path: Path) -> None:
    """Half a backup is removed; a whole one of a failed execution and an unknown folder are reported and stay."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        good = await completed(here, job, START)
        await failed(here, job, START - DAY)
        whole = await failed(here, job, START - 2 * DAY, whole=True)
        storage_of(here).put("stranger/20200101T000000Z-x-1/manifest.json", b"{}")
        report = await cleanup(here).run()
        assert report.directories == 1
        assert len(report.problems) == 1
        assert str(whole.id) in report.problems[0]
        assert report.unknown_directories == ["stranger/20200101T000000Z-x-1"]
        assert len(folders(here)) == 3
        async with here.context.db.read() as session:
            notes = (await session.execute(select(AbandonedDirectory.execution_id))).scalars().all()
        assert notes == [whole.id]
        assert (await here.execution(good.id)).status == "completed"
        assert (await cleanup(here).last_report() or {})["directories"] == 1

    play(tmp_path, story)


def test_what_a_killed_put_of_a_failed_attempt_left_goes_with_it(tmp_path: Path) -> None:
    """It lies in no directory, and yet is a part of that attempt; another backup's is not touched."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        await completed(here, job, START)
        row = await failed(here, job, START - DAY)
        disk = here.folder / "storage-of-shop"
        left = temporary_name(f"{attempt_directory(job.name, START - DAY, str(row.id), 1)}/01-source.tar/000002.zst")
        other = temporary_name("shop/somebody-else/x")
        for name in (left, other):
            (disk / name).write_bytes(b"half a part")
        assert (await cleanup(here).run()).directories == 1
        assert [path.name for path in disk.iterdir() if path.is_file()] == [other]

    play(tmp_path, story)


def test_leftovers_of_an_execution_that_may_go_on_are_left_alone(tmp_path: Path) -> None:
    """Between two tries an execution is queued, and may adopt what its last attempt left."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await failed(here, job, START - DAY)
        await set_row(here, row.id, status=ExecutionStatus.QUEUED)
        assert (await cleanup(here).run()).directories == 0
        assert len(folders(here)) == 1

    play(tmp_path, story)


def test_a_directory_that_a_completed_row_names_is_never_a_leftover(tmp_path: Path) -> None:
    """A note that was not taken off the list after an adoption does not cost the backup."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await failed(here, job, START - DAY, whole=True)
        async with here.context.db.read() as session:
            path = (await session.execute(select(AbandonedDirectory.path))).scalar_one()
        await set_row(here, row.id, status=ExecutionStatus.COMPLETED, backup_path=path)
        report = await cleanup(here).run()
        assert (report.directories, report.problems) == (0, [])
        assert len(folders(here)) == 1

    play(tmp_path, story)


def test_a_part_that_a_woken_worker_stores_late_goes_with_the_next_pass(tmp_path: Path) -> None:
    """The note of a leftover is kept for an hour, so that what a frozen worker adds is found, too."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await failed(here, job, START)
        assert (await cleanup(here).run()).directories == 1
        assert folders(here) == set()
        storage_of(here).put(f"shop/20260301T120000Z-{row.id}-1/01-source.tar/000002.zst", b"late")
        here.clock.advance(hours=2)
        await cleanup(here).run()
        assert folders(here) == set()

    play(tmp_path, story)


def test_deleting_one_execution_is_refused_with_a_reason(tmp_path: Path) -> None:
    """Pinned, being read, active, the newest good one, unknown: each is refused in its own words."""

    async def story(here: Stage) -> None:
        job = await here.job()
        newest, pinned, leased, free = [await completed(here, job, START - age * DAY) for age in range(4)]
        await here.executions.pin(pinned.id, pinned=True)
        await lease(here, leased, job.datasource_id)
        active = await here.executions.start(job.id)
        service = cleanup(here)
        for row, words in ((newest, "newest"), (pinned, "pinned"), (leased, "restore"), (active, "queued")):
            with pytest.raises(ConflictError, match=words) as caught:
                await service.delete_execution(row.id)
            assert caught.value.hint
        with pytest.raises(NotFoundError):
            await service.delete_execution(uuid.uuid4())
        await service.delete_execution(free.id)
        assert free.id not in await ids(here)
        assert len(folders(here)) == 3
        with pytest.raises(ConflictError, match="pinned"):
            await service.delete_execution(pinned.id, force=True)
        await service.delete_execution(newest.id, force=True)
        assert newest.id not in await ids(here)

    play(tmp_path, story)


def test_deleting_a_backup_that_is_not_there_needs_force(tmp_path: Path) -> None:
    """A row whose manifest is missing stays until a person insists."""

    async def story(here: Stage) -> None:
        job = await here.job()
        _, old = [await completed(here, job, START - age * DAY) for age in range(2)]
        storage_of(here).delete(f"{old.backup_path}/manifest.json")
        with pytest.raises(ConflictError, match="no manifest"):
            await cleanup(here).delete_execution(old.id)
        await cleanup(here).delete_execution(old.id, force=True)
        assert old.id not in await ids(here)
        assert len(folders(here)) == 1

    play(tmp_path, story)


def test_deleting_a_failed_execution_takes_its_leftovers(tmp_path: Path) -> None:
    """What a failed attempt stored goes with its row."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await failed(here, job, START)
        await cleanup(here).delete_execution(row.id)
        assert await ids(here) == set()
        assert folders(here) == set()

    play(tmp_path, story)


def test_old_rows_are_pruned_and_young_ones_are_not(tmp_path: Path) -> None:
    """Health checks after 30 days, read notifications, failed executions and logs after 90, restores after 365."""

    async def story(here: Stage) -> None:
        job = await here.job()
        backup = await completed(here, job, START - 400 * DAY)
        for status in ("failed", "skipped", "cancelled"):
            for age in (91, 89):
                row = await completed(here, job, START - age * DAY)
                await set_row(here, row.id, status=ExecutionStatus(status), backup_path=None)
        async with here.context.db.write() as session:
            for age in (31, 29):
                session.add(health_check(job.datasource_id, START - age * DAY))
            for age in (91, 89):
                session.add(log_line(backup.id, START - age * DAY, number=age))
                session.add(notification(START - age * DAY, read=True))
            session.add(notification(START - 91 * DAY, read=False))
            for age in (366, 364):
                session.add(rows.verification(backup, at=START - age * DAY, status=WorkStatus.COMPLETED))
        report = await cleanup(here).run()
        assert report.pruned == {
            "health_checks": 1,
            "notifications": 1,
            "ended_work": 1,
            "executions": 3,
            "execution_logs": 1,
        }
        assert backup.id in await ids(here)
        assert len(await ids(here)) == 4

    play(tmp_path, story)


def health_check(datasource_id: uuid.UUID, at: datetime) -> HealthCheck:
    return HealthCheck(
        id=new_id(at),
        created_at=at,
        updated_at=at,
        datasource_id=datasource_id,
        checked_at=at,
        status=CheckStatus.OK,
        details={},
    )


def notification(at: datetime, *, read: bool) -> NotificationRow:
    return NotificationRow(
        id=new_id(at),
        created_at=at,
        updated_at=at,
        type="backup_success",
        severity="info",
        entity_type="system",
        title="t",
        message="m",
        details={},
        read_at=at if read else None,
    )


def test_the_daily_pass_is_queued_once_and_begun_again_after_a_shutdown(tmp_path: Path) -> None:
    """At four in the morning one pass is queued, however often it is asked; one cut short is queued again."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in (0, 5):
            await completed(here, job, START - age * DAY)
        service = cleanup(here)
        assert not await service.enqueue_due()
        here.clock.advance(hours=16, minutes=1)
        assert [await service.enqueue_due() for _ in range(3)] == [True, False, False]
        stopping = asyncio.Event()
        stopping.set()
        worker = CleanupWorker(service, stopping)
        (queued,) = await here.context.queues.jobs(QueueName.CLEANUP, "waiting")
        await worker.process(queued)  # a shutdown: ends before it did anything
        assert len(await ids(here)) == 2
        await here.context.queues.remove(QueueName.CLEANUP, queued.id)
        assert await service.enqueue_due()
        consumer = Consumer(here.context.queues.url, QueueName.CLEANUP, CleanupWorker(service, asyncio.Event()).process)
        consumer.start()
        try:
            async with asyncio.timeout(20):
                while len(await ids(here)) == 2 or await service.last_report() is None:
                    await asyncio.sleep(0.05)
                while (await here.context.queues.counts())[QueueName.CLEANUP]["completed"] == 0:
                    await asyncio.sleep(0.05)
        finally:
            await consumer.stop(5, hurry=asyncio.Event())
        assert not await service.enqueue_due()
        await worker.process(queued)  # stale
        assert len(await ids(here)) == 1

    play(tmp_path, story)


def test_a_pass_is_run_on_demand(tmp_path: Path) -> None:
    """For one job or for everything, through the queue; an unknown job is refused at once."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        for age in (0, 5):
            await completed(here, job, START - age * DAY)
        service = cleanup(here)
        with pytest.raises(NotFoundError):
            await service.run_now(uuid.uuid4())
        queue_job_id = await service.run_now(job.id)
        (queued,) = await here.context.queues.jobs(QueueName.CLEANUP, "waiting")
        assert queued.id == queue_job_id
        await CleanupWorker(service, asyncio.Event()).process(queued)
        assert len(await ids(here)) == 1

    play(tmp_path, story)


@pytest.mark.parametrize("deletes", [0, 1, 3])
def test_a_cleanup_that_is_killed_is_finished_by_the_next(tmp_path: Path, deletes: int) -> None:
    """kill -9 before, between and after the first deletes: the next pass ends with the same backups as ever."""

    async def story(here: Stage) -> None:
        job = await here.job(retention_policy=TWO_DAYS)
        rows = [await completed(here, job, START - age * DAY) for age in (0, 5, 6, 7)]
        arguments = [str(here.context.settings.home), here.server.url, str(deletes)]
        child = subprocess.run([sys.executable, "-m", "tests.service.killed_cleanup", *arguments], check=False)
        assert child.returncode == -signal.SIGKILL
        states = [(await here.execution(row.id)).status for row in rows]
        assert states == ["completed", "completed", "completed", "deleting"]
        assert (await cleanup(here).run()).removed == 3
        assert await ids(here) == {rows[0].id}
        assert folders(here) == {Path(rows[0].backup_path or "").name}

    play(tmp_path, story)
