"""Artifact formats 1 and 2: what a backup looks like in a storage. docs/format.md is the text for people.

Format 2 is format 1 encrypted. It has a number of its own because releases that know only 1 ignore members that they do
not know: they would take sealed parts for damaged ones.

A backup is one directory. `manifest.json` is written last and makes it exist; its SHA-256 covers its own bytes with the
64 digits of that hash set to zeros, so that one flipped bit anywhere in it is found.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataguardian.domain.errors import ManifestError, UnsupportedFormatError

FORMAT: Literal[1] = 1
ENCRYPTED_FORMAT: Literal[2] = 2
MANIFEST = "manifest.json"
PARTS = "parts.jsonl"
SUMS = "SHA256SUMS"
SEALED: Literal["sealed.json.age"] = "sealed.json.age"
KEY: Literal["key.age"] = "key.age"
PART_SUFFIX = ".age"
FORMATS = (FORMAT, ENCRYPTED_FORMAT)
MAX_PARTS = 999_999
MAX_RECIPIENTS = 50
_SEALED_PART_BYTES = 80
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_PARTS_BYTES = 1024 * 1024 * 1024
MAX_PART_SIZE_BYTES = 1024 * 1024 * 1024
MAX_VALUES = 2_000_000
"""JSON values in a manifest: `[[],[],…]` takes thirty times its length in memory."""
MAX_PART_LINE_BYTES = 1024
MAX_SEALING_BYTES = 1024 * 1024
"""What compression and encryption may add to a part that does not shrink, besides a 64th of it."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=2**63)]

_SELF_HASH = re.compile(rb'"manifest_sha256": "([0-9a-f]{64})"')
UNKNOWN = "0" * 64
"""Stands for a hash that is not known yet."""
_ZEROS = UNKNOWN.encode()
_PARTS_HINT = "the parts may still be good: `sha256sum -c SHA256SUMS` in the backup's directory tells"
_HASHED_SLUG = re.compile(r"-[0-9a-f]{8}$")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class PartRecord(Record):
    """One line of parts.jsonl: a stored object and the slice of its stream's raw bytes that it holds."""

    path: Annotated[str, Field(pattern=r"^[0-9]{2,6}-[A-Za-z0-9._-]+/[0-9]{6}(\.[a-z0-9]+)*$")]
    stream: Annotated[str, Field(description="directory of the stream")]
    offset: Annotated[int, Field(ge=0, lt=2**63, description="of the first raw byte within the stream")]
    size_bytes: Annotated[int, Field(ge=0, le=MAX_PART_SIZE_BYTES, description="raw")]
    stored_size_bytes: Size
    running_sha256: Annotated[
        Sha256 | None, Field(description="of the stream's raw bytes to the end of this part; sealed when encrypted")
    ] = None
    sha256: Annotated[Sha256 | None, Field(description="early backups: of this part's raw bytes, in its place")] = None
    stored_sha256: Sha256

    @property
    def raw_hashes(self) -> int:
        """Returns how many hashes of raw bytes there are: one, and none in the clear text of an encrypted backup."""
        return (self.running_sha256 is not None) + (self.sha256 is not None)


class StreamRecord(Record):
    """One stream: a folder of parts whose raw bytes, one after the other, are a dump that stock tools read."""

    directory: Annotated[str, Field(pattern=r"^[0-9]{2,6}-[A-Za-z0-9._-]+$")]
    name: str
    kind: Annotated[str, Field(pattern=r"^[a-z0-9]+$")]
    parts: Size
    size_bytes: Size
    stored_size_bytes: Size
    sha256: Annotated[Sha256 | None, Field(description="sealed when the backup is encrypted")] = None
    stored_sha256: Annotated[Sha256 | None, Field(description="early backups: of the stored parts together")] = None
    metadata: dict[str, Any] = {}
    restore_by_hand: list[str] = []


class ExpectedObject(NamedTuple):
    """A stored object, by its path within the backup's directory."""

    path: str
    stored_size_bytes: int
    stored_sha256: str


class ToolRecord(Record):
    name: str
    version: str


class SealedObject(Record):
    """An object of an encrypted backup that is no part: what clear text must not tell, and a passphrase's key."""

    path: Literal["sealed.json.age", "key.age"]
    stored_size_bytes: Annotated[int, Field(ge=0, le=MAX_PARTS_BYTES)]
    stored_sha256: Sha256


class Encryption(Record):
    """For whom every part is sealed: public keys. `key` is the object that a passphrase opens, when there is one."""

    format: Literal["age"]
    recipients: Annotated[list[str], Field(min_length=1, max_length=MAX_RECIPIENTS)]
    key: Literal["key.age"] | None
    objects: Annotated[list[SealedObject], Field(min_length=1, max_length=2)]

    @model_validator(mode="after")
    def _has_its_objects(self) -> Self:
        if [found.path for found in self.objects] != ([SEALED, self.key] if self.key else [SEALED]):
            raise ValueError("its objects are not those that it needs")
        return self


