"""Whoever may write into a storage may write manifests whose hashes are right. Nothing in them may take us over."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dataguardian.core.catalog import list_backups, load_backup
from dataguardian.core.verify import run_verify
from dataguardian.domain import artifact
from dataguardian.domain.artifact import PartRecord
from dataguardian.domain.errors import ManifestError
from dataguardian.domain.sizes import MIB
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.streams.codecs import codec_for
from tests.domain.test_artifact import manifest_of, parts_of

DIRECTORY = "job/20261123T040000Z-x-1"


def _signed(document: dict[str, Any]) -> bytes:
    """Returns a manifest with the hash that belongs to it, whatever is in it."""
    text = json.dumps(document | {"manifest_sha256": artifact.UNKNOWN}, indent=2).encode()
    return text.replace(artifact.UNKNOWN.encode(), hashlib.sha256(text).hexdigest().encode())


def _document(**changes: Any) -> dict[str, Any]:
    zero = {"parts_sha256": "1" * 64, "checksum": "2" * 64}
    return {**manifest_of(parts_of("01-a.tar", [3])).model_dump(mode="json"), **zero, **changes}


def _written(root: Path, document: dict[str, Any], parts: bytes = b"") -> LocalStorage:
    folder = root / DIRECTORY
    folder.mkdir(parents=True)
    (folder / artifact.MANIFEST).write_bytes(_signed(document))
    (folder / artifact.PARTS).write_bytes(parts)
    return LocalStorage(LocalConfig(path=str(root)))


def test_the_attack_itself_is_well_made() -> None:
    """Without a change the signed document is a manifest: the refusals below are not for a wrong hash."""
    assert artifact.decode_manifest(_signed(_document()), where="m").name == "shop"


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 2**63},
        {"size_bytes": 10**400},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"parts": 1e308},
        {"attempt": 2**40},
        {"duration_seconds": 1e300},
        {"duration_seconds": float("nan")},
        {"options": {"x": float("inf")}},
        {"options": {"x": [float("nan")]}},
        {"started_at": "yesterday"},
        {"started_at": "2026-11-23T04:00:00"},
        {"finished_at": ""},
        {"part_size_bytes": 2**40},
        {"compression": "../../bin/sh"},
        {"streams": [{"directory": "../../etc"}]},
    ],
    ids=str,
)
def test_values_that_no_backup_has_are_refused(changes: dict[str, Any]) -> None:
    """Numbers that overflow a column or a float, times that are none, other types: one clear error each."""
    with pytest.raises(ManifestError):
        artifact.decode_manifest(_signed(_document(**changes)), where="m")


@pytest.mark.parametrize("text", [b"1e999", b"-1e999", b"Infinity", b"NaN"])
def test_numbers_that_json_has_not_are_refused(text: bytes) -> None:
    """They would go into the catalogue and come out of the API as something that nobody can read."""
    data = _signed(_document(options={"x": 12345})).replace(b"12345", text)
    zeroed = artifact._SELF_HASH.sub(b'"manifest_sha256": "' + artifact.UNKNOWN.encode() + b'"', data)
    data = zeroed.replace(artifact.UNKNOWN.encode(), hashlib.sha256(zeroed).hexdigest().encode())
    with pytest.raises(ManifestError):
        artifact.decode_manifest(data, where="m")


@pytest.mark.parametrize("nest", [b"[", b'{"a":', b'{"a":['])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    """A document as deep as it is long ends in an error, not in a crash of the interpreter."""
    with pytest.raises(ManifestError):
        artifact.decode_manifest(nest * 5_000_000, where="m")


def test_a_manifest_of_many_small_values_takes_little_memory() -> None:
    """60 MB of empty lists would become two GB of them: they are counted before they are made."""
    data = b'{"format": 1, "options": [' + b"[]," * 20_000_000 + b"[]]}"
    assert len(data) < artifact.MAX_MANIFEST_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError):
            artifact.decode_manifest(data, where="m")
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()


def test_a_parts_file_of_ten_gigabytes_is_not_read(tmp_path: Path) -> None:
    """Its length says that it cannot belong to the manifest, before one byte of it is read."""
    storage = _written(tmp_path, _document())
    with (tmp_path / DIRECTORY / artifact.PARTS).open("wb") as file:
        file.truncate(10 * 1000**3)
    tracemalloc.start()
    try:
        report = run_verify(storage, DIRECTORY)
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()
    assert not report.ok
    assert len(list_backups(storage).backups) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "01-a.tar/../../x"},
        {"path": "/etc/passwd"},
        {"path": "01-a.tar/000001.zst/../../../x"},
        {"path": "01-a.tar/..%2f..%2fx"},
        {"path": "01-a.tar\\000001"},
        {"path": "-rf/000001"},
        {"stream": "../01-a.tar"},
        {"stored_size_bytes": 10 * 1000**3},
        {"stored_size_bytes": 2**63},
        {"size_bytes": 10**30},
        {"offset": 2**70},
    ],
    ids=str,
)
def test_parts_that_lie_elsewhere_or_lie_about_their_size_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Hashes that match do not make a record true: paths stay inside, sizes stay what a part can have."""
    record = parts_of("01-a.tar", [3])[0].model_dump() | changes
    parts = json.dumps(record).encode() + b"\n"
    stream = _document()["streams"][0]
    stream["stored_size_bytes"] = min(record["stored_size_bytes"], 2**63 - 1)
    document = _document(streams=[stream], parts_sha256=hashlib.sha256(parts).hexdigest())
    storage = _written(tmp_path, document, parts)
    with pytest.raises(ManifestError):
        load_backup(storage, DIRECTORY)


