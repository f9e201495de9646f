"""The life of an execution, with everything that may come between its steps."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import ConflictError, NotFoundError, QueueUnavailableError
from dataguardian.domain.ids import new_id
from dataguardian.queues.definitions import QueueName
from dataguardian.service.executions import LEASE, QUEUED_GRACE, TRIES, Failed, queue_job_id
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.service.stage import START, Stage, stage

LOST = Failed("the server went away", code="unreachable", transient=True)
REFUSED = Failed("wrong password", code="auth_failed")


def test_a_manual_run_ends_as_a_backup_that_verifies(tmp_path: Path) -> None:
    """Started by a person, carried out by a worker, recorded with its parts, told once; and the bytes are there."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await here.executions.start(job.id)
        assert row.status == "queued"
        async with here.working():
            done = await here.until(row.id, "completed", "failed")
        assert done.status == "completed", done.error_message
        assert done.backup_path is not None
        assert done.backup_path.startswith("shop/20260301T120000Z-")
        storage = LocalStorage(LocalConfig(path=str(tmp_path / "storage-of-shop")))
        assert run_verify(storage, done.backup_path).ok
        assert done.compressed_size_bytes
        assert done.details["compression_ratio"] > 1
        assert [note.type for note in await here.notifications()] == ["backup_success"]

    play(tmp_path, story)


def test_a_second_run_of_an_active_job_is_refused_by_name(tmp_path: Path) -> None:
    """A manual run while one is active is a conflict that names the active one."""

    async def story(here: Stage) -> None:
        job = await here.job()
        first = await here.executions.start(job.id)
        with pytest.raises(ConflictError) as caught:
            await here.executions.start(job.id)
        assert caught.value.details["execution_id"] == str(first.id)

    play(tmp_path, story)


def test_an_unknown_job_is_not_found(tmp_path: Path) -> None:
    """A job that does not exist cannot be started."""

    async def story(here: Stage) -> None:
        with pytest.raises(NotFoundError):
            await here.executions.start(new_id(START))

    play(tmp_path, story)


def test_with_the_queue_down_a_manual_run_is_refused_and_leaves_no_row(tmp_path: Path) -> None:
    """What cannot be queued is not recorded: the person is told to try again."""

    async def story(here: Stage) -> None:
        job = await here.job()
        here.server.stop()
        with pytest.raises(QueueUnavailableError):
            await here.executions.start(job.id)
        assert await here.all_executions() == []

    play(tmp_path, story)


def test_transient_failures_are_tried_again_and_told_once_at_the_end(tmp_path: Path) -> None:
    """Between tries the row is queued; after the last it is failed, and only then is somebody told, once."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        for number in range(1, TRIES + 1):
            claim = await here.executions.claim(row.id, 1)
            assert claim is not None
            assert claim.attempt == number
            again = await here.executions.fail(claim, LOST)
            assert again == (number < TRIES)
            state = (await here.execution(row.id)).status
            assert state == ("queued" if again else "failed")
            assert len(await here.notifications()) == (0 if again else 1)
        assert await here.executions.claim(row.id, 1) is None

    play(tmp_path, story)


def test_permanent_failures_are_not_tried_again(tmp_path: Path) -> None:
    """A wrong password is wrong the next time too."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        claim = await here.executions.claim(row.id, 1)
        assert claim is not None
        assert await here.executions.fail(claim, REFUSED) is False
        failed = await here.execution(row.id)
        assert (failed.status, failed.error_message) == ("failed", "wrong password")
        assert [note.severity for note in await here.notifications()] == ["critical"]

    play(tmp_path, story)


def test_each_attempt_has_a_directory_of_its_own_recorded_before_it_writes(tmp_path: Path) -> None:
    """The row names the attempt's directory from the claim on, and earlier ones are handed to the next attempt."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        first = await here.executions.claim(row.id, 1)
        assert first is not None
        assert (await here.execution(row.id)).attempt_path == first.directory
        await here.executions.fail(first, LOST)
        here.clock.advance(minutes=1)
        second = await here.executions.claim(row.id, 1)
        assert second is not None
        assert second.directory != first.directory
        assert second.earlier == (first.directory,)

    play(tmp_path, story)


def test_whoever_lost_its_execution_writes_nothing(tmp_path: Path) -> None:
    """A worker that froze past its lease finds, when it wakes, that every step of it is refused."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        frozen = await here.executions.claim(row.id, 1)
        assert frozen is not None
        here.clock.advance(seconds=LEASE.total_seconds() + 1)
        other = here.reboot(home_id="elsewhere")
        assert await other.executions.reconcile() == 1
        current = await here.execution(row.id)
        assert (current.status, current.enqueue_number) == ("queued", 2)
        taken = await other.executions.claim(row.id, 2)
        assert taken is not None
        assert await here.executions.renew(frozen) is None
        assert await here.executions.still_ours(frozen) is False
        assert await here.executions.complete(frozen, {"directory": frozen.directory, **RESULT}) is False
        assert await here.executions.fail(frozen, REFUSED) is False
        await here.executions.cancelled(frozen)
        await here.executions.hand_back(frozen)
        after = await here.execution(row.id)
        assert (after.status, after.attempt, after.attempt_path) == ("running", 2, taken.directory)
        assert await other.executions.still_ours(taken) is True

    play(tmp_path, story)


