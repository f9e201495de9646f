"""Artifact format 1: what is written is read back, and nothing damaged passes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataguardian.domain import artifact
from dataguardian.domain.artifact import Manifest, PartRecord, StreamRecord, ToolRecord
from dataguardian.domain.errors import IntegrityError, ManifestError, UnsupportedFormatError

PART_SIZE = 1000
TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("manifest_sha256"), inner, max_size=3),
    max_leaves=6,
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def parts_of(directory: str, sizes: list[int]) -> list[PartRecord]:
    """Returns gapless parts of these raw sizes."""
    return [
        PartRecord(
            path=artifact.part_path(directory, number, ".zst"),
            stream=directory,
            offset=sum(sizes[: number - 1]),
            size_bytes=size_bytes,
            stored_size_bytes=size_bytes + 9,
            running_sha256=digest(f"raw {directory} to {number}"),
            stored_sha256=digest(f"stored {directory} {number}"),
        )
        for number, size_bytes in enumerate(sizes, 1)
    ]


def stream_of(parts: list[PartRecord], directory: str) -> StreamRecord:
    return StreamRecord(
        directory=directory,
        name=directory,
        kind="tar",
        parts=len(parts),
        size_bytes=sum(part.size_bytes for part in parts),
        stored_size_bytes=sum(part.stored_size_bytes for part in parts),
        sha256=parts[-1].running_sha256 if parts else digest(""),
    )


def manifest_of(parts: list[PartRecord], **changes: object) -> Manifest:
    directories = dict.fromkeys(part.stream for part in parts)
    streams = [stream_of([part for part in parts if part.stream == directory], directory) for directory in directories]
    fields: dict[str, object] = {
        "format": 1,
        "dataguardian_version": "0.1.0",
        "execution_id": "6f1c",
        "attempt": 1,
        "name": "shop",
        "engine": "files",
        "source": "files:///srv",
        "backup_type": "full",
        "started_at": "2026-11-23T04:00:00.000Z",
        "finished_at": "2026-11-23T04:00:01.500Z",
        "duration_seconds": 1.5,
        "server_version": "",
        "tools": [ToolRecord(name="tar", version="1.34")],
        "compression": "zstd",
        "compression_level": 3,
        "part_size_bytes": PART_SIZE,
        "options": {},
        "size_bytes": sum(part.size_bytes for part in parts),
        "compressed_size_bytes": sum(part.stored_size_bytes for part in parts),
        "parts": len(parts),
        "streams": streams,
        "warnings": [],
        "how_to_restore": ["sha256sum -c SHA256SUMS"],
        "parts_sha256": hashlib.sha256(artifact.encode_parts(parts)).hexdigest(),
        "checksum": digest("sums"),
        "manifest_sha256": artifact.UNKNOWN,
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


def decode(data: bytes) -> Manifest:
    return artifact.decode_manifest(data, where="manifest.json")


def resealed(data: bytes, **changes: object) -> bytes:
    """Edits a manifest the way somebody would who also mends its own hash."""
    document = json.loads(data) | changes | {"manifest_sha256": artifact.UNKNOWN}
    text = json.dumps(document, indent=2).encode() + b"\n"
    return text.replace(artifact.UNKNOWN.encode(), hashlib.sha256(text).hexdigest().encode())


@given(TEXT, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, JSON, max_size=3), st.none() | st.integers(-7, 22))
@example("", ['"manifest_sha256": "' + "a" * 64 + '"'], {"manifest_sha256": "a" * 64}, None)
@example("shop", ["a name that is not UTF-8: \udcff"], {"include": ["\udcff*"]}, 3)
def test_a_manifest_is_read_back(name: str, warnings: list[str], options: dict[str, object], level: int | None) -> None:
    """Names, warnings and options of any kind survive, also some that look like the manifest's own hash."""
    manifest = manifest_of([], name=name, warnings=warnings, options=options, compression_level=level)
    data = artifact.encode_manifest(manifest)
    assert data.isascii()
    assert decode(data).model_copy(update={"manifest_sha256": artifact.UNKNOWN}) == manifest


def test_every_flipped_bit_of_a_manifest_is_found() -> None:
    """One bit that rots anywhere in a manifest, its own hash included, never passes."""
    data = artifact.encode_manifest(manifest_of(parts_of("01-srv.tar", [PART_SIZE, 3])))
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(IntegrityError):
            decode(bytes(damaged))


