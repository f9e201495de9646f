"""A scrub finds what rotted, and calls nothing rot that is merely away, refused, or deleted meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.progress import Progress
from dataguardian.core.scrub import Checked, ScrubReport, Verdict, run_scrub
from dataguardian.domain.errors import (
    CancelledError,
    StorageDeniedError,
    StorageTransientError,
    StorageUnreachableError,
    UnknownSchemeError,
)
from dataguardian.storage.local import LocalStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan, validate
from tests.storage.faulty import Fault, FaultyStorage

PART = 64 * 1024
AWAY = StorageUnreachableError("the cable was pulled")


@pytest.fixture
def stored(storage: LocalStorage) -> list[str]:
    """Four backups of two streams each, of 3 and 2 parts."""
    chooser = random.Random(5)
    return [
        run_backup(
            plan(f"job{number}", execution_id=str(number)),
            BytesEngine(BytesStream("a", chooser.randbytes(3 * PART)), BytesStream("b", chooser.randbytes(PART + 1))),
            storage,
        ).directory
        for number in range(4)
    ]


def verdicts(outcome: ScrubReport) -> list[str]:
    return [entry.verdict.value for entry in outcome.checked]


def part(root: Path, directory: str, number: int = 2) -> Path:
    return root / directory / "01-a.raw" / f"00000{number}.zst"


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], object]] = {
    "flipped": flipped,
    "removed": Path.unlink,
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("deep", [False, True])
def test_a_harmed_part_is_found_and_the_others_are_good(
    root: Path, storage: LocalStorage, stored: list[str], harm: str, deep: bool
) -> None:
    """One bad part makes its backup damaged, with the part's name; the exit code is that of integrity."""
    assert run_scrub(storage).ok
    HARMS[harm](part(root, stored[1]))
    told: list[Checked] = []
    outcome = run_scrub(storage, validators=(lambda _: validate) if deep else None, tell=told.append)
    assert verdicts(outcome) == ["good", "damaged", "good", "good"]
    assert told == outcome.checked
    (bad,) = outcome.of(Verdict.DAMAGED)
    assert bad.directory == stored[1]
    assert "01-a.raw/000002.zst" in bad.report.errors[0]
    assert (bad.report.parts, bad.report.level) == (4, "deep" if deep else "stored")
    assert outcome.exit_code == 3


def test_a_damaged_manifest_is_damage_and_a_lost_one_is_told(
    root: Path, storage: LocalStorage, stored: list[str]
) -> None:
    """A manifest that was edited is rot; a run without any is named, because nothing tells whether it ever had one."""
    flipped(root / stored[0] / "manifest.json")
    (root / stored[1] / "manifest.json").unlink()
    outcome = run_scrub(storage, validators=lambda _: validate)
    assert {entry.directory: entry.verdict for entry in outcome.checked} == {
        stored[2]: "good",
        stored[3]: "good",
        stored[0]: "damaged",
    }
    assert outcome.unfinished == [stored[1]]


def test_a_storage_that_is_away_is_no_rot(storage: LocalStorage, stored: list[str]) -> None:
    """It goes in the middle: what was checked stays checked, the rest is unchecked and not asked for any more."""
    away = Fault(op="get", path=f"{stored[1]}/0*", times=100, error=AWAY)
    gone = Fault(op="get", path=f"{stored[1]}/manifest.json", nth=3, times=1, error=AWAY)
    faulty = FaultyStorage(storage, away, gone)
    outcome = run_scrub(faulty)
    assert verdicts(outcome) == ["good", "unchecked", "unchecked", "unchecked"]
    assert (outcome.ok, outcome.exit_code) == (False, 5)
    assert away.fired
    assert gone.fired == 1
    assert not any(path.startswith((f"{stored[2]}/0", f"{stored[3]}/0")) for _, path in faulty.calls)


def test_a_storage_that_is_away_from_the_start_is_an_error(storage: LocalStorage, stored: list[str]) -> None:
    """Nothing could be listed: that is told as what it is, and not as an empty storage."""
    assert stored
    with pytest.raises(StorageUnreachableError):
        run_scrub(FaultyStorage(storage, Fault(op="free_space", error=AWAY)))


@pytest.mark.parametrize("error", [StorageDeniedError("not for you"), StorageTransientError("input/output error")])
def test_one_part_that_cannot_be_read_stops_nothing_else(
    storage: LocalStorage, stored: list[str], error: Exception
) -> None:
    """The storage answers otherwise: this backup could not be checked, and says why; the others are."""
    fault = Fault(op="get", path=f"{stored[1]}/01-a.raw/000002.zst", error=error)
    faulty = FaultyStorage(storage, fault)
    outcome = run_scrub(faulty)
    faulty.assert_all_fired()
    assert verdicts(outcome) == ["good", "unchecked", "good", "good"]
    assert outcome.checked[1].error is error


def test_a_backup_that_is_deleted_meanwhile_is_gone(storage: LocalStorage, stored: list[str]) -> None:
    """Retention takes it while it is being read: its manifest went first, so its missing parts are no rot."""

    def delete(progress: Progress) -> None:
        if progress.parts == 2:
            for entry in [f"{stored[0]}/manifest.json", *(found.path for found in storage.list(stored[0]))]:
                storage.delete(entry)

    outcome = run_scrub(storage, report=delete)
    assert verdicts(outcome) == ["gone", "good", "good", "good"]
    assert outcome.ok


def test_a_backup_of_an_engine_that_is_not_installed_is_unchecked(storage: LocalStorage, stored: list[str]) -> None:
    """A deep check that nobody here can make is not a damaged backup."""
    assert stored

    def unknown(_: object) -> object:
        raise UnknownSchemeError("there is no such engine")

    outcome = run_scrub(storage, validators=unknown)  # type: ignore[arg-type] # it never returns
    assert verdicts(outcome) == ["unchecked"] * 4
    assert outcome.exit_code == 2


@pytest.mark.parametrize(("percent", "count"), [(0.1, 1), (50, 2), (51, 3), (100, 4)])
def test_a_sample_is_never_empty(storage: LocalStorage, stored: list[str], percent: float, count: int) -> None:
    """So many percent of the backups, rounded up, in the order of the list."""
    outcome = run_scrub(storage, sample_percent=percent)
    found = [entry.directory for entry in outcome.checked]
    assert found == sorted(found, key=stored.index)
    assert (len(found), outcome.left_out) == (count, 4 - count)


def test_progress_is_one_bar_over_everything(root: Path, storage: LocalStorage, stored: list[str]) -> None:
    """Bytes only grow, to the raw bytes of all backups, also when a deep check has to look at a stream again."""
    flipped(part(root, stored[0], 3))
    seen: list[Progress] = []
    run_scrub(storage, validators=lambda _: validate, report=seen.append)
    assert {entry.stream for entry in seen} == {"4 backups"}
    assert {entry.total_bytes for entry in seen} == {4 * (4 * PART + 1)}
    sizes = [entry.size_bytes for entry in seen if entry.parts > 5]
    assert sizes == sorted(sizes)
    assert seen[-1].size_bytes == 4 * (4 * PART + 1)


def test_a_stop_ends_it(storage: LocalStorage, stored: list[str]) -> None:
    """A signal is not a backup that could not be checked."""
    assert stored

    def stop(_: Progress) -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        run_scrub(storage, report=stop)


def test_an_empty_storage_is_good(storage: LocalStorage) -> None:
    """There is nothing that could have rotted."""
    outcome = run_scrub(storage, sample_percent=5)
    assert (outcome.ok, outcome.checked) == (True, [])
