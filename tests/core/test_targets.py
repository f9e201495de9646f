"""One backup to several storages: identical bytes, and a storage that fails or lags harms nobody but itself."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataguardian.core.backup import BackupResult, run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.core.strategies import back_up
from dataguardian.core.targets import Target, Targets
from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import (
    CancelledError,
    DataGuardianError,
    DumpFailedError,
    MissingToolError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
)
from dataguardian.domain.states import Strategy
from dataguardian.storage.base import Data, Storage
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan
from tests.storage.faulty import Fault, FaultyStorage

PART = 64 * 1024
DATA = random.Random(5).randbytes(12 * PART - 7)


class Slow(LocalStorage):
    """Takes its time for every part from the `first` on; `let_go` ends that."""

    def __init__(self, root: Path, seconds: float, *, first: int = 1) -> None:
        super().__init__(LocalConfig(path=str(root)))
        self.seconds, self.first = seconds, first
        self.let_go = threading.Event()
        self.puts = 0

    def put(self, path: str, data: Data) -> None:
        self.puts += 1
        if self.puts >= self.first:
            self.let_go.wait(self.seconds)
        super().put(path, data)


def local(folder: Path) -> LocalStorage:
    folder.mkdir(exist_ok=True)
    return LocalStorage(LocalConfig(path=str(folder)))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def engine() -> BytesEngine:
    return BytesEngine(BytesStream("x", DATA))


def replicate(*storages: Storage, lag_seconds: float = 30, **more: str) -> BackupResult:
    targets = [Target(f"storage {number}", storage) for number, storage in enumerate(storages, start=1)]
    return back_up(plan(**more), engine, targets, Strategy.REPLICATE, lag_seconds=lag_seconds)


def states(result: BackupResult) -> list[str]:
    return [outcome.status.value for outcome in result.targets]


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    """Whatever happened, the threads of the targets end."""
    yield
    until = time.monotonic() + 10
    while (alive := [thread.name for thread in threading.enumerate() if thread.name == "target"]) and (
        time.monotonic() < until
    ):
        time.sleep(0.02)
    assert alive == []


pytestmark = pytest.mark.usefixtures("no_thread_stays")


def test_all_hold_the_same_bytes(tmp_path: Path) -> None:
    """Three storages, one dump: each holds every object, byte for byte, and each copy verifies by itself."""
    folders = [tmp_path / name for name in "abc"]
    source = engine()
    targets = [Target(folder.name, local(folder)) for folder in folders]
    result = back_up(plan(), lambda: source, targets, Strategy.REPLICATE)
    assert source.asked_for == 1
    assert states(result) == ["stored"] * 3
    assert files(folders[0]) == files(folders[1]) == files(folders[2])
    assert len(files(folders[0])) == 12 + 3
    for folder in folders:
        assert run_verify(local(folder), result.directory).ok


@pytest.mark.parametrize(
    "fault",
    [
        Fault(op="free_space", error=StorageUnreachableError("gone")),
        Fault(op="put", nth=1, error=StorageDeniedError("not allowed")),
        Fault(op="put", nth=6, error=StorageFullError("no room")),
        Fault(op="put", nth=6, error=OSError("nobody has translated this")),
        Fault(op="put", nth=7, forget=True),
        Fault(op="put", nth=7, keep=100),
        Fault(op="list", nth=2, keep=3),
        Fault(op="put", path="*/parts.jsonl", error=StorageTransientError("try again")),
        Fault(op="put", path="*/manifest.json", error=StorageTransientError("try again")),
        Fault(op="put", path="*/manifest.json", late=True, error=StorageTransientError("the answer got lost")),
    ],
    ids=lambda fault: f"{fault.op} {fault.nth} {fault.path} {type(fault.error).__name__}",
)
def test_one_of_two_fails(tmp_path: Path, fault: Fault) -> None:
    """Whatever goes wrong at one storage, at once, in the middle or at the very end: the other one has a good backup,
    and the one that failed is behind, with its reason.
    """
    good, bad = local(tmp_path / "good"), FaultyStorage(local(tmp_path / "bad"), fault)
    for order in ([good, bad], [bad, good]):
        fault.seen = fault.fired = 0
        result = replicate(*order, execution_id=f"000{order.index(bad)}")
        bad.assert_all_fired()
        at = order.index(bad)
        assert result.targets[at].status == "behind"
        assert result.targets[at].message
        assert result.targets[1 - at].status == "stored"
        assert run_verify(good, result.directory).ok


def test_a_slow_storage_is_waited_for(tmp_path: Path) -> None:
    """A storage that is slower, but keeps within the limit, gets all of it."""
    quick, slow = local(tmp_path / "quick"), tmp_path / "slow"
    slow.mkdir()
    assert states(replicate(quick, Slow(slow, 0.05))) == ["stored", "stored"]
    assert files(tmp_path / "quick") == files(slow)


def test_a_storage_that_lags_is_left_behind(tmp_path: Path) -> None:
    """One that hangs from its fourth object on is left behind after the limit, and the backup goes on without it."""
    (tmp_path / "hangs").mkdir()
    hangs = Slow(tmp_path / "hangs", 60, first=4)
    began = time.monotonic()
    result = replicate(hangs, local(tmp_path / "good"), lag_seconds=0.5)
    assert time.monotonic() - began < 10
    hangs.let_go.set()
    assert states(result) == ["behind", "stored"]
    assert "left behind" in result.targets[0].message
    assert run_verify(local(tmp_path / "good"), result.directory).ok
    assert list_backups(hangs).backups == []


def test_a_storage_that_hangs_keeps_no_more_than_its_share(tmp_path: Path) -> None:
    """What waits in the queue of a storage that was left behind is dropped, and with it the parts."""
    (tmp_path / "hangs").mkdir()
    hangs = Slow(tmp_path / "hangs", 60)
    targets = Targets([Target("hangs", hangs), Target("good", local(tmp_path / "good"))], lag_seconds=0.3)
    targets.share(4)
    threads = [threading.Thread(target=targets.put, args=(f"job/run/{number}", b"part")) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    targets.stop()
    waiting = []
    while not targets._lines[0].calls.empty():
        waiting.append(targets._lines[0].calls.get())
    assert {call.work.__name__ for call in waiting if call is not None} <= {"_nothing"}
    hangs.let_go.set()
    targets.stop()


def test_both_fail(tmp_path: Path) -> None:
    """When no storage is left the backup fails, in words about each, of a kind to try again; nothing stays anywhere."""
    one = FaultyStorage(local(tmp_path / "one"), Fault(op="put", nth=3, error=StorageFullError("no room")))
    two = FaultyStorage(local(tmp_path / "two"), Fault(op="put", nth=6, error=StorageTransientError("too busy")))
    with pytest.raises(StorageTransientError, match=r"none of the 2 storages took.*no room.*too busy"):
        replicate(one, two)
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "two").iterdir()) == []


def test_the_source_fails(tmp_path: Path) -> None:
    """A dump that breaks off leaves nothing in any storage, not even late parts of a slow one."""
    (tmp_path / "slow").mkdir()
    slow = Slow(tmp_path / "slow", 0.3)
    broken = BytesEngine(BytesStream("x", DATA, fail_at=6 * PART, error=DumpFailedError("it broke")))
    with pytest.raises(DumpFailedError):
        run_backup(plan(), broken, Targets([Target("one", local(tmp_path / "one")), Target("slow", slow)]))
    time.sleep(0.5)
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "slow").iterdir()) == []


def test_a_stop_is_not_a_storages_fault(tmp_path: Path) -> None:
    """A cancel that reaches the pause between two tries ends the whole run, which then leaves nothing."""
    cancelled = FaultyStorage(local(tmp_path / "two"), Fault(op="put", nth=3, error=CancelledError()))
    with pytest.raises(CancelledError):
        replicate(local(tmp_path / "one"), cancelled)
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "two").iterdir()) == []


def test_a_failed_run_removes_only_what_is_its_own(tmp_path: Path) -> None:
    """Where the directory is taken nothing is written, and nothing removed."""
    taken = local(tmp_path / "taken")
    taken.put("job/run/theirs", b"theirs")
    full = FaultyStorage(local(tmp_path / "full"), Fault(op="put", nth=2, error=StorageFullError("no room")))
    with pytest.raises(DataGuardianError, match="holds something already"):
        replicate(taken, full, directory="job/run")
    assert files(tmp_path / "taken") == {"job/run/theirs": b"theirs"}
    assert files(tmp_path / "full") == {}


def test_a_storage_that_cannot_be_opened(tmp_path: Path) -> None:
    """A storage whose library is not installed is behind like one that is away."""
    broken = Target("no library", None, MissingToolError("it is not installed"))
    good = Target("good", local(tmp_path / "good"))
    result = back_up(plan(), engine, [broken, good], Strategy.REPLICATE)
    assert states(result) == ["behind", "stored"]
    with pytest.raises(MissingToolError):
        back_up(plan(), engine, [broken], Strategy.REPLICATE)


def fall_back(*targets: Target, told: Callable[[str], None] = lambda _: None, **more: str) -> BackupResult:
    return back_up(plan(**more), engine, targets, Strategy.FALLBACK, tell=told)


def test_fallback_takes_the_first_that_works(tmp_path: Path) -> None:
    """With all of them there, the first gets the backup and the others nothing."""
    told: list[str] = []
    result = fall_back(Target("a", local(tmp_path / "a")), Target("b", local(tmp_path / "b")), told=told.append)
    assert (states(result), told) == (["stored", "unused"], [])
    assert files(tmp_path / "b") == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(op="put", error=StorageUnreachableError("gone")),
        Fault(op="put", nth=7, error=StorageFullError("no room")),
    ],
    ids=["at once", "in the middle"],
)
def test_fallback_moves_on(tmp_path: Path, fault: Fault) -> None:
    """A storage that is away, or fills up on the way, is passed over, told, and left clean."""
    told: list[str] = []
    first = FaultyStorage(local(tmp_path / "a"), fault)
    result = fall_back(Target("a", first), Target("b", local(tmp_path / "b")), told=told.append)
    first.assert_all_fired()
    assert states(result) == ["unused", "stored"]
    assert str(fault.error) in result.targets[0].message
    assert len(told) == 1
    assert told[0].startswith("a did not take the backup")
    assert [path for path in files(tmp_path / "a") if "manifest" in path or ".zst" in path] == []
    assert run_verify(local(tmp_path / "b"), result.directory).ok


def test_fallback_has_no_way_round_the_source(tmp_path: Path) -> None:
    """A dump that fails is not taken again for another storage."""
    asked: list[int] = []

    def broken() -> BytesEngine:
        asked.append(1)
        return BytesEngine(BytesStream("x", DATA, fail_at=PART, error=DumpFailedError("it broke")))

    targets = [Target(name, local(tmp_path / name)) for name in "ab"]
    with pytest.raises(DumpFailedError):
        back_up(plan(), broken, targets, Strategy.FALLBACK)
    assert asked == [1]


def test_memory_is_one_budget(tmp_path: Path) -> None:
    """Three storages, one of which hangs, hold no more parts at once than the pipeline has in flight, and its share."""
    script = """
