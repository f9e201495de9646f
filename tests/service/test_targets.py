"""Jobs with several storage locations: what each holds, what becomes of those that are behind, and of all of them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dataguardian.core.verify import run_verify
from dataguardian.db.models import BackupExecution, BackupJob, ExecutionTarget
from dataguardian.db.repositories.stored import AbandonedRepository
from dataguardian.domain.errors import ConflictError, NotFoundError, UsageError
from dataguardian.queues.consumer import Consumer
from dataguardian.queues.definitions import QueueName
from dataguardian.service.cleanup import Cleanup
from dataguardian.service.history import History
from dataguardian.service.importing import Importer
from dataguardian.service.work import Work
from dataguardian.service.workkinds import Kind, Row, repository
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.workers.restore import RestoreWorker
from tests.servers import PostgresServer
from tests.service.backups import Story
from tests.service.backups import play as play_embedded
from tests.service.stage import Stage, stage

Play = Callable[[Story], None]
OWN = "storage of shop"


@pytest.fixture(params=["embedded", "postgresql"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Play]:
    """Plays a story on the embedded catalogue, and on PostgreSQL."""
    if request.param == "embedded":
        yield lambda story: play_embedded(tmp_path, story)
        return
    server: PostgresServer = request.getfixturevalue("postgres17")
    name = server.database()

    def on_postgres(story: Story) -> None:
        async def run() -> None:
            async with stage(tmp_path, database_url=server.url(name)) as here:
                await story(here)

        asyncio.run(run())

    yield on_postgres
    server.drop(name)


async def job_of(here: Stage, *further: str, **options: Any) -> BackupJob:
    """The job `shop`, with further storage locations of these names beside its own."""
    targets = [str((await here.storage(name)).id) for name in further]
    return await here.job(backup_options={"storage_targets": targets, **options})


async def run(here: Stage, job: BackupJob) -> BackupExecution:
    """Takes one backup; returns its row when it has ended."""
    async with here.working():
        row = await here.executions.start(job.id)
        return await here.until(row.id, "completed", "partial", "failed")


async def targets(here: Stage, row: BackupExecution) -> list[ExecutionTarget]:
    return await History(here.context).targets(row)


async def states(here: Stage, row: BackupExecution) -> list[str]:
    return [target.status.value for target in await targets(here, row)]


def folder(here: Stage, name: str) -> Path:
    return here.folder / name.replace(" ", "-")


def objects(here: Stage, name: str) -> dict[str, bytes]:
    place = folder(here, name)
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def is_good(here: Stage, name: str, row: BackupExecution) -> bool:
    return run_verify(LocalStorage(LocalConfig(path=str(folder(here, name)))), str(row.backup_path)).ok


def break_storage(here: Stage, name: str) -> None:
    """Makes a storage unusable for everybody, root too: a file where its folder was."""
    place = folder(here, name)
    place.rename(place.with_suffix(".away"))
    place.write_text("no folder")


def mend_storage(here: Stage, name: str) -> None:
    place = folder(here, name)
    place.unlink()
    place.with_suffix(".away").rename(place)


@asynccontextmanager
async def repairing(here: Stage) -> AsyncIterator[Work]:
    """Workers for restores, verifications and repairs are at work within the block."""
    work, stopping = Work(here.context, here.events), asyncio.Event()
    worker = RestoreWorker(here.context, work, stopping)
    consumers = [
        Consumer(here.context.queues.url, name, worker.process) for name in (QueueName.RESTORE, QueueName.REPAIR)
    ]
    for consumer in consumers:
        consumer.start()
    try:
        yield work
    finally:
        for consumer in consumers:
            await consumer.stop(0.1, hurry=stopping)


async def ended(here: Stage, kind: Kind, row: Row) -> Any:
    async with asyncio.timeout(60):
        while True:
            async with here.context.db.read() as session:
                found = await repository(session, kind).get(row.id)
            if found.status.value not in ("queued", "running"):
                return found
            await asyncio.sleep(0.1)


def test_all_hold_it(play: Play) -> None:
    """Two storage locations, one backup: completed, the same bytes in both, and one notification of it."""

    async def story(here: Stage) -> None:
        row = await run(here, await job_of(here, "second"))
        assert row.status == "completed"
        assert await states(here, row) == ["stored", "stored"]
        assert is_good(here, OWN, row)
        assert is_good(here, "second", row)
        assert objects(here, OWN) == objects(here, "second")
        assert [note.type for note in await here.notifications()] == ["backup_success"]

    play(story)


def test_partial_is_told_once_and_repaired_by_copying(play: Play) -> None:
    """One storage is away: the backup is partial, told once as a warning, and restorable. When the storage is back the
    service copies it there by itself; the source is not read again, and it is told that all is well.
    """

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        break_storage(here, "second")
        row = await run(here, job)
        assert row.status == "partial"
        assert await states(here, row) == ["stored", "behind"]
        assert "second is behind" in str(row.error_message)
        [note] = await here.notifications()
        assert (note.type, note.severity, note.title) == ("backup_failed", "warning", "Backup of shop is partial")
        (here.folder / "shop.db").unlink()  # no new dump can be made
        async with repairing(here) as work:
            assert await work.repair_due() == 0  # not yet
            [repair] = await work.start_repairs(row.id)
            with pytest.raises(ConflictError):
                await work.start_repairs(row.id)
            assert (await ended(here, Kind.REPAIR, repair)).status == "failed"
            [_, behind] = await targets(here, row)
            assert behind.failed_repairs == 1
            assert len(await here.notifications()) == 1  # the same trouble is not told again
            mend_storage(here, "second")
            here.clock.advance(hours=1)
            assert await work.repair_due() == 1
            assert await work.repair_due() == 0
            row = await here.until(row.id, "completed")
        assert row.error_message is None
        assert await states(here, row) == ["stored", "stored"]
        assert is_good(here, "second", row)
        assert [note.severity.value for note in await here.notifications()] == ["warning", "info"]
        with pytest.raises(ConflictError, match="behind"):
            await work.start_repairs(row.id)

    play(story)


def test_no_storage_takes_it(play: Play) -> None:
    """Neither can be used: the run fails, in words about both, and what could be left is noted for each of them."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        for name in (OWN, "second"):
            break_storage(here, name)
        async with here.working():
            row = await here.executions.start(job.id)
            row = await here.until(row.id, "failed")
        assert "none of the 2 storages" in str(row.error_message)
        assert [note.severity.value for note in await here.notifications()] == ["critical"]
        assert await states(here, row) == ["unused", "unused"]
        async with here.context.db.read() as session:
            notes = await AbandonedRepository(session).removable(None, 10)
        assert {note.storage_location_id for note in notes} >= {job.storage_location_id}
        assert len({note.storage_location_id for note in notes}) == 2

    play(story)


