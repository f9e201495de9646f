"""Every stored object, harmed in every way: verify finds it, a restore refuses it, and the target never sees it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataguardian.core.backup import run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.core.restore import run_restore
from dataguardian.core.verify import run_verify
from dataguardian.domain import artifact
from dataguardian.domain.errors import DataGuardianError, IntegrityError, UnsupportedFormatError
from dataguardian.engines.base import RestoreOptions
from dataguardian.engines.sqlite import SqliteConfig, SqliteEngine
from dataguardian.engines.sqlite import validate as validate_sqlite
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan, validate

PART = 64 * 1024
STREAMS = [("a", random.Random(1).randbytes(3 * PART)), ("b", b"\1" * PART + b"\2" * PART + b"end")]
OBJECTS = [
    *(f"01-a.raw/00000{n}.zst" for n in (1, 2, 3)),
    *(f"02-b.raw/00000{n}.zst" for n in (1, 2, 3)),
    artifact.PARTS,
    artifact.SUMS,
    artifact.MANIFEST,
]
PARTS = OBJECTS[:6]


class Kept(NamedTuple):
    """A storage with two backups of one job; the first is the one that is harmed."""

    root: Path
    storage: LocalStorage
    directory: str
    other: str

    @property
    def folder(self) -> Path:
        return self.root / self.directory


def copy_of(pristine: Path, place: Path, directories: tuple[str, str]) -> Kept:
    shutil.copytree(pristine, place)
    return Kept(place, LocalStorage(LocalConfig(path=str(place))), *directories)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    root = tmp_path_factory.mktemp("pristine") / "storage"
    root.mkdir()
    storage = LocalStorage(LocalConfig(path=str(root)))
    engine = [BytesEngine(*(BytesStream(name, data[::step]) for name, data in STREAMS)) for step in (1, -1)]
    first, second = (run_backup(plan("job", execution_id=str(n)), engine[n], storage).directory for n in (0, 1))
    assert sorted(str(path.relative_to(root / first)) for path in (root / first).rglob("*.*")) == sorted(
        [name for name in OBJECTS if name != artifact.SUMS] + ["01-a.raw", "02-b.raw"]
    )
    return root, (first, second)


@pytest.fixture
def kept(pristine: tuple[Path, tuple[str, str]], tmp_path: Path) -> Kept:
    return copy_of(pristine[0], tmp_path / "storage", pristine[1])


def assert_harmed(kept: Kept, *, listed: bool = True) -> None:
    """Verify (both levels) reports it, a restore raises IntegrityError and restores nothing, the other is as good as
    before, and `list` shows the harmed one or names it as unreadable.
    """
    for check in (None, validate):
        outcome = run_verify(kept.storage, kept.directory, validate=check)
        assert outcome.errors, "verify found nothing"
    back = BytesEngine()
    with pytest.raises(IntegrityError):
        run_restore(kept.storage, kept.directory, back, "bytes")
    assert back.restored == []
    listing = list_backups(kept.storage)
    assert (kept.directory in [directory for directory, _ in listing.backups]) is listed
    assert (kept.directory in listing.unreadable) is not listed
    assert run_verify(kept.storage, kept.other, validate=validate).ok


def readable(name: str) -> bool:
    return name != artifact.MANIFEST


Harm = Callable[[bytes], bytes]
HARMS: dict[str, Harm] = {
    "emptied": lambda _: b"",
    "cut by one byte": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "grown by a byte": lambda data: data + b"\n",
    "doubled": lambda data: data * 2,
    "zeros": lambda data: bytes(len(data)),
    "other bytes": lambda data: random.Random(9).randbytes(len(data)),
    "first bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "last bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "reversed": lambda data: data[::-1],
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_every_object_in_every_way(kept: Kept, name: str, harm: Harm) -> None:
    """Emptied, cut, grown, replaced: found for each of the nine objects."""
    path = kept.folder / name
    path.write_bytes(harm(path.read_bytes()))
    assert_harmed(kept, listed=readable(name))


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_removed(kept: Kept, name: str) -> None:
    """Removed: found; without a manifest there is no backup to list any more."""
    (kept.folder / name).unlink()
    if name != artifact.MANIFEST:
        assert_harmed(kept)
        return
    assert run_verify(kept.storage, kept.directory).errors
    with pytest.raises(IntegrityError, match=r"has no manifest\.json"):
        run_restore(kept.storage, kept.directory, BytesEngine(), "bytes")
    listing = list_backups(kept.storage)
    assert ([directory for directory, _ in listing.backups], listing.unreadable) == ([kept.other], {})


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("other", ["folder", "huge"])
def test_every_object_of_another_kind(kept: Kept, name: str, other: str) -> None:
    """A folder of its name, or a file too big for any memory: refused without reading it."""
    path = kept.folder / name
    path.unlink()
    if other == "folder":
        (path / "inner").mkdir(parents=True)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    if name == artifact.MANIFEST and other == "folder":
        assert run_verify(kept.storage, kept.directory).errors
        return
    assert_harmed(kept, listed=readable(name))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(OBJECTS), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_of_any_object(kept: Kept, name: str, place: float, bit: int) -> None:
    """One flipped bit anywhere is found, in records and parts alike."""
    path = kept.folder / name
    good = path.read_bytes()
    harmed = bytearray(good)
    harmed[int(place * len(good))] ^= 1 << bit
    path.write_bytes(harmed)
    try:
        assert_harmed(kept, listed=readable(name))
    finally:
        path.write_bytes(good)


def test_every_byte_of_the_manifest(pristine: tuple[Path, tuple[str, str]], tmp_path: Path) -> None:
    """Every single byte of the manifest is covered by its own hash: a flip of any of them makes it unreadable."""
    good = (pristine[0] / pristine[1][0] / artifact.MANIFEST).read_bytes()
    for at in range(len(good)):
        harmed = bytearray(good)
        harmed[at] ^= 1 << at % 8
        with pytest.raises(IntegrityError):
            artifact.decode_manifest(bytes(harmed), where="m")


@pytest.mark.parametrize(
    ("one", "two"), [(PARTS[0], PARTS[1]), (PARTS[0], PARTS[3]), (PARTS[3], PARTS[4]), (PARTS[2], PARTS[5])]
)
def test_two_objects_swapped(kept: Kept, one: str, two: str) -> None:
    """Parts of one stream or of two that change places are found."""
    paths = kept.folder / one, kept.folder / two
    data = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(data), strict=True):
        path.write_bytes(content)
    assert_harmed(kept)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_of_another_backup(kept: Kept, name: str) -> None:
    """An object of the same job's other backup in its place is found; a manifest too, because the parts do not fit."""
    shutil.copy(kept.root / kept.other / name, kept.folder / name)
    assert_harmed(kept)


