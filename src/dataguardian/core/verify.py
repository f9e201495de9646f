"""Checking a stored backup. `stored` needs no key: hashes and completeness; `deep` also expands and asks the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from dataguardian.core.backupkeys import NO_KEYS, BackupKeys
from dataguardian.core.catalog import Backup, load_backup
from dataguardian.core.objects import read_object
from dataguardian.core.progress import Progress, Report, silent
from dataguardian.core.reading import PartReader
from dataguardian.domain import artifact
from dataguardian.domain.artifact import PartRecord, StreamRecord
from dataguardian.domain.errors import DamagedPartError, IntegrityError, KeyNeededError, ObjectMissingError
from dataguardian.engines.base import StreamValidator
from dataguardian.storage.base import Storage
from dataguardian.streams.codecs import codec_for
from dataguardian.streams.sealing import Opener

MAX_ERRORS = 1000


@dataclass
class VerifyReport:
    """`errors` says what is wrong, one sentence each; `parts` counts the parts that were read and found good.

    `not_checked` is why an encrypted backup was checked at the level `stored` only, although more was asked for.
    """

    directory: str
    level: Literal["stored", "deep"]
    parts: int = 0
    errors: list[str] = field(default_factory=list)
    not_checked: KeyNeededError | None = None

    @property
    def ok(self) -> bool | None:
        """None when nothing is wrong with what could be checked, and not all could be that was asked for."""
        if self.errors:
            return False
        return None if self.not_checked else True


def run_verify(
    storage: Storage,
    directory: str,
    *,
    validate: StreamValidator | None = None,
    keys: BackupKeys = NO_KEYS,
    report: Report = silent,
    checksum: str | None = None,
) -> VerifyReport:
    """Checks one backup and returns everything that is wrong with it; with `validate` it checks deeply.

    `checksum`, when it is known, must be the backup's: another one in its place, however good, is damage.
    What is encrypted is checked deeply with one of `keys`; without it, as far as that goes, and the report says so.

    Raises NotFoundError when there is no such backup, and storage errors other than damage.
    """
    outcome = VerifyReport(directory, "deep" if validate else "stored")
    try:
        backup = load_backup(storage, directory)
        check_recorded(backup, checksum)
    except IntegrityError as error:
        outcome.errors.append(error.message)
        return outcome
    outcome.errors += [*sums_problems(storage, backup), *_strangers(storage, backup)]
    outcome.errors += _object_problems(storage, backup)
    opener: Opener | None = None
    if validate is not None and backup.manifest.encryption is not None:
        try:
            backup, opener = _unlocked(storage, backup, keys)
        except KeyNeededError as error:
            validate, outcome.level, outcome.not_checked = None, "stored", error
        except IntegrityError as error:
            validate = None
            outcome.errors += [] if error.message in outcome.errors else [error.message]
    manifest = backup.manifest
    codec = codec_for(manifest.compression)
    with PartReader(storage, directory, codec, manifest.part_size_bytes, opener=opener) as reader:
        check = _Check(backup, reader, outcome, report)
        for stream in manifest.streams:
            if validate is None:
                check.stored(stream)
            else:
                check.deeply(stream, validate)
    del outcome.errors[MAX_ERRORS:]
    return outcome


def check_recorded(backup: Backup, checksum: str | None) -> None:
    """Raises DamagedPartError when this is not the backup whose checksum somebody has kept: whoever may write into the
    storage can put another one into its place, an older one perhaps, or one that they made, all of whose hashes match.
    """
    if checksum is not None and backup.manifest.checksum != checksum:
        raise DamagedPartError(
            f"{backup.directory} holds another backup than the one that was recorded: its checksum differs",
            hint="somebody has replaced what is stored; restore another backup, or a copy from another storage",
        )


def presence_problems(storage: Storage, backup: Backup) -> Iterator[str]:
    """Yields a sentence for every part that is missing or has the wrong size, without reading any."""
    held = {entry.path: entry.size_bytes for entry in storage.list(backup.directory)}
    for part in artifact.expected_objects(backup.manifest, backup.parts):
        found = held.get(f"{backup.directory}/{part.path}")
        if found is None:
            yield f"{part.path} is missing"
        elif found != part.stored_size_bytes:
            yield f"{part.path} has {found} bytes where {part.stored_size_bytes} were stored"


def sums_problems(storage: Storage, backup: Backup) -> Iterator[str]:
    """Yields a sentence when SHA256SUMS is not the one that the manifest pins and the parts need."""
    expected = artifact.expected_sums(backup.manifest, backup.parts)
    if hashlib.sha256(expected).hexdigest() != backup.manifest.checksum:
        yield f"{artifact.MANIFEST} and {artifact.PARTS} do not belong together"
    try:
        if storage.get(f"{backup.directory}/{artifact.SUMS}", len(expected)) != expected:
            yield f"{artifact.SUMS} was damaged or edited"
    except ObjectMissingError:
        yield f"{artifact.SUMS} is missing"
    except IntegrityError:
        yield f"{artifact.SUMS} was damaged or edited: it has grown"


def _object_problems(storage: Storage, backup: Backup) -> Iterator[str]:
    """Yields a sentence for what is wrong with the objects of an encrypted backup that are no parts."""
    for entry in backup.manifest.objects:
        path = f"{backup.directory}/{entry.path}"
        try:
            read_object([storage], path, entry.stored_size_bytes, entry.stored_sha256)
        except IntegrityError as error:
            yield error.message


def _unlocked(storage: Storage, backup: Backup, keys: BackupKeys) -> tuple[Backup, Opener]:
    from dataguardian.core.encryption import unlock  # noqa: PLC0415 -- 25 MB that a backup in clear can do without

    unlocked = unlock([storage], backup, keys)
    return unlocked.backup, unlocked.opener


def _strangers(storage: Storage, backup: Backup) -> Iterator[str]:
    """Nothing may lie there that was not written."""
    known = {entry.path for entry in artifact.expected_objects(backup.manifest, backup.parts)}
    known |= {artifact.MANIFEST, artifact.PARTS, artifact.SUMS}
    for entry in storage.list(backup.directory):
        if entry.path.removeprefix(f"{backup.directory}/") not in known:
            yield f"{entry.path.removeprefix(backup.directory + '/')} does not belong to this backup"


@dataclass
class _Check:
    """One verify in progress."""

    backup: Backup
    reader: PartReader
    outcome: VerifyReport
    report: Report

    def stored(self, stream: StreamRecord) -> None:
        """Reads every stored part of a stream and compares its hash."""
        for part, result in self.reader.in_order(self.reader.stored, self.backup.parts_of(stream.directory)):
            try:
                result()
                self.outcome.parts += 1
            except IntegrityError as error:
                self.outcome.errors.append(error.message)
            self._tell(stream, part)

    def deeply(self, stream: StreamRecord, validate: StreamValidator) -> None:
        """Expands a stream and has the engine read all of it; when that fails, every damaged part is named."""
        before = (len(self.outcome.errors), self.outcome.parts)
        try:
            chunks = self._raw_chunks(stream)
            validate(stream.kind, stream.metadata, chunks)
            for _ in chunks:
                pass  # whatever the engine did not care to read must be good too
        except IntegrityError as error:
            self.outcome.parts = before[1]
            self.stored(stream)
            if len(self.outcome.errors) == before[0]:
                self.outcome.errors.append(f"{stream.directory}: {error.message}")

    def _raw_chunks(self, stream: StreamRecord) -> Iterator[bytes]:
        for part, result in self.reader.raw_in_order(self.backup.parts_of(stream.directory)):
            raw = result()
            self.outcome.parts += 1
            self._tell(stream, part)
            yield raw

    def _tell(self, stream: StreamRecord, part: PartRecord) -> None:
        self.report(
            Progress(
                phase="verify",
                stream=stream.name,
                size_bytes=part.offset + part.size_bytes,
                parts=self.outcome.parts,
                total_bytes=stream.size_bytes,
                exact=True,
            )
        )
