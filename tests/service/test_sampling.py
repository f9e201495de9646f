"""The weekly sample: which backups it verifies and when, what it never calls rot, and what it lets go first."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dataguardian.core.verify import run_verify
from dataguardian.db.models import BackupExecution, BackupJob, Verification
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.restores import VerificationRepository
from dataguardian.domain.errors import QueueUnavailableError, UsageError
from dataguardian.domain.states import ExecutionStatus, StorageStatus
from dataguardian.queues.consumer import Consumer
from dataguardian.queues.definitions import QueueName
from dataguardian.service.executions import Failed
from dataguardian.service.removal import open_storage
from dataguardian.service.sampling import FAILURES_AT_MOST, SETTING, Sample, Sampling
from dataguardian.service.systemsettings import SystemSettings
from dataguardian.service.work import Work
from dataguardian.service.workkinds import Kind, queue_job_id
from dataguardian.workers.restore import RestoreWorker
from tests.service.backups import completed, play
from tests.service.stage import START, Stage

DAY = timedelta(days=1)
"""START is a Sunday, at noon."""


class Week:
    """The sampling of a stage, with its settings and a worker."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self.work = Work(here.context, here.events)
        self.sampling = Sampling(here.context, here.events, self.work)

    async def set(self, **values: Any) -> None:
        await SystemSettings(self.here.context).change(SETTING, values)

    async def begin(self) -> None:
        """Lets the service have been there for a while, and the next Sunday's moment pass."""
        await self.sampling.tick()
        self.here.clock.advance(days=7)

    async def rows(self) -> Sequence[Verification]:
        async with self.here.context.db.read() as session:
            return await VerificationRepository(session).all()

    async def asked(self) -> list[uuid.UUID]:
        return [row.execution_id for row in await self.rows()]

    @asynccontextmanager
    async def working(self) -> AsyncIterator[asyncio.Event]:
        stopping = asyncio.Event()
        worker = RestoreWorker(self.here.context, self.work, stopping)
        consumer = Consumer(self.here.context.queues.url, QueueName.RESTORE, worker.process)
        consumer.start()
        try:
            yield stopping
        finally:
            await consumer.stop(0.1, hurry=stopping)

    async def verify(self) -> None:
        """Carries out what is queued as a worker does, but in this process."""
        for row in await self.rows():
            if row.status == "queued":
                claim = await self.work.claim(Kind.VERIFICATION, row.id, row.enqueue_number)
                assert claim is not None
                found = run_verify(
                    open_storage(claim.storage, self.here.context.vault), str(claim.execution.backup_path)
                )
                result = {"ok": found.ok, "errors": found.errors, "level": found.level, "parts": found.parts}
                assert await self.work.complete(claim, result)

    async def settle(self) -> None:
        """Waits for the worker, until nothing is queued or running."""
        async with asyncio.timeout(60):
            while any(row.status in {"queued", "running"} for row in await self.rows()):
                await asyncio.sleep(0.05)

    async def sample(self) -> Sample:
        sample = await self.sampling.sample()
        assert sample is not None
        return sample

    async def alarms(self) -> list[str]:
        return [note.title for note in await self.here.notifications() if note.type == "system_alarm"]


async def backups(here: Stage, job: BackupJob, ages: Sequence[int]) -> list[BackupExecution]:
    return [await completed(here, job, START - age * DAY) for age in ages]


