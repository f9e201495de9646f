"""Copying a backup from a storage that holds it to one that lacks it, or holds it damaged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataguardian.core.backup import BackupResult, run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.core.repair import run_repair
from dataguardian.core.restore import run_restore
from dataguardian.core.targets import Target, Targets
from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import (
    CancelledError,
    DamagedPartError,
    IntegrityError,
    StorageError,
    StorageFullError,
    StorageUnreachableError,
)
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan
from tests.storage.faulty import Fault, FaultyStorage

PART = 64 * 1024
DATA = random.Random(7).randbytes(9 * PART - 3)


def local(folder: Path) -> LocalStorage:
    folder.mkdir(exist_ok=True)
    return LocalStorage(LocalConfig(path=str(folder)))


def files(folder: Path) -> dict[str, bytes]:
    """Every object; what a killed put left in the root is none."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/**/*") if path.is_file()}


@pytest.fixture
def kept(tmp_path: Path) -> BackupResult:
    """A backup in the storages a and b; c is empty."""
    local(tmp_path / "c")
    targets = Targets([Target(name, local(tmp_path / name)) for name in "ab"])
    return run_backup(plan(), BytesEngine(BytesStream("x", DATA)), targets)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def part(root: Path, kept: BackupResult, number: int) -> Path:
    return root / kept.directory / kept.parts[number].path


def test_an_empty_storage_gets_the_same_bytes(tmp_path: Path, kept: BackupResult) -> None:
    """The copy is the backup, byte for byte; doing it again copies nothing."""
    done = run_repair([local(tmp_path / "a")], local(tmp_path / "c"), kept.directory, checksum=kept.manifest.checksum)
    assert done.copied == len(kept.parts)
    assert files(tmp_path / "c") == files(tmp_path / "a")
    again = run_repair([local(tmp_path / "a")], local(tmp_path / "c"), kept.directory)
    assert (again.copied, again.size_bytes) == (0, 0)


def test_only_what_is_wrong_is_copied(tmp_path: Path, kept: BackupResult) -> None:
    """A flipped part, one cut short, one that is gone and records that are damaged: repaired where they lie."""
    root = tmp_path / "b"
    flip(part(root, kept, 1))
    part(root, kept, 3).write_bytes(b"short")
    part(root, kept, 5).unlink()
    for name in ("parts.jsonl", "SHA256SUMS", "manifest.json"):
        flip(root / kept.directory / name)
    assert run_repair([local(tmp_path / "a")], local(root), kept.directory).copied == 3
    assert files(root) == files(tmp_path / "a")


def test_sources_that_are_damaged_in_different_parts_are_one_good_source(tmp_path: Path, kept: BackupResult) -> None:
    """Each part comes from whichever storage has it undamaged; when none has, the repair names it and publishes
    nothing.
    """
    flip(part(tmp_path / "a", kept, 0))
    flip(part(tmp_path / "b", kept, 4))
    sources = [local(tmp_path / name) for name in "ab"]
    run_repair(sources, local(tmp_path / "c"), kept.directory)
    assert run_verify(local(tmp_path / "c"), kept.directory).ok
    flip(part(tmp_path / "b", kept, 0))
    with pytest.raises(DamagedPartError, match="000001"):
        run_repair(sources, local(tmp_path / "d"), kept.directory)
    assert list_backups(local(tmp_path / "d")).backups == []


def test_a_source_that_holds_another_backup_is_not_copied(tmp_path: Path, kept: BackupResult) -> None:
    """What the catalogue recorded decides: a directory whose content was replaced as a whole is refused."""
    other = local(tmp_path / "other")
    run_backup(plan(directory=kept.directory), BytesEngine(BytesStream("x", b"other")), other)
    with pytest.raises(IntegrityError):
        run_repair([other, local(tmp_path / "gone")], local(tmp_path / "c"), kept.directory, checksum="0" * 64)
    run_repair([other, local(tmp_path / "a")], local(tmp_path / "c"), kept.directory, checksum=kept.manifest.checksum)
    assert files(tmp_path / "c") == files(tmp_path / "a")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(op="put", nth=4, error=StorageFullError("no room")),
        Fault(op="put", nth=4, forget=True),
        Fault(op="put", path="*/SHA256SUMS", error=StorageUnreachableError("gone")),
        Fault(op="list", keep=3),
    ],
    ids=["full", "forgets", "gone late", "listing lacks some"],
)
def test_a_copy_that_fails_is_no_backup_and_goes_on_later(tmp_path: Path, kept: BackupResult, fault: Fault) -> None:
    """Whatever stops a copy, no manifest is written; the next one finds what is there and does the rest."""
    faulty = FaultyStorage(local(tmp_path / "c"), fault)
    with pytest.raises(StorageError):
        run_repair([local(tmp_path / "a")], faulty, kept.directory)
    faulty.assert_all_fired()
    assert list_backups(local(tmp_path / "c")).backups == []
    before = len([name for name in files(tmp_path / "c") if name.endswith(".zst")])
    done = run_repair([local(tmp_path / "a")], local(tmp_path / "c"), kept.directory)
    assert done.copied == len(kept.parts) - before
    assert files(tmp_path / "c") == files(tmp_path / "a")


