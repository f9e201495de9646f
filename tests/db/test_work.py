"""Executions, restores and verifications: one worker at a time, whatever crashes and whoever comes back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError as BrokenRule
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.restores import LeaseRepository, RestoreRepository, VerificationRepository
from dataguardian.db.repositories.work import WorkRepository
from dataguardian.db.session import Database
from dataguardian.domain.errors import ConflictError
from dataguardian.domain.states import ExecutionStatus, WorkStatus
from tests.db.conftest import Play
from tests.db.rows import NOW, SECOND, add_house, completed, execution, restore, some_id, verification

LEASE = timedelta(seconds=60)
HOME, BOOT = "home", "boot"
WORKER = f"{HOME}/{BOOT}"

KINDS = (ExecutionRepository, RestoreRepository, VerificationRepository)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.noun)


async def add_work(session: AsyncSession, kind: type[WorkRepository[Any]], count: int = 1, **fields: Any) -> list[Any]:
    """Adds queued work of a kind, each on a job or a backup of its own."""
    rows = []
    for number in range(count):
        job = await add_house(session, f"shop {number}")
        if kind is ExecutionRepository:
            row: Any = execution(job, **fields)
        else:
            backup = completed(job)
            session.add(backup)
            await session.flush()
            row = (restore if kind is RestoreRepository else verification)(backup, **fields)
        session.add(row)
        await session.flush()
        rows.append(row)
    return rows


@kinds
def test_only_one_of_many_claims_succeeds(play: Play, kind: type[WorkRepository[Any]]) -> None:
    """Twenty workers read the same row and claim it: one has it, and the attempt counts one."""

    async def claim(database: Database, row_id: Any) -> bool:
        async with database.write() as session:
            return await kind(session).claim(row_id, 0, worker=WORKER, now=NOW, lease=LEASE)

    async def story(database: Database) -> None:
        async with database.write() as session:
            [row] = await add_work(session, kind)
        assert sum(await asyncio.gather(*[claim(database, row.id) for _ in range(20)])) == 1
        async with database.read() as session:
            found = await kind(session).get(row.id)
        assert (found.attempt, found.status, found.worker) == (1, "running", WORKER)
        assert (found.started_at, found.lease_until) == (NOW, NOW + LEASE)

    play(story)


@kinds
def test_a_later_claim_keeps_when_it_all_began(play: Play, kind: type[WorkRepository[Any]]) -> None:
    """`started_at` is of the first attempt."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            [row] = await add_work(session, kind)
            works = kind(session)
            assert await works.claim(row.id, 0, worker=WORKER, now=NOW, lease=LEASE)
            row = await works.locked(row.id)
            await works.requeue(row, NOW + SECOND, bump=True, error_message="once")
            assert await works.claim(row.id, 1, worker=WORKER, now=NOW + 2 * SECOND, lease=LEASE)
        async with database.read() as session:
            found = await kind(session).get(row.id)
        assert (found.started_at, found.attempt, found.enqueue_number) == (NOW, 2, 2)
        assert found.error_message == "once"

    play(story)


@kinds
def test_whoever_lost_its_lease_writes_nothing(play: Play, kind: type[WorkRepository[Any]]) -> None:
    """A frozen worker wakes after another took over: its renewal and its end hit no row."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            [row] = await add_work(session, kind)
            works = kind(session)
            assert await works.claim(row.id, 0, worker="other/1", now=NOW, lease=LEASE)
            later = NOW + 2 * LEASE
            [dead] = await works.dead(HOME, BOOT, later, 10)
            await works.requeue(dead, later, bump=True)
            assert await works.claim(row.id, 1, worker=WORKER, now=later, lease=LEASE)
            assert await works.renew(row.id, 1, now=later, lease=LEASE) is None
            assert not await works.change(row.id, 1, later, status=works.words.COMPLETED)
            assert not await works.change_queued(row.id, 1, later, status=works.words.CANCELLED)
            assert await works.renew(row.id, 2, now=later, lease=LEASE) is False
            assert await works.change(row.id, 2, later, cancel_requested=True)
            assert await works.renew(row.id, 2, now=later, lease=LEASE) is True

    play(story)


@kinds
def test_who_is_dead(play: Play, kind: type[WorkRepository[Any]]) -> None:
    """Another boot of this home is, at once; a lease that ran out is; another machine with a lease is not."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            rows = await add_work(session, kind, 6)
            works = kind(session)
            holders = [WORKER, f"{HOME}/old", "elsewhere/x", f"{HOME}x/y", f"{HOME}%/y"]
            for row, worker in zip(rows, holders, strict=False):
                assert await works.claim(row.id, 0, worker=worker, now=NOW, lease=LEASE)
            assert [row.id for row in await works.dead(HOME, BOOT, NOW, 10)] == [rows[1].id]
            assert len(await works.dead(HOME, BOOT, NOW + 2 * LEASE, 10)) == 5
            assert len(await works.dead(HOME, BOOT, NOW + 2 * LEASE, 2)) == 2

    play(story)