RESULT = {
    "adopted": False,
    "chunks": [],
    "manifest": {
        "size_bytes": 1,
        "compressed_size_bytes": 1,
        "checksum": "0" * 64,
        "compression": "zstd",
        "parts": 0,
        "server_version": "",
        "tools": [],
        "streams": [],
        "warnings": [],
        "dataguardian_version": "0.1.0",
        "how_to_restore": [],
    },
}


def test_rows_of_an_earlier_boot_are_taken_up_at_once(tmp_path: Path) -> None:
    """The home's lock proves that another boot is dead: no lease has to run out first."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        assert await here.executions.claim(row.id, 1) is not None
        again = here.reboot()
        assert await again.executions.reconcile() == 1
        assert (await here.execution(row.id)).status == "queued"
        async with again.working():
            assert (await again.until(row.id, "completed")).attempt == 2

    play(tmp_path, story)


def test_a_worker_that_lives_is_left_alone(tmp_path: Path) -> None:
    """Neither its own boot nor another machine takes over while the lease runs."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        assert await here.executions.claim(row.id, 1) is not None
        assert await here.executions.reconcile() == 0
        assert await here.reboot(home_id="elsewhere").executions.reconcile() == 0

    play(tmp_path, story)


def test_an_execution_that_kills_its_worker_every_time_ends_as_failed(tmp_path: Path) -> None:
    """A backup that crashes the service must not do so for ever; somebody is told once."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        for number in range(1, TRIES + 1):
            assert await here.executions.claim(row.id, number) is not None
            here = here.reboot()
            await here.executions.reconcile()
        failed = await here.execution(row.id)
        assert failed.status == "failed"
        assert "worker died" in (failed.error_message or "")
        assert [note.type for note in await here.notifications()] == ["backup_failed"]

    play(tmp_path, story)


def test_a_row_whose_enqueueing_was_lost_is_enqueued_again(tmp_path: Path) -> None:
    """A crash between commit and enqueue leaves a queued row that the queue does not know; it runs all the same."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        await here.context.queues.remove(QueueName.BACKUP, queue_job_id(row))
        assert await here.executions.reconcile() == 0  # not yet: it may be on its way
        here.clock.advance(seconds=QUEUED_GRACE.total_seconds() + 1)
        assert await here.executions.reconcile() == 1
        async with here.working():
            await here.until(row.id, "completed")

    play(tmp_path, story)


def test_a_row_that_the_queue_still_knows_is_not_enqueued_twice(tmp_path: Path) -> None:
    """However long it waits for its turn."""

    async def story(here: Stage) -> None:
        await here.executions.start((await here.job()).id)
        here.clock.advance(hours=5)
        assert await here.executions.reconcile() == 0

    play(tmp_path, story)


def test_a_stale_queue_job_does_nothing(tmp_path: Path) -> None:
    """Only the newest queue job of a row counts."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        assert await here.executions.claim(row.id, 7) is None
        assert (await here.execution(row.id)).status == "queued"

    play(tmp_path, story)


def test_a_queued_execution_is_cancelled_at_once(tmp_path: Path) -> None:
    """It never runs, and cannot be cancelled twice."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        assert (await here.executions.cancel(row.id)).status == "cancelled"
        with pytest.raises(ConflictError):
            await here.executions.cancel(row.id)
        assert await here.executions.claim(row.id, 1) is None

    play(tmp_path, story)


def test_a_running_execution_is_cancelled_and_removes_what_it_stored(tmp_path: Path) -> None:
    """The runner ends, with its children; the row says cancelled; nothing lies in the storage."""

    async def story(here: Stage) -> None:
        job = await here.job()
        blocker = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        row = await here.executions.start(job.id)
        async with here.working():
            await here.until(row.id, "running")
            await asyncio.sleep(1)
            await here.executions.cancel(row.id)
            ended = await here.until(row.id, "cancelled", "failed", "completed", seconds=20)
        blocker.execute("ROLLBACK")
        blocker.close()
        assert ended.status == "cancelled"
        assert here.stored() == []

    play(tmp_path, story)


def test_a_shutdown_hands_running_work_back_with_its_try(tmp_path: Path) -> None:
    """What could not end in time is queued again, and has lost no try."""

    async def story(here: Stage) -> None:
        job = await here.job()
        blocker = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        row = await here.executions.start(job.id)
        async with here.working():
            await here.until(row.id, "running")
            await asyncio.sleep(0.5)
        blocker.execute("ROLLBACK")
        blocker.close()
        back = await here.execution(row.id)
        assert (back.status, back.tries_left, back.enqueue_number) == ("queued", TRIES, 2)

    play(tmp_path, story)


