"""Storages that fail, lie, forget or fill up in the middle: the right error, and nothing left behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.core.restore import run_restore
from dataguardian.core.verify import run_verify
from dataguardian.domain import artifact
from dataguardian.domain.errors import (
    DamagedPartError,
    DataGuardianError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
)
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.retrying import RetryingStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan, validate
from tests.storage.faulty import Fault, FaultyStorage

PARTS = 6
DATA = random.Random(2).randbytes(PARTS * 64 * 1024 - 5)
ERRORS = [
    StorageFullError("no room"),
    StorageDeniedError("not allowed"),
    StorageUnreachableError("gone"),
    StorageTransientError("try again"),
]


def engine() -> BytesEngine:
    return BytesEngine(BytesStream("x", DATA))


def back_up(storage: LocalStorage, *faults: Fault) -> tuple[FaultyStorage, DataGuardianError]:
    """Runs a backup that must fail because of the faults, all of which must have fired; returns how it failed."""
    faulty = FaultyStorage(storage, *faults)
    with pytest.raises(DataGuardianError) as caught:
        run_backup(plan(), engine(), faulty)
    faulty.assert_all_fired()
    return faulty, caught.value


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", range(1, PARTS + 4))
def test_the_nth_put_fails(storage: LocalStorage, root: Path, nth: int, error: DataGuardianError, late: bool) -> None:
    """Each put of the run in its turn, the manifest's included, fails before or after it was carried out: that error
    is the outcome, nothing stays in the storage, and nothing is listed.
    """
    _, raised = back_up(storage, Fault(op="put", nth=nth, error=error, late=late))
    assert raised is error
    assert list(root.iterdir()) == []
    assert list_backups(storage).backups == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(op="put", nth=3, forget=True),
        Fault(op="put", nth=3, keep=100),
        Fault(op="stat", nth=3, keep=7),
        Fault(op="stat", nth=3, error=StorageUnreachableError("gone")),
        Fault(op="list", nth=2, keep=3),
        Fault(op="list", nth=2, error=StorageDeniedError("not allowed")),
        Fault(op="free_space", error=StorageUnreachableError("gone")),
    ],
    ids=["forgets", "cuts", "wrong size", "no stat", "list lacks some", "no list", "not there"],
)
def test_a_storage_that_lies(storage: LocalStorage, root: Path, fault: Fault) -> None:
    """An object forgotten or cut, a wrong size, a listing that lacks some: found before the manifest is written."""
    faulty, raised = back_up(storage, fault)
    assert isinstance(raised, StorageError)
    assert ("put", artifact.MANIFEST) not in {(op, path.rpartition("/")[2]) for op, path in faulty.calls}
    assert list(root.iterdir()) == []


def test_a_storage_that_forgets_a_part_later(storage: LocalStorage, root: Path) -> None:
    """A part that `stat` still saw is gone when all is listed: the backup fails and names it."""

    class Forgetful(LocalStorage):
        def stat(self, path: str):
            found = super().stat(path)
            if path.endswith("000002.zst") and (root / path).exists():
                (root / path).unlink()
            return found

    forgetful = Forgetful(LocalConfig(path=str(root)))
    with pytest.raises(StorageError, match=r"does not hold what was sent: .*000002\.zst \(1 in all\)"):
        run_backup(plan(), engine(), forgetful)
    assert list(root.iterdir()) == []


def test_a_stranger_in_the_directory(storage: LocalStorage, root: Path) -> None:
    """Something that appears in the backup's folder while it is taken is not taken for a part of it."""

    class Visited(LocalStorage):
        def put(self, path: str, data):
            super().put(path, data)
            if path.endswith("000003.zst"):
                super().put(path.replace("000003", "000099"), b"stranger")

    with pytest.raises(StorageError, match=r"000099\.zst"):
        run_backup(plan(), engine(), Visited(LocalConfig(path=str(root))))
    assert list(root.iterdir()) == []