def test_two_streams_swapped(kept: Kept) -> None:
    """The folders of two streams change places."""
    one, two = kept.folder / "01-a.raw", kept.folder / "02-b.raw"
    one.rename(kept.folder / "aside")
    two.rename(one)
    (kept.folder / "aside").rename(two)
    assert_harmed(kept)


@pytest.mark.parametrize("name", ["01-a.raw/000004.zst", "03-c.raw/000001.zst", "notes.txt", "01-a.raw/x/y/z"])
def test_an_object_too_many(kept: Kept, name: str) -> None:
    """Something that was never written is reported by verify; a restore does not need to care."""
    path = kept.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"stranger")
    for check in (None, validate):
        assert run_verify(kept.storage, kept.directory, validate=check).errors == [
            f"{name} does not belong to this backup"
        ]
    back = BytesEngine()
    run_restore(kept.storage, kept.directory, back, "bytes")
    assert back.restored == STREAMS


def test_damage_elsewhere_does_not_stop_the_chosen_stream(kept: Kept) -> None:
    """One database of a cluster can be restored although another one's part is lost."""
    (kept.folder / PARTS[4]).unlink()
    back = BytesEngine()
    run_restore(kept.storage, kept.directory, back, "bytes", streams=["a"])
    assert back.restored == STREAMS[:1]
    with pytest.raises(IntegrityError, match=r"02-b\.raw/000002\.zst is missing"):
        run_restore(kept.storage, kept.directory, back, "bytes", streams=["b"])


def edit(kept: Kept, change: Callable[[dict[str, Any]], object], *, honest: bool) -> None:
    """Edits the manifest; `honest` gives it a self-hash that fits."""
    path = kept.folder / artifact.MANIFEST
    document = json.loads(path.read_bytes())
    change(document)
    text = json.dumps(document, indent=2).encode() + b"\n"
    if honest:
        digits = document["manifest_sha256"].encode()
        zeroed = text.replace(digits, b"0" * 64)
        text = zeroed.replace(b"0" * 64, hashlib.sha256(zeroed).hexdigest().encode())
    path.write_bytes(text)


def halved(document: dict[str, Any]) -> None:
    document["streams"][0]["size_bytes"] //= 2