@given(st.data())
def test_a_manifest_that_was_cut_or_grown_is_found(data: st.DataObject) -> None:
    """A truncated, extended or overwritten manifest never passes, whatever the new bytes are."""
    good = artifact.encode_manifest(manifest_of(parts_of("01-srv.tar", [3])))
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    damaged = good[:start] + data.draw(st.binary(max_size=9)) + good[end:]
    if damaged != good:
        with pytest.raises(IntegrityError):
            decode(damaged)


@pytest.mark.parametrize("number", [0, 3, 99, -1, True])
def test_another_format_is_named_as_such(number: int) -> None:
    """A manifest of a newer release is told from a damaged one, even where that release hashes differently."""
    data = artifact.encode_manifest(manifest_of([]))
    unsealed = data.replace(b'"format": 1', b'"format": ' + json.dumps(number).encode())
    for document in (unsealed, resealed(data, format=number), json.dumps({"format": number}).encode()):
        with pytest.raises(UnsupportedFormatError) as caught:
            decode(document)
        assert caught.value.exit_code == 3
        assert "newer" in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": "1"}',
        b'{"format": 1e999}',
    ],
    ids=repr,
)
def test_what_is_no_manifest_is_told_so(data: bytes) -> None:
    """Whatever lies under the manifest's name, the answer is a ManifestError and never a crash."""
    with pytest.raises(ManifestError):
        decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": -1},
        {"parts": "1"},
        {"backup_type": "magic"},
        {"checksum": "A" * 64},
        {"streams": None},
        {"attempt": 0},
    ],
    ids=str,
)
def test_a_resealed_manifest_must_still_be_valid(changes: dict[str, object]) -> None:
    """An edit that mends the hash but breaks a field is refused."""
    data = artifact.encode_manifest(manifest_of([]))
    assert decode(resealed(data)).format == 1
    with pytest.raises(ManifestError):
        decode(resealed(data, **changes))


def test_a_stream_directory_is_not_named_twice() -> None:
    """Two streams in one folder would be restored from the same parts."""
    manifest = manifest_of(parts_of("01-srv.tar", [3]))
    data = artifact.encode_manifest(manifest.model_copy(update={"streams": manifest.streams * 2}))
    with pytest.raises(ManifestError, match="twice"):
        decode(data)


def test_a_later_release_may_add_members() -> None:
    """Members that this release does not know are no reason to refuse a backup of format 1."""
    assert decode(resealed(artifact.encode_manifest(manifest_of([])), signature="…")).name == "shop"


@pytest.mark.skipif(shutil.which("sed") is None or shutil.which("sha256sum") is None, reason="needs sed and sha256sum")
def test_the_hash_can_be_checked_by_hand(tmp_path: Path) -> None:
    """The command of docs/format.md prints the very digits that the manifest holds."""
    file = tmp_path / "manifest.json"
    file.write_bytes(artifact.encode_manifest(manifest_of(parts_of("01-srv.tar", [3]))))
    command = (
        f"""sed 's/"manifest_sha256": "[0-9a-f]*"/"manifest_sha256": "{artifact.UNKNOWN}"/' {file.name} | sha256sum"""
    )
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == decode(file.read_bytes()).manifest_sha256


SIZES = st.lists(st.integers(0, PART_SIZE), max_size=6)


@given(SIZES, SIZES)
def test_parts_are_read_back(first: list[int], second: list[int]) -> None:
    """The records of any number of streams and parts survive, empty parts included."""
    parts = parts_of("01-a.tar", first) + parts_of("02-b.tar", second)
    assert artifact.decode_parts(artifact.encode_parts(parts), manifest_of(parts), where="parts.jsonl") == parts


