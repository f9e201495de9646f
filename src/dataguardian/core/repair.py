"""Copying a backup from a storage that holds it to one that should: never a new dump.

Each part is read from whichever storage has it undamaged, checked by the hash that was recorded when it was written,
and put under the same name. Parts that are there already are read and compared, and copied only when they are not what
they should be. The manifest comes last, so that a copy that is interrupted is no backup, and can be gone on with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dataguardian.core.catalog import Backup
from dataguardian.core.copies import choose_copy
from dataguardian.core.objects import read_object
from dataguardian.core.progress import Progress, Report, silent
from dataguardian.core.reading import PartReader
from dataguardian.core.targets import check_arrived
from dataguardian.domain import artifact
from dataguardian.domain.artifact import PartRecord, SealedObject
from dataguardian.domain.errors import IntegrityError, ObjectMissingError, StorageError
from dataguardian.storage.base import Storage
from dataguardian.streams.codecs import codec_for


@dataclass(frozen=True)
class RepairResult:
    """`copied` counts the parts that had to be put, `size_bytes` their stored bytes."""

    backup: Backup
    copied: int
    size_bytes: int


def _publish_always() -> None:
    """Nobody needs to be asked."""


def run_repair(
    sources: Sequence[Storage],
    target: Storage,
    directory: str,
    *,
    checksum: str | None = None,
    report: Report = silent,
    before_publish: Callable[[], None] = _publish_always,
) -> RepairResult:
    """Makes `target` hold the backup that `sources` hold; afterwards every stored byte of it is known to be right.

    `before_publish` is called when only the manifest is missing, and may raise. Raises IntegrityError when a part is
    good in no source, and what the storages raise.
    """
    backup, storages = choose_copy(sources, directory, checksum=checksum)
    manifest = backup.manifest
    text = storages[0].get(f"{directory}/{artifact.MANIFEST}", artifact.MAX_MANIFEST_BYTES)
    artifact.decode_manifest(text, where=f"{directory}/{artifact.MANIFEST}")
    codec = codec_for(manifest.compression)
    copied = size_bytes = seen_bytes = 0
    with PartReader(storages[0], directory, codec, manifest.part_size_bytes, others=storages[1:]) as reader:
        copier = _Copier(reader, target, directory)
        for count, (part, result) in enumerate(reader.in_order(copier.bring, backup.parts), start=1):
            if result():
                copied, size_bytes = copied + 1, size_bytes + part.stored_size_bytes
            seen_bytes += part.stored_size_bytes
            report(
                Progress(
                    phase="repair",
                    stream=part.stream,
                    size_bytes=seen_bytes,
                    stored_bytes=size_bytes,
                    parts=count,
                    total_bytes=manifest.compressed_size_bytes,
                    exact=True,
                )
            )
    _check_listing(target, backup)
    for sealed in manifest.objects:
        _bring_object(storages, target, f"{directory}/{sealed.path}", sealed)
    for name, sha256 in ((artifact.PARTS, manifest.parts_sha256), (artifact.SUMS, manifest.checksum)):
        data = storages[0].get(f"{directory}/{name}", artifact.MAX_PARTS_BYTES)
        _put(target, f"{directory}/{name}", data, sha256)
    before_publish()
    target.put(f"{directory}/{artifact.MANIFEST}", text)
    return RepairResult(backup, copied, size_bytes)


@dataclass(frozen=True)
class _Copier:
    """Brings parts to the target; runs in several threads."""

    reader: PartReader
    target: Storage
    directory: str

    def bring(self, part: PartRecord) -> bool:
        """Makes the target hold a part; returns whether it had to be copied."""
        path = f"{self.directory}/{part.path}"
        if _is_there(self.target, path, part):
            return False
        self.target.put_hashed(path, self.reader.stored(part), part.stored_sha256)
        check_arrived(self.target, path, part.stored_size_bytes, part.stored_sha256)
        return True


def _is_there(target: Storage, path: str, record: PartRecord | SealedObject) -> bool:
    try:
        held = target.stat(path)
        if held.size_bytes != record.stored_size_bytes:
            return False
        found = held.sha256 or hashlib.sha256(target.get(path, record.stored_size_bytes)).hexdigest()
    except (ObjectMissingError, IntegrityError):
        return False
    return found == record.stored_sha256


def _bring_object(storages: Sequence[Storage], target: Storage, path: str, record: SealedObject) -> None:
    """Makes the target hold an object of an encrypted backup that is no part."""
    if not _is_there(target, path, record):
        data = read_object(storages, path, record.stored_size_bytes, record.stored_sha256)
        _put(target, path, data, record.stored_sha256)


def _put(target: Storage, path: str, data: bytes, sha256: str) -> None:
    """Puts a record, which must be the one that the manifest pins."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{path} was damaged or edited: its SHA-256 is not the manifest's", path=path)
    target.put_hashed(path, data, sha256)
    check_arrived(target, path, len(data), sha256)


def _check_listing(target: Storage, backup: Backup) -> None:
    """The target must list every part; strangers are for people to look at, and make it no good copy."""
    sizes = {f"{backup.directory}/{part.path}": part.stored_size_bytes for part in backup.parts}
    names = [artifact.PARTS, artifact.SUMS, artifact.MANIFEST, *(entry.path for entry in backup.manifest.objects)]
    records = {f"{backup.directory}/{name}" for name in names}
    held = {entry.path: entry.size_bytes for entry in target.list(backup.directory) if entry.path not in records}
    if sizes != held:
        wrong = sorted(path for path in sizes.keys() | held.keys() if sizes.get(path) != held.get(path))
        raise StorageError(
            f"the storage does not hold what was copied, or more: {', '.join(wrong[:3])} ({len(wrong)} in all)",
            hint="look at the storage, then repair again",
        )