@kinds
def test_what_waits_for_long(play: Play, kind: type[WorkRepository[Any]]) -> None:
    """Queued rows in pages by id; one that was touched a moment ago is not among them, one of the future is."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            rows = sorted(await add_work(session, kind, 6), key=lambda row: row.id)
            works = kind(session)
            rows[0].updated_at = NOW + SECOND
            rows[1].updated_at = NOW + timedelta(hours=1)
            assert await works.claim(rows[2].id, 0, worker=WORKER, now=NOW, lease=LEASE)
            first = await works.waiting(NOW, None, 2)
            assert [row.id for row in first] == [rows[1].id, rows[3].id]
            rest = await works.waiting(NOW, first[-1].id, 10)
            assert [row.id for row in rest] == [row.id for row in rows[4:]]

    play(story)


@kinds
def test_a_row_is_bumped_once(play: Play, kind: type[WorkRepository[Any]]) -> None:
    """Two reconcilers read the same row; the second finds that its number is old."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            [row] = await add_work(session, kind)
        async with database.read() as one, database.read() as two:
            seen = [await kind(session).get(row.id) for session in (one, two)]
        async with database.write() as session:
            assert await kind(session).bump(seen[0], NOW)
            assert seen[0].enqueue_number == 2
            assert not await kind(session).bump(seen[1], NOW)

    play(story)


def test_one_execution_per_job_is_active(play: Play) -> None:
    """Ten starts at once: one row, nine conflicts that name it; after its end the next one may begin."""

    async def start(database: Database, job: Any) -> Any:
        async with database.write() as session:
            return (await ExecutionRepository(session).insert(execution(job))).id

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
        ended = await asyncio.gather(*[start(database, job) for _ in range(10)], return_exceptions=True)
        [active] = [one for one in ended if not isinstance(one, BaseException)]
        conflicts = [one for one in ended if isinstance(one, ConflictError)]
        assert len(conflicts) == 9
        assert {error.details["execution_id"] for error in conflicts} == {str(active)}
        async with database.write() as session:
            row = await ExecutionRepository(session).locked(active)
            row.status = ExecutionStatus.FAILED
        assert await start(database, job)

    play(story)


def test_the_database_itself_holds_that_rule(play: Play) -> None:
    """Also a program that forgets to ask cannot put two in: queued beside running is refused, ended ones are not."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            session.add_all([completed(job), completed(job), execution(job, status=ExecutionStatus.RUNNING)])
        with pytest.raises(BrokenRule):
            async with database.write() as session:
                session.add(execution(job))
        async with database.read() as session:
            assert list(await ExecutionRepository(session).active_jobs([job.id, some_id()])) == [job.id]

    play(story)


def test_a_reader_keeps_a_backup_from_going(play: Play) -> None:
    """While a restore or a verification is active the backup cannot move to `deleting`; once it ended, it can."""

    async def story(database: Database) -> None:
        both: list[tuple[type[LeaseRepository[Any]], Any]]
        both = [(RestoreRepository, restore), (VerificationRepository, verification)]
        for kind, make in both:
            async with database.write() as session:
                backup = completed(await add_house(session, kind.noun))
                session.add(backup)
                await session.flush()
                row: Any = await kind(session).add(make(backup))
                assert [one.id for one in await kind(session).active_of(backup.id)] == [row.id]
                assert not await ExecutionRepository(session).mark_deleting(backup.id, NOW)
                row.status = WorkStatus.FAILED
                await session.flush()
                assert await ExecutionRepository(session).mark_deleting(backup.id, NOW)

    play(story)


def test_a_pinned_backup_does_not_go(play: Play) -> None:
    """Nor one that is not there."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            pinned = completed(await add_house(session), pinned=True)
            session.add(pinned)
            await session.flush()
            executions = ExecutionRepository(session)
            assert not await executions.mark_deleting(pinned.id, NOW)
            assert not await executions.mark_deleting(some_id(), NOW)

    play(story)


def test_a_lease_and_a_deletion_at_once(play: Play) -> None:
    """Whichever comes first wins, and the other one is told: never both."""

    async def take(database: Database, backup: Any) -> bool:
        async with database.write() as session:
            row = await ExecutionRepository(session).locked(backup.id)
            if row.status is ExecutionStatus.COMPLETED:
                await RestoreRepository(session).add(restore(backup))
            return row.status is ExecutionStatus.COMPLETED

    async def drop(database: Database, backup: Any) -> bool:
        async with database.write() as session:
            return await ExecutionRepository(session).mark_deleting(backup.id, NOW)

    async def story(database: Database) -> None:
        for number in range(15):
            async with database.write() as session:
                backup = completed(await add_house(session, f"shop {number}"))
                session.add(backup)
            both = [take(database, backup), drop(database, backup)]
            assert sum(await asyncio.gather(*(both if number % 2 else both[::-1]))) == 1

    play(story)