def test_a_copy_that_is_stopped_at_the_last_moment(tmp_path: Path, kept: BackupResult) -> None:
    """Whoever may refuse the manifest is asked when only that is missing."""

    def refuse() -> None:
        assert len(files(tmp_path / "c")) == len(kept.parts) + 2
        raise CancelledError

    with pytest.raises(CancelledError):
        run_repair([local(tmp_path / "a")], local(tmp_path / "c"), kept.directory, before_publish=refuse)
    assert list_backups(local(tmp_path / "c")).backups == []


def test_kill_9_in_the_middle_of_a_copy(tmp_path: Path, kept: BackupResult) -> None:
    """A killed copy left no backup; the next one goes on, and the result is the backup."""
    script = """
import sys, time
from pathlib import Path
from dataguardian.core.repair import run_repair
from dataguardian.storage.local import LocalConfig, LocalStorage

class Slow(LocalStorage):
    def put(self, path, data):
        super().put(path, data)
        time.sleep(0.2)

a, c = (LocalConfig(path=str(Path(sys.argv[1]) / name)) for name in "ac")
run_repair([LocalStorage(a)], Slow(c), sys.argv[2])
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), kept.directory])
    until = time.monotonic() + 60
    while not list((tmp_path / "c").rglob("*.zst")):
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert list_backups(local(tmp_path / "c")).backups == []
    assert 0 < len(files(tmp_path / "c")) < len(files(tmp_path / "a"))
    run_repair([local(tmp_path / "a")], local(tmp_path / "c"), kept.directory)
    assert files(tmp_path / "c") == files(tmp_path / "a")


def restored(storages: list[LocalStorage], kept: BackupResult) -> bytes:
    back = BytesEngine()
    run_restore(storages[0], kept.directory, back, "bytes", others=storages[1:], checksum=kept.manifest.checksum)
    return back.restored[0][1]


def test_a_restore_reads_each_part_where_it_is_good(tmp_path: Path, kept: BackupResult) -> None:
    """Both copies are damaged, each in another part, and one of them lacks its manifest: the restore succeeds."""
    flip(part(tmp_path / "a", kept, 0))
    part(tmp_path / "b", kept, 4).unlink()
    (tmp_path / "a" / kept.directory / "manifest.json").unlink()
    storages = [local(tmp_path / name) for name in "ab"]
    assert restored(storages, kept) == DATA
    flip(part(tmp_path / "b", kept, 0))
    with pytest.raises(DamagedPartError, match="000001"):
        restored(storages, kept)


def test_a_restore_whose_first_storage_is_gone(tmp_path: Path, kept: BackupResult) -> None:
    """Nothing answers at the first storage: everything comes from the second."""
    gone = LocalStorage(LocalConfig(path=str(tmp_path / "nowhere")))
    assert restored([gone, local(tmp_path / "b")], kept) == DATA


def test_a_storage_that_goes_away_during_a_restore(tmp_path: Path, kept: BackupResult) -> None:
    """From the moment that it is gone, parts come from the other storage, and it is asked last."""
    error = StorageUnreachableError("gone")
    fault = Fault(op="get", nth=5, times=3, path="*.zst", error=error)
    going = FaultyStorage(local(tmp_path / "a"), fault)
    back = BytesEngine()
    run_restore(going, kept.directory, back, "bytes", others=[local(tmp_path / "b")])
    assert fault.fired
    assert back.restored[0][1] == DATA
