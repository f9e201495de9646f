"""What the repositories answer: lists, numbers, what is in use, what may go and what may not."""

from __future__ import annotations

import tracemalloc
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    AbandonedDirectory,
    BackupChunk,
    BackupExecution,
    ExecutionLog,
    HealthCheck,
    NotificationDelivery,
    NotificationRow,
    Restore,
    Verification,
)
from dataguardian.db.recent import EXACT_UP_TO, MOST_ENTRIES, Recent
from dataguardian.db.repositories.checks import CheckRepository
from dataguardian.db.repositories.cleanup import CleanupRepository
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import ExecutionFilter, ExecutionRepository, JobRepository
from dataguardian.db.repositories.notifications import LogRepository
from dataguardian.db.repositories.overview import OverviewRepository, Stored
from dataguardian.db.repositories.pruning import Pruning, first_id
from dataguardian.db.repositories.stored import AbandonedRepository, ChunkRepository
from dataguardian.db.session import Database
from dataguardian.domain.errors import NotFoundError
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import CheckStatus, ExecutionStatus, WorkStatus
from tests.db import rows
from tests.db.conftest import Play
from tests.db.rows import DAY, NOW, SECOND, add_house, completed, execution, some_id

FAILED, CANCELLED, SKIPPED = ExecutionStatus.FAILED, ExecutionStatus.CANCELLED, ExecutionStatus.SKIPPED


async def count(session: AsyncSession, model: type[Any]) -> int:
    return (await session.execute(select(func.count()).select_from(model))).scalar_one()


async def add(session: AsyncSession, *made: Any) -> None:
    session.add_all(made)
    await session.flush()


def test_pages_from_both_ends_are_the_one_list(play: Play) -> None:
    """Every page, in either order, is the slice of the whole list that it should be; equal times go by id."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            await add(session, *[completed(job, at=NOW - (n // 3) * SECOND) for n in range(23)])
        async with database.read() as session:
            executions = ExecutionRepository(session)
            whole = sorted(await executions.all(), key=lambda row: (row.created_at, row.id), reverse=True)
            for oldest_first in (False, True):
                expected = [row.id for row in (whole[::-1] if oldest_first else whole)]
                for page in range(1, 8):
                    found = await executions.listed(ExecutionFilter(), page=page, limit=5, oldest_first=oldest_first)
                    assert [row.id for row in found.data] == expected[(page - 1) * 5 : page * 5]
                    assert (found.total, found.total_pages) == (23, 5)

    play(story)


def test_filters_narrow_and_combine(play: Play) -> None:
    """Each filter alone, together, and the half-open range of times."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            one, two = await add_house(session, "one"), await add_house(session, "two")
            made = [completed(one, at=NOW - n * DAY) for n in range(4)] + [execution(two, status=FAILED)]
            await add(session, *made)

        async def found(**chosen: Any) -> set[uuid.UUID]:
            async with database.read() as session:
                page = await ExecutionRepository(session).listed(ExecutionFilter(**chosen), page=1, limit=20)
                assert page.total == len(page.data)
                return {row.id for row in page.data}

        first, last = {row.id for row in made[:4]}, {made[4].id}
        assert await found(job_id=one.id) == first
        assert await found(datasource_id=two.datasource_id) == last
        assert await found(storage_location_id=one.storage_location_id) == first
        assert await found(status=FAILED) == last
        assert await found(job_id=one.id, status=FAILED) == set()
        assert await found(created_from=NOW - 2 * DAY, created_to=NOW) == {made[1].id, made[2].id}
        assert await found(job_id=some_id()) == set()

    play(story)


LONG = 2**14
assert LONG > EXACT_UP_TO


async def double(session: AsyncSession, times: int) -> None:
    """Doubles the executions again and again, inside the database; each copy is some seconds older."""
    lite = session.get_bind().dialect.name == "sqlite"
    columns = [column.name for column in BackupExecution.__table__.columns if column.name not in {"id", "created_at"}]
    names = ", ".join(f'"{name}"' for name in columns)
    new_row_id = "randomblob(16)" if lite else "gen_random_uuid()"
    for number in range(times):
        older = f"created_at - {2**number * 1_000_000}" if lite else f"created_at - interval '{2**number} seconds'"
        await session.execute(
            text(
                f"INSERT INTO backup_executions (id, created_at, {names}) "
                f"SELECT {new_row_id}, {older}, {names} FROM backup_executions"
            )
        )


