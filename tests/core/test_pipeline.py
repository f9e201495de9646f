"""The pipeline, there and back: boundaries, many streams and parts, order, limits, and what a plan may hold."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataguardian.core import backup as backup_module
from dataguardian.core.backup import BackupPlan, BackupResult, run_backup
from dataguardian.core.catalog import list_backups, load_backup
from dataguardian.core.restore import run_restore
from dataguardian.core.verify import run_verify
from dataguardian.domain import artifact
from dataguardian.domain.errors import (
    CancelledError,
    ConflictError,
    DumpFailedError,
    IntegrityError,
    UsageError,
)
from dataguardian.engines.base import RestoreOptions, RestoreStream
from dataguardian.engines.sqlite import SqliteConfig, SqliteEngine
from dataguardian.engines.sqlite import validate as validate_sqlite
from dataguardian.storage.base import Data, Storage
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.streams.codecs import CODECS, Zstd
from tests.core.bytes_engine import BytesEngine, BytesStream, plan, read_nothing, validate

KIB = 1024
PART = 64 * KIB


def noise(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def there_and_back(storage: Storage, engine: BytesEngine, given_plan: BackupPlan) -> BackupResult:
    """Backs up, lists, verifies both ways, restores; everything must be as it was."""
    result = run_backup(given_plan, engine, storage)
    assert [directory for directory, _ in list_backups(storage).backups] == [result.directory]
    for check in (None, validate):
        outcome = run_verify(storage, result.directory, validate=check)
        assert (outcome.errors, outcome.parts) == ([], len(result.parts))
    run_restore(storage, result.directory, engine, "bytes")
    assert engine.restored == [(stream.name, stream.data) for stream in engine.streams]
    return result


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize(
    ("size_bytes", "parts"),
    [(0, 1), (1, 1), (PART - 1, 1), (PART, 1), (PART + 1, 2), (2 * PART - 1, 2), (2 * PART, 2), (5 * PART, 5)],
)
def test_a_stream_of_every_awkward_size(storage: LocalStorage, size_bytes: int, parts: int, codec: str) -> None:
    """Empty, one byte, and around every part boundary: the right number of parts, and the same bytes back."""
    data = noise(size_bytes)
    result = there_and_back(storage, BytesEngine(BytesStream("one", data)), plan(compression=codec))
    (stream,) = result.manifest.streams
    assert (len(result.parts), stream.parts, stream.size_bytes) == (parts, parts, size_bytes)
    assert stream.sha256 == hashlib.sha256(data).hexdigest()
    assert [part.offset for part in result.parts] == [number * PART for number in range(parts)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 4 * PART), st.integers(0, 4).map(lambda count: count * PART)), min_size=1, max_size=4
    ),
    piece_bytes=st.sampled_from([1023, 4096, PART - 1, PART, 10 * PART]),
    codec=st.sampled_from(sorted(CODECS)),
    sameness=st.booleans(),
)
def test_any_streams_come_back(sizes: list[int], piece_bytes: int, codec: str, sameness: bool) -> None:
    """Streams of any sizes, read in pieces of any size, compressible or not."""
    streams = [
        BytesStream(f"s{n}", bytes(size) if sameness else noise(size, n), piece_bytes=piece_bytes)
        for n, size in enumerate(sizes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        there_and_back(LocalStorage(LocalConfig(path=folder)), BytesEngine(*streams), plan(compression=codec))


def test_a_database_of_exactly_so_many_parts(storage: LocalStorage, tmp_path: Path) -> None:
    """SQLite pages as big as a part: the file ends exactly with its last part, and every page comes back."""
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    with closing(sqlite3.connect(source)) as database:
        database.execute("PRAGMA page_size=65536")
        database.execute("CREATE TABLE blobs (content BLOB)")
        database.executemany("INSERT INTO blobs VALUES (randomblob(60000))", [()] * 9)
        database.commit()
    engine = SqliteEngine(SqliteConfig(file_path=str(source)))
    result = run_backup(plan(engine="sqlite"), engine, storage)
    assert result.manifest.size_bytes == source.stat().st_size == PART * len(result.parts)
    assert run_verify(storage, result.directory, validate=validate_sqlite).ok
    run_restore(storage, result.directory, SqliteEngine(SqliteConfig(file_path=str(target))), "sqlite")
    assert target.read_bytes()[PART:] == source.read_bytes()[PART:]


def test_many_small_parts_stay_in_order(storage: LocalStorage) -> None:
    """Hundreds of parts by several threads at once: records, folders and bytes are in order all the same."""
    data = noise(300 * PART + 17)
    result = there_and_back(storage, BytesEngine(BytesStream("many", data)), plan(compression="lz4"))
    assert [part.path for part in result.parts] == [f"01-many.raw/{n:06d}.lz4" for n in range(1, 302)]
    assert b"".join(storage.get(f"{result.directory}/{part.path}", PART * 2) for part in result.parts)


def test_many_streams_of_one_name(storage: LocalStorage) -> None:
    """Names that are equal, or reduce to equal folders, or are hostile: every stream keeps its own folder and bytes."""
    names = ["same", "same", "SAME", "a b", "a/b", "a\tb", "../up", "", ".", "x" * 300, "é", "-rf", "$(id)", "'\"\\"]
    engine = BytesEngine(*(BytesStream(name, name.encode() * 3) for name in names))
    result = there_and_back(storage, engine, plan())
    assert len({stream.directory for stream in result.manifest.streams}) == len(names)
    assert [stream.name for stream in result.manifest.streams] == names
    chosen = run_restore(storage, result.directory, engine, "bytes", streams=["02-same.raw"])
    assert (engine.restored, chosen.size_bytes) == ([("same", b"samesamesame")], 12)
    run_restore(storage, result.directory, engine, "bytes", streams=["same"])
    assert [name for name, _ in engine.restored] == ["same", "same"]


def test_more_than_a_hundred_streams(storage: LocalStorage) -> None:
    """Stream numbers grow beyond two digits."""
    engine = BytesEngine(*(BytesStream(f"db{n}", str(n).encode()) for n in range(120)))
    result = there_and_back(storage, engine, plan())
    assert result.manifest.streams[119].directory == "120-db119.raw"


def test_part_numbers_run_out(storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of more parts than there are numbers is refused by name, with what to do, and nothing is left."""
    monkeypatch.setattr(artifact, "MAX_PARTS", 3)
    there_and_back(storage, BytesEngine(BytesStream("fits", noise(3 * PART))), plan("fits"))
    with pytest.raises(UsageError, match=r"02-wide\.raw needs more than 3 parts") as caught:
        run_backup(plan("wide"), BytesEngine(BytesStream("a", b""), BytesStream("wide", noise(4 * PART))), storage)
    assert "--part-size above 64.0 KiB" in caught.value.hint
    assert [path.name for path in root.iterdir()] == ["fits"]