class Manifest(Record):
    """manifest.json. Times are RFC 3339 in UTC; sizes are bytes; no member ever holds a secret."""

    format: Literal[1, 2]
    dataguardian_version: str
    execution_id: str
    attempt: Annotated[int, Field(ge=1, lt=2**31)]
    name: str
    engine: str
    source: str
    backup_type: Literal["full"]
    started_at: str
    finished_at: str
    duration_seconds: Annotated[float, Field(ge=0, le=1e10)]
    server_version: str
    tools: list[ToolRecord]
    compression: Annotated[str, Field(pattern=r"^(zstd|gzip|lz4|none)$")]
    compression_level: int | None
    encryption: Encryption | None = None
    part_size_bytes: Annotated[int, Field(gt=0, le=MAX_PART_SIZE_BYTES)]
    options: dict[str, Any]
    size_bytes: Size
    compressed_size_bytes: Size
    parts: Size
    streams: list[StreamRecord]
    warnings: list[str]
    how_to_restore: list[str]
    parts_sha256: Sha256
    checksum: Annotated[Sha256, Field(description="SHA-256 of SHA256SUMS: pins every stored byte")]
    manifest_sha256: Sha256

    @property
    def objects(self) -> list[SealedObject]:
        """Returns the objects beside parts and records; none when the backup is not encrypted."""
        return self.encryption.objects if self.encryption else []

    @property
    def part_suffix(self) -> str:
        """Returns what encryption appends to a part's name."""
        return PART_SUFFIX if self.encryption else ""


def encode_manifest(manifest: Manifest) -> bytes:
    """Returns the manifest's bytes, with `manifest_sha256` computed; the value that was given is ignored."""
    document = manifest.model_dump(mode="json") | {"manifest_sha256": UNKNOWN}
    if manifest.encryption is None:
        del document["encryption"]  # format 1 knows no such member
    for stream in document["streams"]:
        for member in ("sha256", "stored_sha256"):  # what is sealed, and what early backups had
            if stream[member] is None:
                del stream[member]
    text = json.dumps(document, indent=2, ensure_ascii=True).encode() + b"\n"
    digest = hashlib.sha256(text).hexdigest().encode()
    return _replace_last_hash(text, digest)


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Checks the format and the self-hash and parses; raises ManifestError or UnsupportedFormatError.

    The format comes first: another one may hash itself in another way. Whoever may write into the storage may have
    written this: the memory and time that it takes are bounded.
    """
    try:
        _refuse_too_many_values(data)
        document = json.loads(data, parse_constant=_no_number, parse_float=_finite)
        _refuse_unknown_format(document, where)
        _check_self_hash(data, where)
        manifest = Manifest.model_validate(document)
        _check_times(manifest)
        _check_encryption(manifest)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{where} is not a valid manifest, or it was damaged", hint=_PARTS_HINT, path=where
        ) from error
    if len({stream.directory for stream in manifest.streams}) != len(manifest.streams):
        raise ManifestError(f"{where} names a stream's directory twice", path=where)
    return manifest


def encode_parts(parts: Iterable[PartRecord]) -> bytes:
    """Returns parts.jsonl: a JSON object per line, in the order of the streams and of their bytes."""
    return b"".join(
        json.dumps(part.model_dump(exclude_none=True), separators=(",", ":")).encode() + b"\n" for part in parts
    )


def decode_parts(data: bytes, manifest: Manifest, *, where: str) -> list[PartRecord]:
    """Checks parts.jsonl against the manifest's hash and parses it; raises ManifestError."""
    if hashlib.sha256(data).hexdigest() != manifest.parts_sha256:
        raise ManifestError(f"{where} was damaged or edited: its SHA-256 is not the manifest's", path=where)
    if data.count(b"\n") != manifest.parts or data[-1:] not in (b"\n", b""):
        raise ManifestError(
            f"{where} does not hold a line for each of the manifest's {manifest.parts} parts", path=where
        )
    try:
        parts = [PartRecord.model_validate_json(line) for line in io.BytesIO(data)]
    except ValidationError as error:
        raise ManifestError(f"{where} is not valid", path=where) from error
    _check_layout(parts, manifest, where)
    return parts


def encode_sums(entries: Iterable[tuple[str, str]]) -> bytes:
    """Returns SHA256SUMS, as `sha256sum -c` reads it, of (path, SHA-256) pairs."""
    return b"".join(f"{digest}  {path}\n".encode() for path, digest in entries)


def expected_sums(manifest: Manifest, parts: Iterable[PartRecord]) -> bytes:
    """Returns the one SHA256SUMS that belongs to these records: every stored object but itself and the manifest."""
    pinned = [(entry.path, entry.stored_sha256) for entry in expected_objects(manifest, parts)]
    return encode_sums([*pinned, (PARTS, manifest.parts_sha256)])


def expected_objects(manifest: Manifest, parts: Iterable[PartRecord]) -> list[ExpectedObject]:
    """Returns everything that a backup stores beside its three records, in the order of SHA256SUMS."""
    objects = [ExpectedObject(part.path, part.stored_size_bytes, part.stored_sha256) for part in parts]
    return objects + [ExpectedObject(one.path, one.stored_size_bytes, one.stored_sha256) for one in manifest.objects]


