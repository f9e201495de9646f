"""What `list` shows of a storage, whatever lies in it, and how soon."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.domain import artifact
from dataguardian.domain.errors import StorageDeniedError, StorageTransientError, StorageUnreachableError
from dataguardian.storage.local import LocalStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan
from tests.storage.faulty import Fault, FaultyStorage

MANY = 2000


@pytest.fixture
def directory(storage: LocalStorage) -> str:
    return run_backup(plan("job"), BytesEngine(BytesStream("x", b"x" * 200_000)), storage).directory


def test_foreign_folders_do_not_hide_backups(storage: LocalStorage, root: Path, directory: str) -> None:
    """Names that no backup has, files where folders belong, other people's folders: the backups are listed all the
    same, and nothing else is.
    """
    for name in ("a\\b/c", "two\nlines/x", "\udcff/\udcfe", ".hidden/run", "lost+found/x", "empty", "job/empty"):
        (root / name).mkdir(parents=True)
    for name in ("file", "job/file", "empty/file", "a\\b/c/manifest.json", "a\\b/manifest.json"):
        (root / name).write_text("{}")
    (root / "loop").symlink_to(root)
    (root / "job" / "link").symlink_to("/etc")
    (root / "job" / "folder" / artifact.MANIFEST).mkdir(parents=True)
    listing = list_backups(storage)
    assert [found for found, _ in listing.backups] == [directory]
    assert listing.unreadable == {}


def test_unreadable_ones_are_named_and_hide_nothing(storage: LocalStorage, root: Path, directory: str) -> None:
    """Damaged, newer, too big, or not to be opened: each is named with its reason, the good one is still listed."""
    good = (root / directory / artifact.MANIFEST).read_bytes()
    contents = {
        "garbage": b"\xff\x00",
        "empty": b"",
        "newer": good.replace(b'"format": 1', b'"format": 7'),
        "cut": good[: len(good) // 2],
        "deep": b"[" * 100_000,
        "digits": b'{"format": ' + b"9" * 5000 + b"}",
    }
    for name, content in contents.items():
        (root / "job" / name).mkdir()
        (root / "job" / name / artifact.MANIFEST).write_bytes(content)
    for name in ("huge", "link"):
        (root / "job" / name).mkdir()
    with (root / "job" / "huge" / artifact.MANIFEST).open("wb") as file:
        file.truncate(artifact.MAX_MANIFEST_BYTES + 1)
    (root / "job" / "link" / artifact.MANIFEST).symlink_to(root / directory / artifact.MANIFEST)
    listing = list_backups(storage)
    assert [found for found, _ in listing.backups] == [directory]
    assert sorted(listing.unreadable) == sorted(f"job/{name}" for name in [*contents, "huge", "link"])
    assert "format 7" in listing.unreadable["job/newer"]
    assert all(listing.unreadable.values())


def test_a_job_that_may_not_be_read_is_named(storage: LocalStorage, directory: str) -> None:
    """Another user's folder in the storage does not hide ours, and is not passed over in silence."""
    run_backup(plan("other"), BytesEngine(BytesStream("x", b"")), storage)
    faulty = FaultyStorage(storage, Fault(op="folders", path="other", error=StorageDeniedError("not yours")))
    listing = list_backups(faulty)
    faulty.assert_all_fired()
    assert ([found for found, _ in listing.backups], listing.unreadable) == ([directory], {"other": "not yours"})


def test_a_storage_that_breaks_is_no_empty_storage(storage: LocalStorage, directory: str) -> None:
    """Errors of the storage itself end the listing: a backup that could not be looked at must not seem to be gone."""
    for op, error in (
        ("get", StorageUnreachableError("gone")),
        ("get", StorageTransientError("try again")),
        ("folders", StorageUnreachableError("gone")),
    ):
        faulty = FaultyStorage(storage, Fault(op=op, error=error))
        with pytest.raises(type(error)):
            list_backups(faulty)
        faulty.assert_all_fired()


def test_oldest_first_whatever_the_folders_are_called(storage: LocalStorage, root: Path, directory: str) -> None:
    """The order is that of the manifests' times."""
    later = run_backup(plan("a-job"), BytesEngine(BytesStream("x", b"")), storage).directory
    assert [found for found, _ in list_backups(storage).backups] == [directory, later]


def test_a_big_storage_is_listed_quickly(storage: LocalStorage, root: Path, directory: str) -> None:
    """Two thousand backups, and as many that were never finished, within seconds; no part is looked at."""
    for number in range(MANY):
        folder = root / f"job{number % 20}" / f"run{number}"
        folder.mkdir(parents=True)
        shutil.copy(root / directory / artifact.MANIFEST, folder)
        (root / f"job{number % 20}" / f"half{number}" / "01-x.raw").mkdir(parents=True)
    counted = FaultyStorage(storage)
    began = time.monotonic()
    assert len(list_backups(counted).backups) == MANY + 1
    assert time.monotonic() - began < 20, "seconds; it takes about one on an idle machine"
    assert not [call for call in counted.calls if call[0] in ("list", "stat")]


class DistantStorage(FaultyStorage):
    """Answers after a while, as at the other end of a network; `most` is how many waited for it at once."""

    def __init__(self, storage: LocalStorage) -> None:
        super().__init__(storage)
        self.lock, self.waiting, self.most = threading.Lock(), 0, 0

    def get(self, path: str, max_bytes: int) -> bytes:
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        time.sleep(0.05)
        with self.lock:
            self.waiting -= 1
        return super().get(path, max_bytes)


def test_a_distant_storage_is_asked_for_several_at_once(storage: LocalStorage, root: Path, directory: str) -> None:
    """Eighty manifests at 50 ms each do not take four seconds: several are on their way at a time."""
    for number in range(80):
        shutil.copytree(root / directory, root / "job" / f"run{number}")
    distant = DistantStorage(storage)
    assert len(list_backups(distant).backups) == 81
    assert distant.most >= 4