def test_no_stream_is_no_backup(storage: LocalStorage, root: Path) -> None:
    """A source that yields no stream at all must not become an empty backup."""
    with pytest.raises(DumpFailedError, match="no stream at all"):
        run_backup(plan(), BytesEngine(), storage)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("part_size_bytes", [0, -1, 64 * KIB - 1, 1024**3 + 1])
def test_part_sizes_out_of_bounds(storage: LocalStorage, part_size_bytes: int) -> None:
    """A part size that nobody could work with is wrong usage, found before the source is opened."""
    engine = BytesEngine(BytesStream("x", b"x"))
    with pytest.raises(UsageError, match="out of bounds"):
        run_backup(plan(part_size_bytes=part_size_bytes), engine, storage)
    assert engine.asked_for == 0


def test_the_engine_fails_in_the_second_stream(storage: LocalStorage, root: Path) -> None:
    """Nothing of the first stream stays, both streams are closed, the broken one is never called finished."""
    good = BytesStream("good", noise(3 * PART))
    bad = BytesStream("bad", noise(5 * PART), fail_at=2 * PART, error=DumpFailedError("the source broke"))
    with pytest.raises(DumpFailedError, match="the source broke"):
        run_backup(plan(), BytesEngine(good, bad), storage)
    assert (good.finished, good.closed, bad.finished, bad.closed) == (1, 1, 0, 1)
    assert list(root.iterdir()) == []


def test_a_stream_that_is_not_sound_after_all(storage: LocalStorage, root: Path) -> None:
    """The engine's last word counts: every part is stored by then, and none stays."""

    class Unsound(BytesStream):
        def finish(self) -> None:
            raise DumpFailedError("exit code 1 after plausible bytes")

    with pytest.raises(DumpFailedError, match="plausible"):
        run_backup(plan(), BytesEngine(Unsound("x", noise(4 * PART))), storage)
    assert list(root.iterdir()) == []