def test_transient_errors_are_survived_with_retries(storage: LocalStorage) -> None:
    """The same faults, transient and behind the retrying wrapper, cost nothing but time."""
    error = StorageTransientError("try again")
    faulty = FaultyStorage(
        storage,
        Fault(op="put", nth=2, times=2, error=error),
        Fault(op="put", nth=7, error=error, late=True),
        Fault(op="stat", nth=3, error=error),
        Fault(op="list", nth=2, error=error),
        Fault(op="put", path="*manifest.json", error=error, late=True),
        Fault(op="get", nth=2, times=2, error=error),
    )
    steady = RetryingStorage(faulty, sleep=lambda _: None)
    result = run_backup(plan(), engine(), steady)
    back = BytesEngine()
    run_restore(steady, result.directory, back, "bytes")
    assert back.restored == [("x", DATA)]
    faulty.assert_all_fired()


def test_what_cannot_be_removed_is_told(storage: LocalStorage, root: Path) -> None:
    """The clean-up fails too: the first error stays the error, and it says what remains; nothing is listed."""
    _, error = back_up(
        storage,
        Fault(op="put", nth=4, error=StorageFullError("no room")),
        Fault(op="delete", nth=2, error=StorageUnreachableError("gone for good")),
    )
    assert isinstance(error, StorageFullError)
    assert "could not be removed: gone for good" in error.__notes__[0]
    assert list_backups(storage).backups == []
    assert list(root.rglob("*.zst"))


def test_the_manifest_goes_first_when_a_backup_is_removed(storage: LocalStorage) -> None:
    """The manifest's put fails after it was carried out, and then deleting breaks off: what stays is no backup."""
    faulty = FaultyStorage(
        storage,
        Fault(op="put", path="*manifest.json", error=StorageTransientError("answer lost"), late=True),
        Fault(op="delete", nth=3, error=StorageUnreachableError("gone")),
    )
    with pytest.raises(StorageTransientError):
        run_backup(plan(), engine(), faulty)
    faulty.assert_all_fired()
    deleted = [path.rpartition("/")[2] for op, path in faulty.calls if op == "delete"]
    assert deleted[0] == artifact.MANIFEST
    assert (list_backups(storage).backups, list_backups(storage).unreadable) == ([], {})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("op", ["get", "list"])
def test_reading_fails(storage: LocalStorage, error: DataGuardianError, op: str) -> None:
    """A storage that breaks while a backup is verified or restored: its error, not 'damaged', and no target changed."""
    result = run_backup(plan(), engine(), storage)
    for nth in range(1, 4 if op == "get" else 2):
        back = BytesEngine()
        faulty = FaultyStorage(storage, Fault(op=op, nth=nth, error=error))
        with pytest.raises(type(error)):
            run_restore(faulty, result.directory, back, "bytes")
        faulty.assert_all_fired()
        assert back.restored == []
        faulty = FaultyStorage(storage, Fault(op=op, nth=nth, error=error))
        with pytest.raises(type(error)):
            run_verify(faulty, result.directory, validate=validate)
        faulty.assert_all_fired()


@pytest.mark.parametrize("keep", [0, 10, 60_000])
def test_a_storage_that_gives_back_less(storage: LocalStorage, keep: int) -> None:
    """Sizes are right in the listing, and the bytes that come are fewer: damage, found before the target sees it."""
    result = run_backup(plan(), engine(), storage)
    back = BytesEngine()
    faulty = FaultyStorage(storage, Fault(op="get", path="*000004.zst", keep=keep))
    with pytest.raises(DamagedPartError, match=rf"000004\.zst has {keep} bytes"):
        run_restore(faulty, result.directory, back, "bytes")
    faulty.assert_all_fired()
    assert back.restored == []


def test_a_listing_that_lacks_a_part(storage: LocalStorage) -> None:
    """A part that the storage does not list is missing, although it might still be read."""
    result = run_backup(plan(), engine(), storage)
    with pytest.raises(DamagedPartError, match="is missing"):
        run_restore(FaultyStorage(storage, Fault(op="list", keep=2)), result.directory, BytesEngine(), "bytes")