def second_hash(document: dict[str, Any]) -> None:
    document["checksum"] = "1" * 64


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "format 3": lambda document: document.update(format=3),
    "format 0": lambda document: document.update(format=0),
    "format true": lambda document: document.update(format=True),
    "format text": lambda document: document.update(format="1"),
    "format 1.0": lambda document: document.update(format=1.0),
    "no format": lambda document: document.pop("format"),
    "no streams": lambda document: document.update(streams=[]),
    "a stream too few": lambda document: document["streams"].pop(),
    "a stream twice": lambda document: document["streams"].append(document["streams"][0]),
    "streams in another order": lambda document: document["streams"].reverse(),
    "half a stream": halved,
    "other parts": lambda document: document.update(parts_sha256="0" * 63 + "1"),
    "another checksum": second_hash,
    "unknown compression": lambda document: document.update(compression="brotli"),
    "another compression": lambda document: document.update(compression="lz4"),
    "tiny parts": lambda document: document.update(part_size_bytes=1),
    "endless": lambda document: document.update(duration_seconds=float("inf")),
    "size as text": lambda document: document.update(size_bytes="7"),
    "a path outside": lambda document: document["streams"][0].update(directory="../../etc"),
    "not a name": lambda document: document.update(name=None),
}
HARMLESS = {"streams in another order"}


@pytest.mark.parametrize("change", EDITS.items(), ids=lambda change: change[0])
@pytest.mark.parametrize("honest", [False, True], ids=["broken self-hash", "good self-hash"])
def test_an_edited_manifest(kept: Kept, change: tuple[str, Any], honest: bool) -> None:
    """An edit is found by the self-hash; one that fixes the self-hash too is found by what it contradicts."""
    name, apply = change
    edit(kept, apply, honest=honest)
    if honest and name in HARMLESS:
        return
    for check in (None, validate) if name != "another compression" or not honest else (validate,):
        assert run_verify(kept.storage, kept.directory, validate=check).errors
    back = BytesEngine()
    with pytest.raises(IntegrityError):
        run_restore(kept.storage, kept.directory, back, "bytes")
    assert back.restored == []


@pytest.mark.parametrize("honest", [False, True])
def test_a_newer_format_is_called_that(kept: Kept, honest: bool) -> None:
    """Another format is no damage: the message says which release reads it, whatever that format's hash looks like."""
    edit(kept, lambda document: document.update(format=3), honest=honest)
    with pytest.raises(UnsupportedFormatError, match="has format 3") as caught:
        run_restore(kept.storage, kept.directory, BytesEngine(), "bytes")
    assert caught.value.exit_code == 3
    assert "has format 3" in list_backups(kept.storage).unreadable[kept.directory]


def test_parts_forged_with_every_record_but_the_parts(kept: Kept) -> None:
    """Manifest, parts.jsonl and sums forged to agree with each other about a part that holds something else."""
    lines = lines_of(kept)
    lines[1]["stored_sha256"] = "ab" * 32
    forge(kept, lines)
    assert_harmed(kept)


def forge(kept: Kept, lines: list[dict[str, Any]], **stream: object) -> None:
    """Writes all records anew, so that they agree about these parts; `stream` is what changes of the first stream."""
    records = "".join(json.dumps(line) + "\n" for line in lines).encode()
    sums = "".join(f"{line['stored_sha256']}  {line['path']}\n" for line in lines)
    sums += f"{hashlib.sha256(records).hexdigest()}  {artifact.PARTS}\n"
    (kept.folder / artifact.PARTS).write_bytes(records)
    (kept.folder / artifact.SUMS).write_text(sums)
    hashes = {
        "parts_sha256": hashlib.sha256(records).hexdigest(),
        "checksum": hashlib.sha256(sums.encode()).hexdigest(),
    }

    def change(document: dict[str, Any]) -> None:
        document.update(hashes)
        document["streams"][0].update(stream)

    edit(kept, change, honest=True)


def lines_of(kept: Kept) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (kept.folder / artifact.PARTS).read_text().splitlines()]


def test_good_parts_in_another_order(kept: Kept) -> None:
    """Two whole parts of one size have changed places in every record: only the hash of raw bytes so far tells."""
    lines = lines_of(kept)
    for member in ("path", "stored_size_bytes", "stored_sha256"):
        lines[0][member], lines[1][member] = lines[1][member], lines[0][member]
    forge(kept, lines)
    assert run_verify(kept.storage, kept.directory).ok
    (error,) = run_verify(kept.storage, kept.directory, validate=validate).errors
    assert f"{lines[0]['path']} does not decompress to the bytes that were read" in error
    back = BytesEngine()
    with pytest.raises(IntegrityError, match="does not decompress to the bytes"):
        run_restore(kept.storage, kept.directory, back, "bytes")
    assert back.restored == []


