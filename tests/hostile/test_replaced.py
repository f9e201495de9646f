"""Whoever may write into a storage puts another backup into the place of one, and every hash of it matches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dataguardian.core.verify import run_verify
from tests.service.backups import play, storage_of
from tests.service.stage import Stage
from tests.service.test_encryption import SECRET, TO_RECIPIENT, Desk


@pytest.mark.parametrize("forged", [TO_RECIPIENT, {"encryption": None}], ids=["an older one", "one in clear"])
def test_another_backup_in_its_place_is_neither_good_nor_restored(tmp_path: Path, forged: dict[str, Any]) -> None:
    """The catalogue has the checksum: verification tells, at both levels, and a restore leaves the target alone."""

    async def story(here: Stage) -> None:
        desk = Desk(here)
        async with desk.working():
            await desk.settings.change("decryption", {"identities": [SECRET]})
            older = await desk.back_up(forged)
            await here.jobs.update(older.job_id, {"backup_options": TO_RECIPIENT})
            row = await desk.run(older.job_id)
            root = here.folder / "storage-of-shop"
            shutil.rmtree(root / str(row.backup_path))
            shutil.copytree(root / str(older.backup_path), root / str(row.backup_path))
            assert run_verify(storage_of(here), str(row.backup_path)).ok, "it is a whole backup, but not this one"
            for deep in (False, True):
                found = await desk.verified(row, deep=deep)
                assert (found.status, found.ok) == ("completed", False)
                assert "another backup than the one that was recorded" in found.errors[0]
            before = (here.folder / "shop.db").read_bytes()
            restore = await desk.restored(row)
            assert (restore.status, restore.error_code) == ("failed", "damaged_part")
            assert "another backup than the one that was recorded" in str(restore.error_message)
            assert (here.folder / "shop.db").read_bytes() == before

    play(tmp_path, story)