def test_totals_of_a_long_list_may_be_old_and_of_a_short_one_never(play: Play) -> None:
    """Above ten thousand the total is counted once in ten seconds; a write, and a short list, count anew."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            await add(session, completed(job))
            await double(session, 14)

        async def total(chosen: ExecutionFilter) -> int:
            async with database.read() as session:
                return (await ExecutionRepository(session).listed(chosen, page=1, limit=1)).total

        failed = ExecutionFilter(status=FAILED)
        assert [await total(ExecutionFilter()), await total(failed)] == [LONG, 0]
        async with database.write() as session:
            await add(session, execution(job, status=FAILED))
            assert (await ExecutionRepository(session).listed(ExecutionFilter(), page=1, limit=1)).total == LONG + 1
        assert [await total(ExecutionFilter()), await total(failed)] == [LONG, 1]
        assert await total(ExecutionFilter(job_id=job.id)) == LONG + 1
        database.recent.clear()
        assert await total(ExecutionFilter()) == LONG + 1

    play(story)


def test_recent_values_end_and_are_bounded() -> None:
    """What is kept is kept for its time, and never too much of it."""
    recent = Recent(kept_seconds=0.0)
    recent.put("a", 1)
    assert recent.get("a") is None
    recent = Recent(kept_seconds=60.0)
    for number in range(MOST_ENTRIES + 1):
        recent.put(number, number)
    assert (recent.get(0), recent.get(1), recent.get(MOST_ENTRIES)) == (None, 1, MOST_ENTRIES)


def test_what_a_thing_is_used_by(play: Play) -> None:
    """Names of jobs, numbers of the rest; what is used by nothing can be deleted."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            await add(session, rows.datasource("idle"), rows.storage("idle"), backup := completed(job))
            await add(session, rows.restore(backup, status=WorkStatus.COMPLETED))
            session.add(directory(backup.id, job.storage_location_id, "left"))
        async with database.read() as session:
            assert await DatasourceRepository(session).uses_of(job.datasource_id) == {
                "backup jobs": ["shop"],
                "executions": 1,
                "restores": 1,
            }
            assert job.storage_location_id is not None
            assert await StorageRepository(session).uses_of(job.storage_location_id) == {
                "backup jobs": ["shop"],
                "executions": 1,
                "abandoned directories": 1,
            }
            assert await JobRepository(session).uses_of(job.id) == {"executions": 1}
            for repository in (DatasourceRepository(session), StorageRepository(session)):
                [idle] = [row for row in await repository.all() if row.name == "idle"]
                assert not any((await repository.uses_of(idle.id)).values())

    play(story)


def directory(execution_id: uuid.UUID, storage_id: uuid.UUID | None, path: str) -> AbandonedDirectory:
    fields = {"execution_id": execution_id, "storage_location_id": storage_id, "path": path, "reason": "failed"}
    return rows.row(AbandonedDirectory, NOW, fields)


def test_directories_that_are_still_needed_are_not_removable(play: Play) -> None:
    """Not while an attempt may adopt one, not when a row calls it its backup; also without any row left they go."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            active, failed, done = execution(job), execution(job, status=FAILED), completed(job, backup_path="won")
            await add(session, active, failed, done)
            notes = {
                name: directory(owner, job.storage_location_id, name)
                for name, owner in {
                    "a": active.id,
                    "f": failed.id,
                    "won": done.id,
                    "lost": done.id,
                    "gone": some_id(),
                }.items()
            }
            await add(session, *notes.values())
        async with database.read() as session:
            found = await AbandonedRepository(session).removable(None, 10)
            assert {row.path for row in found} == {"f", "lost", "gone"}
            assert [row.id for row in found] == sorted(row.id for row in found)
            rest = await AbandonedRepository(session).removable(found[0].id, 10, storage_location_id=some_id())
            assert rest == []
            names = await CleanupRepository(session).known_paths(notes["a"].storage_location_id, ["won", "f", "other"])
            assert names == {"won", "f"}

    play(story)


def test_retention_reads_a_stream(play: Play) -> None:
    """Four columns of each, newest first; memory does not grow with their number."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            await add(session, completed(job))
            await double(session, 15)
        tracemalloc.start()
        async with database.read() as session:
            seen, newest = 0, None
            async for view in CleanupRepository(session).backups_of(job.id):
                seen, newest = seen + 1, newest or view.created_at
            _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (seen, newest) == (2**15, NOW)
        assert peak < 4 * 1024 * 1024  # all of them would be three times that

    play(story)