def make_early(kept: Kept) -> None:
    """Turns a backup into one as they were before the first release: a hash of each part's own raw bytes, and one of a
    stream's stored parts together.
    """
    lines = lines_of(kept)
    for line in lines:
        raw = zstandard.decompress((kept.folder / line["path"]).read_bytes())
        del line["running_sha256"]
        line["sha256"] = hashlib.sha256(raw).hexdigest()
    stored = b"".join((kept.folder / line["path"]).read_bytes() for line in lines[:3])
    forge(kept, lines, stored_sha256=hashlib.sha256(stored).hexdigest())


def test_an_early_backup_is_read(kept: Kept) -> None:
    """Verified at both levels and restored; a part that holds something else is found although all else was forged."""
    make_early(kept)
    assert run_verify(kept.storage, kept.directory).ok
    assert run_verify(kept.storage, kept.directory, validate=validate).ok
    back = BytesEngine()
    run_restore(kept.storage, kept.directory, back, "bytes")
    assert back.restored == STREAMS
    lines = lines_of(kept)
    lines[1]["sha256"] = "ab" * 32
    forge(kept, lines)
    back = BytesEngine()
    with pytest.raises(IntegrityError, match="does not decompress to the bytes"):
        run_restore(kept.storage, kept.directory, back, "bytes")
    assert back.restored == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    garbage=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
)
@pytest.mark.parametrize("name", [artifact.MANIFEST, artifact.PARTS, artifact.SUMS])
def test_garbage_for_records(kept: Kept, name: str, garbage: bytes) -> None:
    """Whatever lies in the place of a record, the answer is 'damaged' and never a crash."""
    path = kept.folder / name
    good = path.read_bytes()
    path.write_bytes(garbage)
    try:
        assert run_verify(kept.storage, kept.directory).errors
        with pytest.raises(IntegrityError):
            run_restore(kept.storage, kept.directory, BytesEngine(), "bytes")
        list_backups(kept.storage)
    finally:
        path.write_bytes(good)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_member_replaced_by_anything(kept: Kept, data: st.DataObject) -> None:
    """A manifest with a good self-hash and any member of any type: refused or read, but never a crash, and never a
    restore of other bytes.
    """
    path = kept.folder / artifact.MANIFEST
    good = path.read_bytes()
    document = json.loads(good)
    members = [(document, key) for key in document] + [
        (stream, key) for stream in document["streams"] for key in stream
    ]
    place, key = data.draw(st.sampled_from(members))
    if key == "manifest_sha256":
        return
    place[key] = data.draw(JSON)
    zeroed = json.dumps(document | {"manifest_sha256": "0" * 64}, indent=2).encode()
    at = zeroed.rindex(b"0" * 64)
    path.write_bytes(zeroed[:at] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[at + 64 :])
    back = BytesEngine()
    try:
        run_verify(kept.storage, kept.directory, validate=validate)
        list_backups(kept.storage)
        run_restore(kept.storage, kept.directory, back, "bytes")
    except DataGuardianError:
        assert back.restored == []
    else:
        assert [content for _, content in back.restored] == [content for _, content in STREAMS]
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "swap"])
def test_a_live_database_outlives_a_damaged_backup(tmp_path: Path, harm: str) -> None:
    """A real engine: --drop-existing with a damaged backup leaves the live database exactly as it was."""
    source, target = tmp_path / "source.db", tmp_path / "live.db"
    for path, word in ((source, "new"), (target, "old")):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE t (word TEXT, filling BLOB)")
            database.executemany("INSERT INTO t VALUES (?, randomblob(1000))", [(word,)] * 400)
    (tmp_path / "storage").mkdir()
    storage = LocalStorage(LocalConfig(path=str(tmp_path / "storage")))
    engine = SqliteEngine(SqliteConfig(file_path=str(source)))
    result = run_backup(plan(engine="sqlite"), engine, storage)
    last, before = (tmp_path / "storage" / result.directory / part.path for part in result.parts[:-3:-1])
    data = bytearray(last.read_bytes())
    if harm == "flip":
        data[-1] ^= 0x80
        last.write_bytes(data)
    elif harm == "cut":
        last.write_bytes(data[:-1])
    elif harm == "remove":
        last.unlink()
    else:
        last.write_bytes(before.read_bytes())
        before.write_bytes(data)
    was, beside = target.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(IntegrityError):
        run_restore(
            storage,
            result.directory,
            SqliteEngine(SqliteConfig(file_path=str(target))),
            "sqlite",
            options=RestoreOptions(drop_existing=True),
        )
    assert (target.read_bytes(), sorted(tmp_path.iterdir())) == (was, beside)
    assert run_verify(storage, result.directory, validate=validate_sqlite).errors