def stream_directory(number: int, name: str, kind: str) -> str:
    """Returns `01-shop.pgdump`: safe in every storage and shell, whatever the stream is called."""
    return f"{number:02d}-{slugify(name, fallback='data')}.{kind}"


def part_path(directory: str, number: int, suffix: str) -> str:
    return f"{directory}/{number:06d}{suffix}"


def slugify(name: str, *, fallback: str = "backup") -> str:
    """Returns a folder name of [A-Za-z0-9._-]; a name that had to be changed carries a piece of its hash, and so does
    one that ends like such a piece: two names never share a folder.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    if slug and slug == name and not _HASHED_SLUG.search(name):
        return slug
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{slug or fallback}-{digest}"


def max_sealed_bytes(manifest: Manifest) -> int:
    """Returns how long the sealed record of this manifest may be, in bytes: a hash per part, and what engines say."""
    return min(MAX_PARTS_BYTES, manifest.parts * _SEALED_PART_BYTES + MAX_MANIFEST_BYTES)


def max_parts_bytes(manifest: Manifest) -> int:
    """Returns how long the parts.jsonl of this manifest may be, in bytes."""
    return min(MAX_PARTS_BYTES, manifest.parts * MAX_PART_LINE_BYTES)


def _refuse_too_many_values(data: bytes) -> None:
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise ValueError("more values than any manifest has")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _check_times(manifest: Manifest) -> None:
    for text in (manifest.started_at, manifest.finished_at):
        if datetime.fromisoformat(text).utcoffset() is None:
            raise ValueError("a time without its zone")


def _check_encryption(manifest: Manifest) -> None:
    """What format 2 seals must not lie there in clear, and format 1 must have it."""
    encrypted = manifest.encryption is not None
    if encrypted != (manifest.format == ENCRYPTED_FORMAT):
        raise ValueError("the format is not the one that its encryption needs")
    if any((stream.sha256 is None) != encrypted for stream in manifest.streams):
        raise ValueError("a hash that is missing, or should be sealed")
    if any(entry.path == SEALED and entry.stored_size_bytes > max_sealed_bytes(manifest) for entry in manifest.objects):
        raise ValueError("a sealed record that is longer than any")


def _replace_last_hash(data: bytes, digits: bytes) -> bytes:
    match = list(_SELF_HASH.finditer(data))[-1]
    return data[: match.start(1)] + digits + data[match.end(1) :]


def _refuse_unknown_format(document: object, where: str) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(found, int):
        raise ManifestError(f"{where} is not a manifest, or it was damaged", hint=_PARTS_HINT, path=where)
    if found not in FORMATS or isinstance(found, bool):
        raise UnsupportedFormatError(
            f"{where} has format {found!r}, and this release reads formats {FORMAT} and {ENCRYPTED_FORMAT}",
            hint="use the release of DataGuardian that wrote it, or a newer one; or the file was damaged",
            path=where,
        )


def _check_self_hash(data: bytes, where: str) -> None:
    found = _SELF_HASH.findall(data)
    if not found or hashlib.sha256(_replace_last_hash(data, _ZEROS)).hexdigest().encode() != found[-1]:
        raise ManifestError(
            f"{where} was damaged or edited: its SHA-256 does not match its content", hint=_PARTS_HINT, path=where
        )


def _check_layout(parts: list[PartRecord], manifest: Manifest, where: str) -> None:
    """Offsets must be gapless, streams complete and totals right, so that readers can trust the records."""
    streams = {stream.directory: stream for stream in manifest.streams}
    raw = dict.fromkeys(streams, 0)
    stored = dict.fromkeys(streams, 0)
    count = dict.fromkeys(streams, 0)
    for part in parts:
        known = part.stream in streams and part.path.startswith(part.stream + "/")
        known = known and part.raw_hashes == (0 if manifest.encryption else 1)
        most = part.size_bytes + part.size_bytes // 64 + MAX_SEALING_BYTES
        fits = part.size_bytes <= manifest.part_size_bytes and part.stored_size_bytes <= most
        if not known or part.offset != raw[part.stream] or not fits:
            raise ManifestError(f"{where} does not fit the manifest at {part.path}", path=where)
        raw[part.stream] += part.size_bytes
        stored[part.stream] += part.stored_size_bytes
        count[part.stream] += 1
    for name, stream in streams.items():
        if (raw[name], stored[name], count[name]) != (stream.size_bytes, stream.stored_size_bytes, stream.parts):
            raise ManifestError(f"{where} does not hold all parts of stream {name}", path=where)
    if len({part.path for part in parts}) != len(parts):
        raise ManifestError(f"{where} names a part twice", path=where)
    check_whole_hashes(parts, manifest, where)


def check_whole_hashes(parts: Iterable[PartRecord], manifest: Manifest, where: str) -> None:
    """Raises ManifestError unless the last part of each stream has the stream's own hash; early ones have none so."""
    last = {part.stream: part.running_sha256 for part in parts}
    for stream in manifest.streams:
        if last.get(stream.directory) not in (None, stream.sha256):
            raise ManifestError(f"{where} ends stream {stream.directory} with another hash than its own", path=where)
