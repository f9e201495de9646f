"""What a restored catalogue does not know is imported: all that is whole, once, and as soon as it can be read."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete

from dataguardian.db.models import BackupChunk, BackupExecution, BackupJob
from dataguardian.domain.artifact import PARTS
from dataguardian.service.importing import Imported, Importer
from tests.faults.service import Parts
from tests.faults.test_schedules import play
from tests.service.backups import completed
from tests.service.stage import START, Stage


async def forgotten(here: Stage, job: BackupJob, count: int) -> list[str]:
    """Takes backups that the catalogue, restored from an older backup of itself, does not know; returns where."""
    assert await Importer(here.context).after_restore() is None  # a first start
    rows = [await completed(here, job, START + timedelta(minutes=number)) for number in range(count)]
    async with here.context.db.write() as session:
        await session.execute(delete(BackupChunk))
        await session.execute(delete(BackupExecution))
    return [str(row.backup_path) for row in rows]


def test_several_processes_import_at_once(parts: Parts) -> None:
    """Each backup becomes known once, with its parts."""

    async def story(here: Stage) -> None:
        paths = await forgotten(here, await here.job(), 5)
        counts = await asyncio.gather(*(Importer(here.reboot().context).run() for _ in range(4)))
        assert sum(found.backups for found in counts) == 5
        rows = await here.all_executions()
        assert sorted(str(row.backup_path) for row in rows) == paths
        assert {row.status for row in rows} == {"completed"}

    play(parts, story)


def test_a_damaged_backup_does_not_keep_the_others_away(tmp_path: Path) -> None:
    """It is left alone, and the rest is imported."""

    async def story(here: Stage) -> None:
        first, *others = await forgotten(here, await here.job(), 3)
        (tmp_path / "storage-of-shop" / first / PARTS).write_text("{}\n")
        assert await Importer(here.context).run() == Imported(2, ())
        assert sorted(str(row.backup_path) for row in await here.all_executions()) == others

    play(Parts(tmp_path), story)


def test_a_storage_that_is_away_is_imported_from_when_it_is_back(tmp_path: Path) -> None:
    """Until then every look at it is tried again, and nothing counts as done."""

    async def story(here: Stage) -> None:
        await forgotten(here, await here.job(), 2)
        moved = here.reboot(home_id="another machine")
        place, aside = tmp_path / "storage-of-shop", tmp_path / "aside"
        place.rename(aside)
        away = await Importer(moved.context).after_restore()
        assert away is not None
        assert (away.backups, away.unreadable) == (0, ("storage of shop",))
        aside.rename(place)
        back = await Importer(moved.context).after_restore()
        assert back is not None
        assert (back.backups, back.unreadable) == (2, ())
        assert await Importer(moved.context).after_restore() is None

    play(Parts(tmp_path), story)
