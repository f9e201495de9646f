"""What an encrypted backup keeps out of clear text: `sealed.json.age`, once it is opened.

The hashes of raw bytes would tell whoever has a copy of the same bytes that they are in the backup. Warnings, patterns
and what engines note of a stream may name tables and files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from dataguardian.domain.artifact import SEALED, Manifest, PartRecord, Record, Sha256, StreamRecord, check_whole_hashes
from dataguardian.domain.errors import ManifestError


class SealedStream(Record):
    """`running` are the SHA-256 of the raw bytes to the end of each part, in order; early backups have in `parts` those
    of each part's own.
    """

    directory: str
    sha256: Sha256
    metadata: dict[str, Any]
    running: list[Sha256] = Field(default_factory=list)
    parts: list[Sha256] = Field(default_factory=list)

    @property
    def hashes(self) -> list[dict[str, Sha256]]:
        """Returns what each part's record has of raw hashes."""
        return [{"running_sha256": digest} for digest in self.running] + [{"sha256": digest} for digest in self.parts]


class SealedRecord(Record):
    """The members of the manifest that are sealed."""

    options: dict[str, Any]
    warnings: list[str]
    streams: list[SealedStream]


def encode_sealed(manifest: Manifest, parts: Sequence[PartRecord]) -> bytes:
    """Returns the record, not encrypted yet, of a backup whose hashes are all known."""
    hashes = _by_stream(parts)
    streams = [
        {
            "directory": stream.directory,
            "sha256": stream.sha256,
            "metadata": stream.metadata,
            "running": hashes.get(stream.directory, []),
        }
        for stream in manifest.streams
    ]
    document = {"options": manifest.options, "warnings": manifest.warnings, "streams": streams}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()


def without_sealed(manifest: Manifest, parts: Sequence[PartRecord]) -> tuple[Manifest, list[PartRecord]]:
    """Returns the records as they may lie in clear; the number of the warnings stays, and their words do not."""
    count = len(manifest.warnings)
    notes = [f"{count} warning{'s are' if count > 1 else ' is'} sealed: {SEALED} has the words"] if count else []
    streams = [stream.model_copy(update={"sha256": None, "metadata": {}}) for stream in manifest.streams]
    public = manifest.model_copy(update={"options": {}, "warnings": notes, "streams": streams})
    return public, [part.model_copy(update={"running_sha256": None}) for part in parts]


def with_sealed(
    manifest: Manifest, parts: Sequence[PartRecord], data: bytes | bytearray
) -> tuple[Manifest, list[PartRecord]]:
    """Puts a sealed record, once it is decrypted, back where it belongs; raises ManifestError when it does not fit."""
    try:
        record = SealedRecord.model_validate_json(bytes(data))
    except ValidationError as error:
        raise ManifestError(f"{SEALED} is not valid", path=SEALED) from error
    held = {stream.directory: stream for stream in record.streams}
    wanted = {stream.directory: stream.parts for stream in manifest.streams}
    if len(held) != len(record.streams) or {name: len(stream.hashes) for name, stream in held.items()} != wanted:
        raise ManifestError(f"{SEALED} does not belong to this backup", path=SEALED)
    streams = [_opened(stream, held[stream.directory]) for stream in manifest.streams]
    hashes = {name: iter(stream.hashes) for name, stream in held.items()}
    opened = manifest.model_copy(update={"options": record.options, "warnings": record.warnings, "streams": streams})
    opened_parts = [part.model_copy(update=next(hashes[part.stream])) for part in parts]
    check_whole_hashes(opened_parts, opened, SEALED)
    return opened, opened_parts


def _opened(stream: StreamRecord, sealed: SealedStream) -> StreamRecord:
    return stream.model_copy(update={"sha256": sealed.sha256, "metadata": sealed.metadata})


def _by_stream(parts: Sequence[PartRecord]) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for part in parts:
        found.setdefault(part.stream, []).append(part.running_sha256)
    return found