def test_fallback_goes_to_the_second_and_says_so(play: Play) -> None:
    """With `fallback` one storage location is enough: the second takes it when the first is away, as a warning."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second", "third", storage_strategy="fallback")
        break_storage(here, OWN)
        row = await run(here, job)
        assert row.status == "completed"
        assert await states(here, row) == ["unused", "stored", "unused"]
        assert is_good(here, "second", row)
        assert row.storage_location_id == (await targets(here, row))[1].storage_location_id
        [note] = await here.notifications()
        assert (note.type, note.severity) == ("backup_success", "warning")
        assert f"{OWN} was passed over" in note.message
        mend_storage(here, OWN)
        await Cleanup(here.context, here.events).delete_execution(row.id, force=True)
        assert [path for path in folder(here, "second").rglob("*") if path.is_file()] == []
        assert await here.all_executions() == []

    play(story)


def test_what_was_passed_over_may_be_the_same_place(play: Play) -> None:
    """The first location was away, and comes back as a link to the second: the cleanup leaves the backup alone."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second", storage_strategy="fallback")
        break_storage(here, OWN)
        row = await run(here, job)
        assert await states(here, row) == ["unused", "stored"]
        folder(here, OWN).unlink()
        folder(here, OWN).symlink_to(folder(here, "second"))
        report = await Cleanup(here.context, here.events).run()
        assert is_good(here, "second", row)
        assert "whether two storage locations are the same place" in str(report)

    play(story)


def test_restore_and_verification_find_the_good_copy(play: Play) -> None:
    """The first storage is destroyed: a restore comes from the second. Where one copy is damaged, a verification tells,
    the copy is behind, and a repair puts it right again.
    """

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        row = await run(here, job)
        shutil.rmtree(folder(here, OWN))
        folder(here, OWN).mkdir()
        target = await here.datasources.create(
            {"name": "back", "type": "sqlite", "connection_config": {"file_path": str(here.folder / "back.db")}}
        )
        async with repairing(here) as work:
            restore = await work.start_restore(row.id, confirm="back", target_datasource_id=target.id)
            assert (await ended(here, Kind.RESTORE, restore)).status == "completed"
            connection = sqlite3.connect(here.folder / "back.db")
            assert connection.execute("SELECT body FROM notes").fetchall() == [("hello",)]
            connection.close()
            verification = await ended(here, Kind.VERIFICATION, await work.start_verification(row.id, deep=True))
            assert verification.ok is False
            assert verification.errors[0].startswith(OWN)
            row = await here.execution(row.id)
            assert row.status == "partial"
            assert await states(here, row) == ["behind", "stored"]
            [repair] = await work.start_repairs(row.id)
            assert (await ended(here, Kind.REPAIR, repair)).details == {"parts": 1, "copied": 1}
            row = await here.until(row.id, "completed")
            verification = await ended(here, Kind.VERIFICATION, await work.start_verification(row.id, deep=True))
            assert verification.ok is True
        assert is_good(here, OWN, row)

    play(story)