def test_more_lines_than_parts_are_not_parsed() -> None:
    """The count in the small manifest bounds the work that the big file may cause."""
    parts = b"\n" * 1000
    manifest = manifest_of(parts_of("01-a.tar", [3]), parts_sha256=hashlib.sha256(parts).hexdigest())
    with pytest.raises(ManifestError, match="a line for each"):
        artifact.decode_parts(parts, manifest, where="p")


def _frame_with_window(log2: int) -> bytes:
    """Returns a zstd frame without a size, whose header asks for a window of 2^log2 bytes, and holds one byte."""
    return b"\x28\xb5\x2f\xfd" + bytes([0x00, (log2 - 10) << 3]) + b"\x09\x00\x00x"


BOMBS = {
    "more than recorded": ("zstd", zstandard.compress(b"\0" * 100 * MIB), 10),
    "less than announced": ("zstd", zstandard.compress(b"\0" * 100 * MIB), 10 * MIB),
    "two frames": ("zstd", zstandard.compress(b"\0" * 10) * 2, 10),
    "window of 2 GB": ("zstd", _frame_with_window(31), 1),
    "window of 2 TB": ("zstd", _frame_with_window(41), 1),
    "no size": ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 100 * MIB), 10),
    "gzip": ("gzip", bytes(codec_for("gzip").compress(b"\0" * 100 * MIB)), 10),
    "lz4": ("lz4", bytes(codec_for("lz4").compress(b"\0" * 100 * MIB)), 10),
    "none": ("none", b"\0" * 100, 10),
}

_IN_A_CHILD = """
import re, sys
from pathlib import Path
from dataguardian.streams.codecs import codec_for
from dataguardian.domain.errors import DamagedPartError
data = sys.stdin.buffer.read()
codec = codec_for(sys.argv[1])
def peak_kib():  # ru_maxrss would begin with the parent's
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak_kib()
try:
    codec.decompress(data, int(sys.argv[2]))
except DamagedPartError:
    print((peak_kib() - before) // 1024)
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_part_that_expands_beyond_its_record_is_refused_in_little_memory(bomb: str) -> None:
    """Whatever a frame says of itself or turns out to hold: no more is allocated than the record allows."""
    name, data, size_bytes = BOMBS[bomb]
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_CHILD, name, str(size_bytes)], input=data, capture_output=True, check=True
    )
    assert done.stdout, "it was not refused"
    assert int(done.stdout) < 30


def test_the_largest_record_is_a_gibibyte() -> None:
    """A part of more is refused by its record, so that one frame can never fill the memory."""
    with pytest.raises(ValueError, match="size_bytes"):
        PartRecord.model_validate(parts_of("01-a.tar", [3])[0].model_dump() | {"size_bytes": 2**30 + 1})


_LIST = """
import re, sys
from pathlib import Path
from dataguardian.core.catalog import list_backups
from dataguardian.storage.local import LocalConfig, LocalStorage
peak = lambda: int(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
before = peak()
found = list_backups(LocalStorage(LocalConfig(path=sys.argv[1])))
print(len(found.backups), len(found.unreadable), (peak() - before) // 1024)
"""


def test_a_list_of_huge_manifests_stays_small(tmp_path: Path) -> None:
    """Twenty-four valid manifests of 30 MB beside a good one: the list names what it did not read, has the good one,
    and a process of its own needs less than 400 MiB more for it, where reading eight at once took gigabytes.
    """
    huge = _signed(_document(options={"x": [["a" * 11] for _ in range(800_000)]}))
    assert 25 * MIB < len(huge) < 32 * MIB
    first = tmp_path / "job" / "20261123T040000Z-x-1"
    for number in range(24):
        folder = first.with_name(f"20261123T0400{number:02d}Z-x-1")
        folder.mkdir(parents=True)
        if number == 0:
            (folder / artifact.MANIFEST).write_bytes(huge)
        else:
            (folder / artifact.MANIFEST).hardlink_to(first / artifact.MANIFEST)
    _written(tmp_path / "good", _document())
    (tmp_path / "good" / "job").rename(tmp_path / "other")
    listed = subprocess.run([sys.executable, "-c", _LIST, str(tmp_path)], capture_output=True, text=True, check=True)
    backups, unreadable, mebibytes = map(int, listed.stdout.split())
    assert (backups, unreadable) == (2, 23)
    assert mebibytes < 400