def test_a_finished_backup_that_was_not_recorded_is_adopted(tmp_path: Path) -> None:
    """kill -9 between manifest and commit: the next attempt finds the backup and records it, and dumps nothing."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await here.executions.start(job.id)
        async with here.working():
            done = await here.until(row.id, "completed")
        files = {path: path.stat().st_mtime_ns for path in here.stored()}
        await here.forget_end(row.id, done.backup_path or "")  # as if the commit had never happened
        again = here.reboot()
        await again.executions.reconcile()
        async with again.working():
            adopted = await again.until(row.id, "completed")
        assert adopted.backup_path == done.backup_path
        assert adopted.details["adopted"] is True
        assert {path: path.stat().st_mtime_ns for path in here.stored()} == files

    play(tmp_path, story)


def test_two_workers_never_hold_one_execution(tmp_path: Path) -> None:
    """Of many claims at once exactly one succeeds."""

    async def story(here: Stage) -> None:
        row = await here.executions.start((await here.job()).id)
        others = [here.reboot(home_id=f"machine {number}") for number in range(5)]
        claims = await asyncio.gather(*(other.executions.claim(row.id, 1) for other in others))
        assert len([claim for claim in claims if claim is not None]) == 1

    play(tmp_path, story)


def test_due_jobs_are_queued_once_and_move_to_their_next_run(tmp_path: Path) -> None:
    """Two schedulers at once queue one execution per due job, and the next run lies in the future."""

    async def story(here: Stage) -> None:
        job = await here.job(schedule_cron="*/10 * * * *")
        assert job.next_execution_at == START + timedelta(minutes=10)
        assert await here.scheduler.tick() == 0
        here.clock.advance(minutes=11)
        other = here.reboot(home_id="elsewhere")
        assert sum(await asyncio.gather(here.scheduler.tick(), other.scheduler.tick())) == 1
        [row] = await here.all_executions()
        assert row.trigger == "scheduled"
        assert row.scheduled_for == START + timedelta(minutes=10)
        assert (await here.jobs.get(job.id)).next_execution_at == START + timedelta(minutes=20)

    play(tmp_path, story)


def test_missed_runs_run_once_on_return(tmp_path: Path) -> None:
    """The machine was off for a week of hourly runs: one backup, now."""

    async def story(here: Stage) -> None:
        job = await here.job(schedule_cron="0 * * * *")
        here.clock.advance(days=7)
        assert await here.scheduler.tick() == 1
        assert await here.scheduler.tick() == 0
        assert (await here.jobs.get(job.id)).next_execution_at == datetime(2026, 3, 8, 13, 0, tzinfo=UTC)

    play(tmp_path, story)


def test_a_due_run_that_finds_one_active_is_recorded_as_skipped(tmp_path: Path) -> None:
    """Every due run is accounted for, and the reason names what was in its way."""

    async def story(here: Stage) -> None:
        await here.job(schedule_cron="*/10 * * * *")
        here.clock.advance(minutes=10)
        await here.scheduler.tick()
        here.clock.advance(minutes=10)
        assert await here.scheduler.tick() == 0
        first, second = await here.all_executions()
        assert (first.status, second.status) == ("queued", "skipped")
        assert str(first.id) in (second.error_message or "")

    play(tmp_path, story)


def test_a_job_without_any_storage_is_skipped_and_complained_about(tmp_path: Path) -> None:
    """A job that cannot run for want of a storage is a failure that somebody hears of."""

    async def story(here: Stage) -> None:
        await here.job(schedule_cron="*/10 * * * *", storage_location_id=None)
        here.clock.advance(minutes=10)
        assert await here.scheduler.tick() == 0
        [row] = await here.all_executions()
        assert row.status == "skipped"
        assert [note.type for note in await here.notifications()] == ["backup_failed"]

    play(tmp_path, story)


def test_a_scheduled_run_while_the_queue_is_away_runs_when_it_is_back(tmp_path: Path) -> None:
    """The row is committed; the reconciler enqueues it when the server answers again."""

    async def story(here: Stage) -> None:
        await here.job(schedule_cron="*/10 * * * *")
        here.clock.advance(minutes=10)
        here.server.stop()
        assert await here.scheduler.tick() == 1
        here.server.start()
        here.clock.advance(minutes=1)
        assert await here.executions.reconcile() == 1
        [row] = await here.all_executions()
        async with here.working():
            await here.until(row.id, "completed")

    play(tmp_path, story)


def play(folder: Path, story: object) -> None:
    async def run() -> None:
        async with stage(folder) as here:
            await story(here)  # type: ignore[operator]

    asyncio.run(run())