def test_a_deleted_execution_takes_what_is_its_own(play: Play) -> None:
    """Chunks, logs and ended work go with it; another execution's stay; one that is not `deleting` stays whole."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            doomed, kept = completed(job), completed(job)
            await add(session, doomed, kept)
            for backup in (doomed, kept):
                await ExecutionRepository(session).add_chunks(backup.id, [("a", 1, "0"), ("b", 2, "1")], NOW)
                work = rows.verification(backup, status=WorkStatus.COMPLETED)
                await add(session, work, rows.restore(backup, status=WorkStatus.FAILED))
                for owner in (backup.id, work.id):
                    line = {"created_at": NOW, "level": "info", "message": "m", "details": {}}
                    await LogRepository(session).append(owner, [line])
            cleanup = CleanupRepository(session)
            assert await ExecutionRepository(session).mark_deleting(doomed.id, NOW)
            assert await cleanup.forget(doomed.id)
            assert not await cleanup.forget(doomed.id)
            for model, left in (
                (BackupExecution, 1),
                (BackupChunk, 2),
                (Verification, 1),
                (Restore, 1),
                (ExecutionLog, 2),
            ):
                assert await count(session, model) == left
            chunks = await ChunkRepository(session).after(kept.id, 1, 10)
            assert [(chunk.chunk_number, chunk.file_path) for chunk in chunks] == [(2, "b")]

    play(story)


def test_pruning_of_executions_spares_what_holds_something(play: Play) -> None:
    """Old failed, skipped and cancelled ones go, with their logs; not completed, pinned, young, active ones, nor one
    whose directory is still to be removed or that was ever read.
    """

    async def story(database: Database) -> None:
        old = NOW - 40 * DAY
        async with database.write() as session:
            job = await add_house(session)
            gone = [execution(job, at=old, status=status) for status in (FAILED, SKIPPED, CANCELLED) for _ in range(5)]
            read, left = execution(job, at=old, status=FAILED), execution(job, at=old, status=FAILED)
            kept = [
                completed(job, at=old),
                execution(job, at=old),
                execution(job, at=NOW, status=FAILED),
                execution(job, at=old, status=FAILED, pinned=True),
                execution(job, at=old, status=FAILED, backup_path="somewhere"),
                execution(job, at=old, status=ExecutionStatus.DELETING),
                execution(job, at=old, status=ExecutionStatus.PARTIAL),
                read,
                left,
            ]
            await add(session, *gone, *kept)
            await add(session, rows.verification(read), directory(left.id, job.storage_location_id, "x"))
            await LogRepository(session).append(
                gone[0].id, [{"created_at": old, "level": "info", "message": "m", "details": {}}]
            )
        deleted = []
        for _ in range(4):
            async with database.write() as session:
                deleted.append(await Pruning(session).executions(NOW - 30 * DAY, limit=7))
        assert deleted == [7, 7, 1, 0]
        async with database.read() as session:
            assert {row.id for row in await ExecutionRepository(session).all()} == {row.id for row in kept}
            assert await count(session, ExecutionLog) == 0

    play(story)


def test_pruning_of_the_rest_goes_by_age(play: Play) -> None:
    """Health checks, read notifications that nobody is owed, log lines, ended work; and nothing that is younger."""

    async def story(database: Database) -> None:
        old, before = NOW - 40 * DAY, NOW - 30 * DAY
        async with database.write() as session:
            job = await add_house(session)
            source, backup = await DatasourceRepository(session).get(job.datasource_id), completed(job)
            owed = rows.notification(at=old, read_at=old)
            await add(session, backup, rows.check(source, at=old), rows.check(source), owed)
            await add(session, rows.notification(at=old, read_at=old), rows.notification(at=old))
            await add(session, rows.notification(at=old, read_at=NOW), delivery(owed, "pending"))
            await add(session, rows.restore(backup, at=old, status=WorkStatus.COMPLETED), rows.restore(backup, at=old))
            await add(session, rows.verification(backup, at=old, status=WorkStatus.FAILED), rows.verification(backup))
            for at in (old, NOW):
                line = {"created_at": at, "level": "info", "message": "m", "details": {}}
                await LogRepository(session).append(backup.id, [line])
        async with database.write() as session:
            pruning = Pruning(session)
            for verb in (pruning.health_checks, pruning.read_notifications, pruning.logs):
                assert [await verb(before), await verb(before)] == [1, 0]
            assert [await pruning.ended_work(before), await pruning.ended_work(before)] == [2, 0]
            left = {
                HealthCheck: 1,
                NotificationRow: 3,
                NotificationDelivery: 1,
                ExecutionLog: 1,
                Restore: 1,
                Verification: 1,
            }
            assert {model: await count(session, model) for model in left} == left

    play(story)


def delivery(of: NotificationRow, status: str) -> NotificationDelivery:
    fields = {"notification_id": of.id, "channel": "mail", "status": status, "attempts": 0, "enqueue_number": 1}
    return rows.row(NotificationDelivery, NOW, fields)


def test_ids_tell_the_age() -> None:
    """An id of a later millisecond is larger than the bound, one of an earlier one smaller."""
    millisecond = timedelta(milliseconds=1)
    assert new_id(NOW - millisecond) < first_id(NOW) <= new_id(NOW)


def test_health_checks_newest_first_and_the_latest_of_each(play: Play) -> None:
    """Pages per datasource, and one row per thing that was ever checked."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            job = await add_house(session)
            source = await DatasourceRepository(session).get(job.datasource_id)
            never = rows.datasource("never")
            await add(session, never)
            checks = [rows.check(source, at=NOW - n * SECOND, status=CheckStatus.TIMEOUT) for n in range(5)]
            place = rows.check(source, datasource_id=None, storage_location_id=job.storage_location_id)
            await CheckRepository(session).add_many([*checks, place])
        async with database.read() as session:
            repository = CheckRepository(session)
            page = await repository.of_datasource(source.id, page=1, limit=2)
            assert ([row.id for row in page.data], page.total) == ([checks[0].id, checks[1].id], 5)
            assert {row.id for row in await repository.latest()} == {checks[0].id, place.id}
            assert job.storage_location_id is not None
            assert (await repository.of_storage(job.storage_location_id, page=1, limit=2)).total == 1

    play(story)


