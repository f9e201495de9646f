"""A backup that fails or is stopped removes what it stored, whatever the storage: through its contract alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.progress import Progress
from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import CancelledError, DumpFailedError
from dataguardian.storage.retrying import wrap
from tests.core.bytes_engine import BytesEngine, BytesStream, plan
from tests.storage.conformance import Harness
from tests.storage.peers import all_peers

PEERS = all_peers()
PART = 64 * 1024
DATA = random.Random(3).randbytes(6 * PART)


@pytest.fixture(params=PEERS)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    with PEERS[request.param](tmp_path) as made:
        yield made


@pytest.mark.parametrize("how", ["fails", "is stopped"])
def test_a_backup_that_does_not_end_well_leaves_nothing(harness: Harness, how: str) -> None:
    """Parts were stored, then the dump breaks or a cancel comes: the other backup is whole, of this one nothing is."""
    storage = wrap(harness.open())
    kept = run_backup(plan("kept", execution_id="1"), BytesEngine(BytesStream("a", DATA)), storage)
    seen: list[int] = []

    def report(progress: Progress) -> None:
        seen.append(progress.parts)
        if how == "is stopped" and progress.parts >= 2:
            raise CancelledError("stopped on request")

    broken = BytesStream("a", DATA * 20, fail_at=100 * PART, error=DumpFailedError("the server went away"))
    with pytest.raises((DumpFailedError, CancelledError)) as caught:
        run_backup(plan("lost", execution_id="2"), BytesEngine(broken), storage, report=report)
    assert max(seen) >= 2
    assert not getattr(caught.value, "__notes__", [])
    assert list(storage.list("lost")) == []
    assert list(storage.folders()) == ["kept"]
    assert run_verify(storage, kept.directory).ok