class BrokenThreads(LocalStorage):
    """Raises what no storage should, from a thread that stores."""

    def put(self, path: str, data: Data) -> None:
        if path.endswith("/000003.zst"):
            raise RuntimeError("a bug in a thread")
        super().put(path, data)


@pytest.mark.timeout(60)
def test_an_unforeseen_error_in_a_thread_does_not_hang(root: Path) -> None:
    """Whatever a storing thread raises ends the run soon, with that very error, and nothing is left."""
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a bug in a thread"):
        run_backup(plan(), BytesEngine(BytesStream("x", noise(40 * PART))), BrokenThreads(LocalConfig(path=str(root))))
    assert list(root.iterdir()) == []
    assert threading.active_count() == before


@pytest.mark.timeout(60)
def test_a_full_pool_of_failing_threads_does_not_hang(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compression that fails gives its buffer back: the reader is never left waiting for one."""

    def fail(*_: object) -> None:
        time.sleep(0.01)
        raise MemoryError("no memory for a frame")

    monkeypatch.setattr(Zstd, "compress", fail)
    with pytest.raises(MemoryError, match="no memory for a frame"):
        run_backup(plan(), BytesEngine(BytesStream("x", noise(40 * PART))), storage)
    assert list(root.iterdir()) == []


class SlowStorage(LocalStorage):
    """Counts how many bytes are on their way at once."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self.waiting_bytes = self.most_bytes = 0
        self.lock = threading.Lock()

    def put(self, path: str, data: Data) -> None:
        size_bytes = memoryview(data).nbytes
        with self.lock:
            self.waiting_bytes += size_bytes
            self.most_bytes = max(self.most_bytes, self.waiting_bytes)
        time.sleep(0.02)
        super().put(path, data)
        with self.lock:
            self.waiting_bytes -= size_bytes


def test_a_slow_storage_holds_the_source_back(root: Path) -> None:
    """A storage that is slower than the source is waited for: only a few parts are in memory at any moment."""
    storage = SlowStorage(LocalConfig(path=str(root)))
    there_and_back(storage, BytesEngine(BytesStream("x", noise(60 * PART))), plan(compression="none"))
    assert PART <= storage.most_bytes <= 8 * PART


class SameClock:
    """Every run of a test begins in the same second."""

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 4, 0, 0, tzinfo=UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def test_two_backups_of_one_name_in_one_second(storage: LocalStorage) -> None:
    """Several runs of the same job that begin together into one storage do not disturb each other."""
    data = [noise(20 * PART, seed) for seed in range(4)]
    results: list[BackupResult] = []

    def take(number: int) -> None:
        engine = BytesEngine(BytesStream("x", data[number]))
        results.append(run_backup(plan("job", execution_id=f"id{number}"), engine, storage, clock=SameClock()))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed = list_backups(storage)
    assert sorted(directory for directory, _ in listed.backups) == sorted(result.directory for result in results)
    assert [result.directory.rpartition("/")[0] for result in results] == ["job"] * 4
    for directory, manifest in listed.backups:
        assert run_verify(storage, directory, validate=validate).ok
        back = BytesEngine()
        run_restore(storage, directory, back, "bytes")
        assert back.restored == [("x", data[int(manifest.execution_id[2:])])]


def test_a_directory_that_is_in_use_is_left_alone(storage: LocalStorage) -> None:
    """Told to write where a backup lies already, a run refuses, and what lies there is not 'cleaned up'."""
    engine = BytesEngine(BytesStream("x", noise(3 * PART)))
    first = run_backup(plan(directory="job/run"), engine, storage)
    with pytest.raises(ConflictError, match="job/run holds something already"):
        run_backup(plan(directory="job/run"), BytesEngine(BytesStream("x", b"other")), storage)
    assert run_verify(storage, first.directory, validate=validate).ok


def test_a_run_may_be_stopped_before_it_is_published_and_not_after(storage: LocalStorage, root: Path) -> None:
    """`before_publish` comes when everything but the manifest is stored; when it raises, nothing stays."""
    seen: list[set[str]] = []

    def look() -> None:
        seen.append({path.name for path in root.rglob("*") if path.is_file()})

    def refuse() -> None:
        raise CancelledError("somebody else has taken over")

    there_and_back_plan = plan("kept")
    kept = run_backup(there_and_back_plan, BytesEngine(BytesStream("x", b"x")), storage, before_publish=look)
    assert seen == [{"000001.zst", artifact.PARTS, artifact.SUMS}]
    with pytest.raises(CancelledError):
        run_backup(plan("gone"), BytesEngine(BytesStream("x", b"x")), storage, before_publish=refuse)
    assert [path.name for path in root.iterdir()] == ["kept"]
    back = BytesEngine()
    with pytest.raises(CancelledError):
        run_restore(storage, kept.directory, back, "bytes", options=RestoreOptions(before_swap=refuse))
    assert back.restored == []


def test_the_manifest_is_the_last_object(storage: LocalStorage) -> None:
    """Parts first, then parts.jsonl, SHA256SUMS and manifest.json, whatever the threads do."""
    order: list[str] = []

    class Recorder(LocalStorage):
        def put(self, path: str, data: Data) -> None:
            super().put(path, data)
            order.append(path.rpartition("/")[2])

    there_and_back(
        Recorder(LocalConfig(path=str(storage.local_path))),
        BytesEngine(BytesStream("a", noise(5 * PART)), BytesStream("b", noise(5 * PART))),
        plan(),
    )
    assert order[-3:] == [artifact.PARTS, artifact.SUMS, artifact.MANIFEST]
    assert len(order) == 13


def test_warnings_are_told_with_their_stream_and_bounded(storage: LocalStorage) -> None:
    """A stream's warnings reach the manifest; a flood of them does not."""
    stream = BytesStream("x", b"x", warnings=[f"warning {n}" for n in range(5000)])
    manifest = there_and_back(storage, BytesEngine(stream), plan()).manifest
    assert manifest.warnings == [f"x: warning {n}" for n in range(backup_module.MAX_WARNINGS)]


def test_a_careless_validator_hides_no_damage(storage: LocalStorage, root: Path) -> None:
    """An engine's check that reads nothing does not make damaged parts pass a deep verify."""
    result = run_backup(plan(), BytesEngine(BytesStream("x", noise(3 * PART))), storage)
    assert run_verify(storage, result.directory, validate=read_nothing).ok
    part = root / result.directory / result.parts[1].path
    part.write_bytes(part.read_bytes()[:-1] + bytes([part.read_bytes()[-1] ^ 1]))
    outcome = run_verify(storage, result.directory, validate=read_nothing)
    assert len(outcome.errors) == 1
    assert result.parts[1].path in outcome.errors[0]


def test_a_stream_hash_that_lies(storage: LocalStorage, root: Path) -> None:
    """Good parts, forged totals: the records contradict each other, and nobody takes them for a backup."""
    result = run_backup(plan(), BytesEngine(BytesStream("x", noise(2 * PART))), storage)
    (stream,) = result.manifest.streams
    forged = result.manifest.model_copy(update={"streams": [stream.model_copy(update={"sha256": "0" * 64})]})
    (root / result.directory / artifact.MANIFEST).write_bytes(artifact.encode_manifest(forged))
    assert "another hash than its own" in run_verify(storage, result.directory).errors[0]
    with pytest.raises(IntegrityError, match="another hash than its own"):
        run_restore(storage, result.directory, BytesEngine(), "bytes")


def test_the_plan_passes_through_json() -> None:
    """What the service hands to its runner comes out the same, patterns of bytes that are not UTF-8 included."""
    given_plan = plan(include=("é*", "\udcff*", "*"), exclude=("\udc80",), name="häßlich 'x'")
    assert BackupPlan.model_validate_json(given_plan.model_dump_json()) == given_plan


def test_streams_of_a_source_that_is_one_thing(storage: LocalStorage, root: Path) -> None:
    """Refused before the source is read; a source with databases records which were named."""
    engine = BytesEngine(BytesStream("shop", b"x"))
    with pytest.raises(UsageError, match="backed up whole"):
        run_backup(plan(streams=("shop",)), engine, storage)
    assert (engine.asked_for, list(root.iterdir())) == (0, [])

    class Server(BytesEngine):
        has_databases = True

    made = run_backup(plan(streams=("shop",)), Server(BytesStream("shop", b"x")), storage)
    assert made.manifest.options["streams"] == ["shop"]


@pytest.mark.parametrize("wrong", [{"name": "a\udc80"}, {"source": "\ud800"}, {"include": ("\ud800",)}])
def test_a_plan_that_no_json_holds_is_refused(wrong: dict[str, object]) -> None:
    """Surrogates in a name, or ones that stand for no byte, are found when the plan is made and not at its end."""
    with pytest.raises(ValueError, match="surrogates"):
        plan(**wrong)


def test_odd_patterns_reach_the_manifest_as_text(storage: LocalStorage) -> None:
    """The manifest of a backup with such patterns is JSON that everybody reads."""
    result = there_and_back(storage, BytesEngine(BytesStream("x", b"x")), plan(exclude=("\udcff*",)))
    assert result.manifest.options == {"include": [], "exclude": ["\\xff*"]}
    result.manifest.model_dump_json()


def test_a_backup_of_another_kind_is_not_restored(storage: LocalStorage) -> None:
    """A sqlite target for a backup of something else: wrong usage, before a part is read."""
    result = run_backup(plan(), BytesEngine(BytesStream("x", b"x")), storage)
    with pytest.raises(UsageError, match="bytes backup"):
        run_restore(storage, result.directory, SqliteEngine(SqliteConfig(file_path="/x.db")), "sqlite")
    with pytest.raises(UsageError, match="no stream 'y'"):
        run_restore(storage, result.directory, BytesEngine(), "bytes", streams=["y"])


class CountingStorage(LocalStorage):
    """Notes what is read."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self.read: list[str] = []
        self.first_part_read = threading.Event()

    def get(self, path: str, max_bytes: int) -> bytes:
        data = super().get(path, max_bytes)
        self.read.append(path)
        if path.endswith("000001.zst"):
            self.first_part_read.set()
        return data


def test_a_restore_reads_ahead_while_its_target_is_made(storage: LocalStorage) -> None:
    """The first parts are fetched before the engine asks for them, and no part is fetched twice."""
    contents = [("a", noise(6 * PART)), ("b", b""), ("c", noise(2 * PART + 1))]
    result = run_backup(plan(), BytesEngine(*(BytesStream(*content) for content in contents)), storage)
    counting = CountingStorage(LocalConfig(path=str(storage.local_path)))

    class Leisurely(BytesEngine):
        def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
            assert counting.first_part_read.wait(10)
            super().restore(streams, options)

    back = Leisurely()
    run_restore(counting, result.directory, back, "bytes")
    assert back.restored == contents
    parts = [path for path in counting.read if path.endswith(".zst")]
    assert sorted(parts) == sorted(f"{result.directory}/{part.path}" for part in result.parts)


def test_a_target_that_cannot_be_made_ends_the_reading_ahead(storage: LocalStorage) -> None:
    """The engine's own error comes out, also when what was fetched meanwhile is damaged, and nothing goes on behind."""
    result = run_backup(plan(), BytesEngine(BytesStream("a", noise(6 * PART))), storage)
    part = Path(str(storage.local_path)) / result.directory / result.parts[0].path
    part.write_bytes(bytes(part.stat().st_size))

    class Full(BytesEngine):
        def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
            raise UsageError("the target is full")

    with pytest.raises(UsageError, match="the target is full"):
        run_restore(storage, result.directory, Full(), "bytes")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")]


@pytest.mark.parametrize("parts", [1, 3])
def test_records_are_of_one_piece(storage: LocalStorage, parts: int) -> None:
    """Totals, checksum and sums in the manifest are those of the stored bytes, computed by independent means."""
    result = there_and_back(storage, BytesEngine(BytesStream("x", noise(parts * PART))), plan())
    folder = Path(str(storage.local_path)) / result.directory
    manifest = load_backup(storage, result.directory).manifest
    stored = sorted(folder.glob("01-x.raw/*"))
    assert manifest.compressed_size_bytes == sum(path.stat().st_size for path in stored)
    assert manifest.checksum == hashlib.sha256((folder / artifact.SUMS).read_bytes()).hexdigest()
    assert manifest.parts_sha256 == hashlib.sha256((folder / artifact.PARTS).read_bytes()).hexdigest()