def harm(here: Stage, row: BackupExecution, name: str = "shop") -> None:
    """Flips one bit of a stored part."""
    path = next((here.folder / f"storage-of-{name}" / str(row.backup_path)).rglob("000001.*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_new_home_is_left_in_peace_until_the_next_week(tmp_path: Path) -> None:
    """The moment that passed before the first start is not made up for; the next one counts, once, and once a week."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await backups(here, await here.job(), [3])
        assert await week.sampling.tick() == 0
        assert (await week.sample()).done
        here.clock.advance(days=6, hours=12)
        assert await week.sampling.tick() == 0
        here.clock.advance(hours=1)  # Sunday, one o'clock
        assert await week.sampling.tick() == 1
        await week.verify()
        assert await week.sampling.tick() == 0
        assert (await week.sample()).done
        here.clock.advance(days=6)
        assert await week.sampling.tick() == 0
        here.clock.advance(days=1)
        assert await week.sampling.tick() == 1

    play(tmp_path, story)


def test_those_never_verified_come_first_then_the_longest_ago(tmp_path: Path) -> None:
    """Two a week: the oldest unverified first, then round and round; the execution tells when, and what was found."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await week.set(backups=2)
        old, middle, new = await backups(here, await here.job(), [30, 20, 10])
        await week.begin()
        expected = [{old.id, middle.id}, {new.id, old.id}, {middle.id, old.id}]
        for number, chosen in enumerate(expected):
            before = len(await week.rows())
            assert await week.sampling.tick() == 2, number
            await week.verify()
            assert set((await week.asked())[before:]) == chosen
            here.clock.advance(days=7)
        assert {(row.ok, row.details["trigger"]) for row in await week.rows()} == {(True, "scheduled")}

    play(tmp_path, story)


def test_every_storage_has_a_share_of_its_own(tmp_path: Path) -> None:
    """Five percent of three are one, of thirty are two; a few at a time, and never more than that."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await week.set(percent=60)
        small, large = await here.job("small"), await here.job("large")
        await backups(here, small, [1, 2])
        await backups(here, large, range(1, 11))
        await week.begin()
        assert await week.sampling.tick() == 5
        assert await week.sampling.tick() == 0
        await week.verify()
        assert await week.sampling.tick() == 3
        await week.verify()
        assert await week.sampling.tick() == 0
        sample = await week.sample()
        assert sample.done
        assert {sample.tallies[uid(job)].completed for job in (small, large)} == {2, 6}

    play(tmp_path, story)


def test_rot_is_told_once(tmp_path: Path) -> None:
    """A flipped bit is found and told; found again the week after it is no news, and after a repair it is again."""

    async def story(here: Stage) -> None:
        week = Week(here)
        (row,) = await backups(here, await here.job(), [3])
        harm(here, row)
        await week.begin()
        for told in (1, 1):
            assert await week.sampling.tick() == 1
            await week.verify()
            assert len(await week.alarms()) == told
            here.clock.advance(days=7)
        harm(here, row)  # the bit is as it was
        await week.sampling.tick()
        await week.verify()
        here.clock.advance(days=7)
        harm(here, row)
        await week.sampling.tick()
        await week.verify()
        assert [row.ok for row in await week.rows()] == [False, False, True, False]
        assert await week.alarms() == ["A backup in storage of shop is damaged"] * 2

    play(tmp_path, story)


def test_more_rot_is_news(tmp_path: Path) -> None:
    """A backup that is known to be damaged loses another file: that is told, too."""

    async def story(here: Stage) -> None:
        week = Week(here)
        (row,) = await backups(here, await here.job(), [3])
        harm(here, row)
        await week.begin()
        await week.sampling.tick()
        await week.verify()
        (here.folder / "storage-of-shop" / str(row.backup_path) / "SHA256SUMS").unlink()
        here.clock.advance(days=7)
        await week.sampling.tick()
        await week.verify()
        assert len(await week.alarms()) == 2

    play(tmp_path, story)


def test_a_storage_that_is_away_is_not_rot(tmp_path: Path) -> None:
    """Known to be away it is waited for; found to be away the verification has failed, and one warning says so."""

    async def story(here: Stage) -> None:
        week = Week(here)
        job = await here.job()
        await backups(here, job, [3])
        await week.begin()
        await set_storage(here, job, StorageStatus.UNREACHABLE)
        assert await week.sampling.tick() == 0
        assert not (await week.sample()).done
        await set_storage(here, job, StorageStatus.HEALTHY)
        (here.folder / "storage-of-shop").rename(here.folder / "unplugged")
        async with week.working():
            assert await week.sampling.tick() == 1
            await week.settle()
        (row,) = await week.rows()
        assert (row.status, row.ok) == ("failed", None)
        assert "does not exist" in str(row.error_message)
        assert await week.sampling.tick() == 0
        assert await week.sampling.tick() == 0
        assert (await week.sample()).done
        assert await week.alarms() == ["A backup could not be verified"]
        (here.folder / "unplugged").rename(here.folder / "storage-of-shop")
        here.clock.advance(days=7)
        async with week.working():
            assert await week.sampling.tick() == 1
            await week.settle()
        assert (await week.rows())[-1].ok is True

    play(tmp_path, story)


async def set_storage(here: Stage, job: BackupJob, status: StorageStatus) -> None:
    async with here.context.db.write() as session:
        row = await session.get(type(await here.storages.get(uid(job))), uid(job))
        assert row is not None
        row.status = status


def uid(job: BackupJob) -> uuid.UUID:
    assert job.storage_location_id is not None
    return job.storage_location_id


def test_a_storage_where_everything_fails_is_left_alone(tmp_path: Path) -> None:
    """After so many failures the week's sample of that storage is over, and the others go on."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await week.set(percent=100)
        job = await here.job()
        rows = await backups(here, job, [1])
        for number in range(FAILURES_AT_MOST + 10):
            await copied(here, rows[0], START - number * DAY)
        await week.begin()
        while await week.sampling.tick():
            for row in await week.rows():
                if row.status == "queued":
                    await fail(week, row)
        assert 0 < len(await week.rows()) < FAILURES_AT_MOST + 5
        assert (await week.sample()).done

    play(tmp_path, story)


async def copied(here: Stage, row: BackupExecution, created_at: Any) -> None:
    names = [column.key for column in BackupExecution.__mapper__.column_attrs]
    values = {name: getattr(row, name) for name in names}
    async with here.context.db.write() as session:
        await ExecutionRepository(session).add(
            BackupExecution(**values | {"id": uuid.uuid4(), "created_at": created_at})
        )


async def fail(week: Week, row: Verification) -> None:
    claim = await week.work.claim(Kind.VERIFICATION, row.id, row.enqueue_number)
    assert claim is not None
    await week.work.fail(claim, Failed("not for you"))


def test_what_is_being_deleted_is_never_verified(tmp_path: Path) -> None:
    """Neither the one whose deletion has begun nor one that somebody verifies already is chosen."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await week.set(percent=100)
        doomed, busy, free = await backups(here, await here.job(), [30, 20, 10])
        await week.begin()
        await week.work.start_verification(busy.id, deep=False)
        async with here.context.db.write() as session:
            row = await ExecutionRepository(session).locked(doomed.id)
            row.status = ExecutionStatus.DELETING
        assert await week.sampling.tick() == 1
        assert set(await week.asked()) == {busy.id, free.id}

    play(tmp_path, story)


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """The service dies with one verification running and one queued: both end, and none is asked for twice."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await week.set(backups=2)
        await backups(here, await here.job(), [30, 20, 10])
        await week.begin()
        assert await week.sampling.tick() == 2
        first = (await week.rows())[0]
        assert await week.work.claim(Kind.VERIFICATION, first.id, 1) is not None
        after = Week(here.reboot())
        assert await after.work.reconcile() == 1
        assert await after.sampling.tick() == 0
        here.clock.advance(minutes=1)
        await after.work.reconcile()
        async with after.working():
            await after.settle()
        assert [(row.status, row.ok) for row in await after.rows()] == [("completed", True)] * 2
        assert await after.sampling.tick() == 0
        assert (await after.sample()).done

    play(tmp_path, story)


def test_a_restore_does_not_wait_for_it(tmp_path: Path) -> None:
    """A scheduled verification that runs makes way for a restore and is queued again behind it; a person's does not."""

    async def story(here: Stage) -> None:
        week = Week(here)
        row = await here.executions.start((await here.job()).id)
        async with here.working():
            done = await here.until(row.id, "completed")
        await week.begin()
        assert await week.sampling.tick() == 1
        (verification,) = await week.rows()
        claim = await week.work.claim(Kind.VERIFICATION, verification.id, 1)
        mine = await week.work.start_verification(done.id, deep=False)
        own = await week.work.claim(Kind.VERIFICATION, mine.id, 1)
        assert claim is not None
        assert own is not None
        await week.work.start_restore(done.id, confirm="shop")
        assert await week.work.renew(claim) is True
        assert await week.work.renew(own) is False
        await week.work.cancelled(claim)
        (again,) = [row for row in await week.rows() if row.id == verification.id]
        assert (again.status, again.enqueue_number, again.cancel_requested) == ("queued", 2, False)
        assert again.details == {"trigger": "scheduled"}
        [state] = await here.context.queues.states(QueueName.RESTORE, [queue_job_id(again)])
        assert state == "prioritized"

    play(tmp_path, story)


def test_switched_off_nothing_happens_and_by_hand_it_does(tmp_path: Path) -> None:
    """The setting stops the schedule; somebody can still ask for a sample at once."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await week.set(enabled=False)
        await backups(here, await here.job(), [3])
        await week.begin()
        assert await week.sampling.tick() == 0
        sample = await week.sampling.run_now()
        assert len(await week.rows()) == 1
        assert not sample.done

    play(tmp_path, story)


def test_a_clock_that_was_ahead_starts_nothing_over_and_over(tmp_path: Path) -> None:
    """Back in the present the sample of a future week is forgotten, and the next week is a week again."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await backups(here, await here.job(), [3])
        await week.begin()
        here.clock.advance(days=700)
        await week.sampling.tick()
        await week.verify()
        here.clock.advance(days=-700)
        for _ in range(3):
            assert await week.sampling.tick() == 0
        here.clock.advance(days=7)
        assert await week.sampling.tick() == 1

    play(tmp_path, story)


def test_without_a_queue_nothing_is_left_half_asked_for(tmp_path: Path) -> None:
    """The tick fails as a whole and is made up for when the queue is back."""

    async def story(here: Stage) -> None:
        week = Week(here)
        await backups(here, await here.job(), [3])
        await week.begin()
        here.server.stop()
        with pytest.raises(QueueUnavailableError):
            await week.sampling.tick()
        assert await week.rows() == []
        here.server.start()
        assert await week.sampling.tick() == 1

    play(tmp_path, story)


@pytest.mark.parametrize(
    "wrong", [{"percent": 0}, {"percent": 101}, {"weekday": "someday"}, {"hour": 24}, {"backups": 0}, {"x": 1}]
)
def test_a_setting_that_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """The words name the field."""

    async def story(here: Stage) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            await SystemSettings(here.context).change(SETTING, wrong)

    play(tmp_path, story)
