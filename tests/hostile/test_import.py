from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from dataguardian.domain import artifact
from dataguardian.service.importing import Importer
from tests.domain.test_artifact import parts_of
from tests.hostile.test_manifests import _document, _signed
from tests.service.stage import stage


@pytest.mark.parametrize(
    "changes", [{"execution_id": "\ud800"}, {"name": "\ud800"}, {"name": "\0"}, {"options": {"x": "\ud800"}}], ids=ascii
)
def test_a_hostile_manifest_does_not_stop_the_import(tmp_path: Path, changes: dict[str, Any]) -> None:
    """After a catalogue was lost, one manifest that nobody can store does not keep the others from being found."""

    async def story() -> None:
        async with stage(tmp_path) as here:
            await here.job()
            folder = tmp_path / "storage-of-shop" / "shop" / "20261123T040000Z-x-1"
            folder.mkdir(parents=True)
            parts = artifact.encode_parts(parts_of("01-a.tar", [3]))
            document = _document(parts_sha256=hashlib.sha256(parts).hexdigest(), **changes)
            (folder / artifact.MANIFEST).write_bytes(_signed(document))
            (folder / artifact.PARTS).write_bytes(parts)
            found = await Importer(here.context).run()
            assert found.unreadable == ()

    asyncio.run(story())