def refuses(parts: list[PartRecord], manifest: Manifest) -> None:
    data = artifact.encode_parts(parts)
    sealed = manifest.model_copy(update={"parts_sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(ManifestError):
        artifact.decode_parts(data, sealed, where="parts.jsonl")


@given(SIZES.filter(len), st.data())
def test_parts_that_do_not_fit_the_manifest_are_refused(sizes: list[int], data: st.DataObject) -> None:
    """A record that is gone, doubled, too large, shifted or of a foreign stream is found even under a matching hash."""
    parts = parts_of("01-a.tar", sizes)
    manifest = manifest_of(parts)
    index = data.draw(st.integers(0, len(parts) - 1))
    part = parts[index]
    refuses(parts[:index] + parts[index + 1 :], manifest)
    refuses([*parts[:index], part, *parts[index:]], manifest)
    for changes in (
        {"offset": part.offset + 1},
        {"size_bytes": PART_SIZE + 1},
        {"stored_size_bytes": part.stored_size_bytes + 1},
        {"stream": "02-b.tar"},
        {"path": "02-b.tar/000001.zst"},
        {"running_sha256": None},
        {"sha256": digest("a second hash of raw bytes")},
    ):
        refuses([*parts[:index], part.model_copy(update=changes), *parts[index + 1 :]], manifest)


def test_the_last_part_has_the_hash_of_its_stream() -> None:
    """Parts that end a stream with another hash than the manifest's belong to another stream."""
    parts = parts_of("01-a.tar", [3, 4])
    refuses([parts[0], parts[1].model_copy(update={"running_sha256": digest("else")})], manifest_of(parts))


def test_every_flipped_bit_of_the_parts_is_found() -> None:
    """One bit that rots anywhere in parts.jsonl never passes."""
    parts = parts_of("01-a.tar", [3])
    data, manifest = artifact.encode_parts(parts), manifest_of(parts)
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ManifestError):
            artifact.decode_parts(bytes(damaged), manifest, where="parts.jsonl")


@pytest.mark.parametrize(
    "path", ["../x/000001", "/etc/000001", "01-a/../000001", "01-a/1", "01-a/000001\n", "01-a/000001/x"]
)
def test_a_part_cannot_lie_elsewhere(path: str) -> None:
    """No record leads a reader out of the backup's directory."""
    part = parts_of("01-a.tar", [1])[0]
    data = json.dumps(part.model_dump() | {"path": path}).encode()
    manifest = manifest_of([part], parts_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ManifestError):
        artifact.decode_parts(data, manifest, where="parts.jsonl")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_sums_are_checked_by_the_stock_tool(tmp_path: Path) -> None:
    """`sha256sum -c` accepts our file and names the object that rotted."""
    parts = parts_of("01-a.tar", [1, 2])
    for number, part in enumerate(parts, 1):
        file = tmp_path / part.path
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"stored 01-a.tar {number}")
    (tmp_path / artifact.PARTS).write_bytes(artifact.encode_parts(parts))
    (tmp_path / artifact.SUMS).write_bytes(artifact.expected_sums(manifest_of(parts), parts))
    check = ["sha256sum", "--strict", "-c", artifact.SUMS]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / parts[1].path).write_text("rotten")
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "01-a.tar/000002.zst: FAILED" in done.stdout) == (1, True)


NAMES = st.text(max_size=80) | st.from_regex(r"[a-z.-]{0,6}(-[0-9a-f]{8})?", fullmatch=True)


@given(st.sets(NAMES, min_size=2, max_size=8))
def test_two_names_never_share_a_folder(names: set[str]) -> None:
    """Neither reduced names nor names that look like reduced ones meet in one folder."""
    names |= {artifact.slugify(name) for name in names}
    for one, other in combinations(names, 2):
        assert artifact.slugify(one) != artifact.slugify(other)


@given(NAMES)
@example("\udcff")
@example("..")
@example("-rf")
@example("a" * 300)
def test_a_folder_name_is_safe_everywhere(name: str) -> None:
    """A slug is short and plain: no option, no hidden file, no way up, nothing that a shell would expand."""
    for slug in (artifact.slugify(name), artifact.stream_directory(1, name, "tar")):
        assert set(slug) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
        assert 0 < len(slug) <= 80
        assert slug[0] not in ".-"
    assert artifact.slugify(name) == artifact.slugify(name)


def test_a_plain_name_is_its_own_folder() -> None:
    """People find `shop` under `shop`; a name that had to change keeps what is readable of it."""
    assert artifact.slugify("shop_2.1") == "shop_2.1"
    assert artifact.slugify("my shop").startswith("my-shop-")
    assert artifact.slugify("日本").startswith("backup-")
    assert artifact.stream_directory(1, "日本", "pgdump").startswith("01-data-")
    assert artifact.part_path("01-shop.tar", 12, ".zst") == "01-shop.tar/000012.zst"