def test_the_numbers_of_the_overview(play: Play) -> None:
    """States of a day, what storages hold, how jobs fare, what runs next."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            good, bad = await add_house(session, "good"), await add_house(session, "bad", next_execution_at=NOW)
            never = await add_house(session, "never", next_execution_at=NOW - DAY)
            off = await add_house(session, "off", next_execution_at=NOW - DAY, enabled=False)
            success = completed(good, at=NOW - 3 * DAY, size=10)
            await add(session, success, execution(good, at=NOW - 4 * DAY, status=FAILED))
            await add(session, completed(good, at=NOW - 9 * DAY, size=5), execution(good, at=NOW, status=CANCELLED))
            await add(session, completed(bad, at=NOW - 2 * DAY, size=100))
            await add(session, *[execution(bad, at=NOW - n * SECOND, status=FAILED) for n in range(2)])
            await add(session, execution(never, status=FAILED), execution(off, at=NOW))
        async with database.read() as session:
            overview = OverviewRepository(session)
            counts = await overview.counts(NOW - DAY)
            assert counts[FAILED] == 3
            assert (counts[CANCELLED], counts[ExecutionStatus.QUEUED], counts[ExecutionStatus.COMPLETED]) == (1, 1, 0)
            assert await overview.stored() == {
                good.storage_location_id: Stored(2, 15),
                bad.storage_location_id: Stored(1, 100),
            }
            numbers = {job.name: job for job in await overview.jobs()}
            assert list(numbers) == ["bad", "good", "never", "off"]
            assert (numbers["good"].last_success_id, numbers["good"].last_success_at) == (
                success.id,
                success.finished_at,
            )
            assert (numbers["good"].size_bytes, numbers["good"].compressed_size_bytes) == (20, 10)
            assert (numbers["good"].failures, numbers["good"].failures_in_row) == (1, 0)
            assert (numbers["bad"].failures, numbers["bad"].failures_in_row) == (2, 2)
            assert (numbers["never"].last_success_at, numbers["never"].failures_in_row) == (None, 1)
            assert {job.name for job in await overview.jobs(failing=True)} == {"bad", "never"}
            assert [job.name for job in await JobRepository(session).next_due(5)] == ["never", "bad"]
            assert await overview.unread_notifications() == 0

    play(story)


def test_due_jobs_are_taken_once(play: Play) -> None:
    """The longest overdue first; switched off, not yet due and never scheduled ones are left alone."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            due = [await add_house(session, f"due {n}", next_execution_at=NOW - n * SECOND) for n in range(3)]
            await add_house(session, "later", next_execution_at=NOW + SECOND)
            await add_house(session, "off", next_execution_at=NOW - SECOND, enabled=False)
            await add_house(session, "manual")
            jobs = JobRepository(session)
            assert [job.id for job in await jobs.due(NOW, 10)] == [job.id for job in due[::-1]]
            assert len(await jobs.due(NOW, 2)) == 2

    play(story)


def test_rows_that_are_not_there_are_named(play: Play) -> None:
    """A NotFoundError says what was looked for."""

    async def story(database: Database) -> None:
        async with database.read() as session:
            with pytest.raises(NotFoundError, match="execution"):
                await ExecutionRepository(session).get(some_id())

    play(story)