def test_retention_deletes_everywhere(play: Play) -> None:
    """A deletion empties every storage. One that is away keeps the row until it is back, and not the others' bytes."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        rows = []
        for _ in range(3):
            rows.append(await run(here, job))
            here.clock.advance(minutes=1)
        cleanup = Cleanup(here.context, here.events)
        await cleanup.delete_execution(rows[0].id)
        for name in (OWN, "second"):
            assert not (folder(here, name) / str(rows[0].backup_path)).exists()
            assert (folder(here, name) / str(rows[1].backup_path)).exists()
        break_storage(here, "second")
        here.clock.advance(days=800)
        report = await cleanup.run(job.id, force=True)
        assert (await here.execution(rows[1].id)).status == "deleting"
        assert any("not gone from every storage" in problem for problem in report.problems)
        assert not (folder(here, OWN) / str(rows[1].backup_path)).exists()
        mend_storage(here, "second")
        await cleanup.run(job.id, force=True)
        assert [row.id for row in await here.all_executions()] == [rows[2].id]
        assert not (folder(here, "second") / str(rows[1].backup_path)).exists()
        assert is_good(here, "second", rows[2])

    play(story)


def test_what_a_dead_worker_left_is_removed_everywhere(play: Play) -> None:
    """A crash in the middle: the next attempt is whole, and cleanup removes the leftovers from both storages."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        row = await here.executions.start(job.id)
        claim = await here.executions.claim(row.id, 1)
        assert claim is not None
        for name in (OWN, "second"):
            half = folder(here, name) / claim.directory / "01-shop.sqlite"
            half.mkdir(parents=True)
            (half / "000001.zst").write_bytes(b"half a part")
        after = here.reboot()
        assert await after.executions.reconcile() == 1
        async with after.working():
            row = await after.until(row.id, "completed")
        here.clock.advance(hours=2)
        await Cleanup(after.context, after.events).run()
        for name in (OWN, "second"):
            assert [str(path) for path in (folder(here, name) / "shop").iterdir()] == [
                str(folder(here, name) / str(row.backup_path))
            ]

    play(story)


def test_a_crash_before_the_commit_is_adopted_with_what_each_holds(play: Play) -> None:
    """Only the first storage had the manifest when the worker died: the backup is adopted, and the other repaired."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        row = await run(here, job)
        directory = str(row.backup_path)
        await here.forget_end(row.id, directory)
        (folder(here, "second") / directory / "manifest.json").unlink()
        (here.folder / "shop.db").unlink()
        after = here.reboot()
        await after.executions.reconcile()
        async with after.working():
            row = await after.until(row.id, "partial")
        assert row.backup_path == directory
        assert await states(after, row) == ["stored", "behind"]
        async with repairing(after) as work:
            await work.start_repairs(row.id)
            row = await after.until(row.id, "completed")
        assert is_good(here, "second", row)

    play(story)


def test_copies_are_imported_with_their_backup(play: Play) -> None:
    """A catalogue that lost its executions learns from the storages which hold each backup."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        row = await run(here, job)
        async with here.context.db.write() as session:
            await session.delete(await session.get(BackupExecution, row.id))
        assert (await Importer(here.context).run()).backups == 1
        row = await here.execution(row.id)
        assert row.status == "completed"
        assert sorted(await states(here, row)) == ["stored", "stored"]
        await Cleanup(here.context, here.events).delete_execution(row.id, force=True)
        for name in (OWN, "second"):
            assert [path for path in folder(here, name).rglob("*") if path.is_file()] == []

    play(story)


def test_one_place_under_two_names_is_refused(tmp_path: Path) -> None:
    """By its address when the job is told, and by what it is when a backup is taken."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        [second] = job.backup_options["storage_targets"]
        own = {"path": str(folder(here, OWN))}
        await here.storages.update(uuid.UUID(second), {"config": own})
        with pytest.raises(UsageError, match="second and storage of shop are the same place"):
            await here.jobs.update(job.id, {"backup_options": {"storage_targets": [second]}})
        row = await run(here, job)
        assert row.status == "failed"
        assert "are the same folder" in str(row.error_message)

    play_embedded(tmp_path, story)


def test_what_a_job_may_name(tmp_path: Path) -> None:
    """Storage locations that are not there, named twice or the job's own are refused; one that is named stays."""

    async def story(here: Stage) -> None:
        job = await job_of(here, "second")
        own, [second] = job.storage_location_id, job.backup_options["storage_targets"]
        for wrong in ([second, second], [str(own)], ["nonsense"]):
            with pytest.raises(UsageError):
                await here.jobs.update(job.id, {"backup_options": {"storage_targets": wrong}})
        with pytest.raises(NotFoundError):
            await here.jobs.update(job.id, {"backup_options": {"storage_targets": [str(job.id)]}})
        with pytest.raises(ConflictError, match="shop"):
            await here.storages.delete(uuid.UUID(second))
        await here.jobs.update(job.id, {"backup_options": {"storage_targets": []}})
        await here.storages.delete(uuid.UUID(second))

    play_embedded(tmp_path, story)