import re, sys
from pathlib import Path
from dataguardian.core.strategies import back_up
from dataguardian.core.targets import Target
from dataguardian.domain.states import Strategy
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.core.bytes_engine import BytesEngine, plan
import os, time

class Noise:
    name, kind, size_hint_bytes, warnings, metadata, restore_by_hand = "x", "raw", None, [], {}, ["cat"]
    left = 200 * 1024 * 1024
    def readinto(self, buffer):
        count = min(len(buffer), self.left, 1024 * 1024)
        buffer[:count] = os.urandom(count)
        self.left -= count
        return count
    def finish(self): pass
    def __enter__(self): return self
    def __exit__(self, *exc): pass

class Slow(LocalStorage):
    def put(self, path, data):
        time.sleep(0.05)
        super().put(path, data)

root = Path(sys.argv[1])
storages = []
for name, kind in (("a", LocalStorage), ("b", LocalStorage), ("c", Slow)):
    (root / name).mkdir()
    storages.append(Target(name, kind(LocalConfig(path=str(root / name)))))
more = {"part_size_bytes": 16 * 1024 * 1024, "compression": "none"}
result = back_up(plan(**more), lambda: BytesEngine(Noise()), storages, Strategy.REPLICATE)
assert [outcome.status for outcome in result.targets] == ["stored"] * 3
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 200 * 1024 * 1024
