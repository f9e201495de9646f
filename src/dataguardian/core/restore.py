"""Restoring a backup: the pipeline's mirror. Not a byte of a part reaches the target before its hashes were checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataguardian.core.backupkeys import NO_KEYS, BackupKeys
from dataguardian.core.catalog import Backup
from dataguardian.core.copies import choose_copy, missing_everywhere
from dataguardian.core.overlap import refuse_self_restore
from dataguardian.core.progress import Progress, Report, silent
from dataguardian.core.reading import PartReader
from dataguardian.core.verify import sums_problems
from dataguardian.domain.artifact import Manifest, StreamRecord
from dataguardian.domain.clock import Clock, SystemClock
from dataguardian.domain.errors import DamagedPartError, UsageError
from dataguardian.engines.base import Engine, RestoreOptions
from dataguardian.storage.base import Storage
from dataguardian.streams.codecs import codec_for
from dataguardian.streams.sealing import Opener

NOT_ENCRYPTED = (
    "a key was given, and this backup is not encrypted: if it should be, somebody else has written it, and all of its "
    "hashes match all the same"
)


@dataclass(frozen=True)
class RestoreResult:
    """`size_bytes` counts the raw bytes that went into the target; `warnings` are the engine's."""

    manifest: Manifest
    size_bytes: int
    duration_seconds: float
    warnings: list[str] = field(default_factory=list)


def _to_nobody(_: str) -> None:
    """For callers that read the result's warnings."""


def run_restore(
    storage: Storage,
    directory: str,
    engine: Engine,
    engine_type: str,
    *,
    streams: Sequence[str] = (),
    options: RestoreOptions | None = None,
    clock: Clock | None = None,
    report: Report = silent,
    warn: Callable[[str], None] = _to_nobody,
    others: Sequence[Storage] = (),
    checksum: str | None = None,
    keys: BackupKeys = NO_KEYS,
) -> RestoreResult:
    """Restores a backup, or the named streams of it, into the engine's datasource.

    `others` are storages that hold the same backup, of `checksum` when that is known: what one of them lacks, or holds
    damaged, comes from another one.
    `keys` open an encrypted backup.
    `warn` is told, before anything is fetched or touched, what may go wrong; the result's warnings have it too.
    Raises IntegrityError before or instead of changing the target when anything stored is not what was written, and
    KeyNeededError before the target is looked at when the backup is encrypted and no key opens it.
    """
    clock, options = clock or SystemClock(), options or RestoreOptions()
    started = clock.monotonic()
    backup, storages = choose_copy([storage, *others], directory, checksum=checksum)
    _check_engine(backup.manifest, engine_type)
    opener: Opener | None = None
    if backup.manifest.encryption is not None:
        from dataguardian.core.encryption import unlock  # noqa: PLC0415 -- 25 MB that a backup in clear can do without

        unlocked = unlock(storages, backup, keys)
        backup, opener = unlocked.backup, unlocked.opener
    chosen = choose_streams(backup.manifest, streams)
    for place in storages:
        refuse_self_restore(engine, place)
    _check_complete(storages, backup, chosen)
    engine.prepare_restore([(stream.name, stream.kind) for stream in chosen], options)
    in_clear = [NOT_ENCRYPTED] if keys and opener is None else []
    cautions = in_clear + engine.cautions(chosen)
    for caution in cautions:
        warn(caution)
    codec = codec_for(backup.manifest.compression)
    part_size_bytes = backup.manifest.part_size_bytes
    with PartReader(storages[0], directory, codec, part_size_bytes, others=storages[1:], opener=opener) as reader:
        reader.begin(backup.parts_of(chosen[0].directory) if chosen else ())  # while the engine makes its target ready
        sources = [_Source(backup, stream, reader, report) for stream in chosen]
        engine.restore(iter(sources), options)
    size_bytes = sum(stream.size_bytes for stream in chosen)
    return RestoreResult(backup.manifest, size_bytes, round(clock.monotonic() - started, 3), cautions + engine.warnings)


def choose_streams(manifest: Manifest, wanted: Sequence[str]) -> list[StreamRecord]:
    """Returns the streams that `wanted` names, by name or folder, in the backup's order; all when it is empty."""
    known = {name for stream in manifest.streams for name in (stream.name, stream.directory)}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"this backup has no stream {name!r}",
                hint=f"it has: {', '.join(stream.name for stream in manifest.streams)}",
                stream=name,
            )
    return [stream for stream in manifest.streams if not wanted or {stream.name, stream.directory} & set(wanted)]


@dataclass
class _Source:
    """One stream on its way back, as an engine sees it."""

    backup: Backup
    stream: StreamRecord
    reader: PartReader
    report: Report
    name: str = field(init=False)
    kind: str = field(init=False)
    size_bytes: int = field(init=False)
    metadata: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.kind = self.stream.name, self.stream.kind
        self.size_bytes, self.metadata = self.stream.size_bytes, self.stream.metadata

    def chunks(self) -> Iterator[bytes]:
        parts = self.backup.parts_of(self.stream.directory)
        for count, (part, result) in enumerate(self.reader.raw_in_order(parts), start=1):
            yield result()
            self.report(
                Progress(
                    phase="restore",
                    stream=self.name,
                    size_bytes=part.offset + part.size_bytes,
                    parts=count,
                    total_bytes=self.size_bytes,
                    exact=True,
                )
            )


def _check_engine(manifest: Manifest, engine_type: str) -> None:
    if manifest.engine != engine_type:
        raise UsageError(
            f"this is a {manifest.engine} backup, and the target is of type {engine_type}",
            hint=f"give a {manifest.engine} target",
        )


def _check_complete(storages: Sequence[Storage], backup: Backup, chosen: list[StreamRecord]) -> None:
    """Looks at the records and at every chosen part before the engine is bothered; reads none of the parts."""
    wanted = {stream.directory for stream in chosen}
    problems = list(sums_problems(storages[0], backup))
    problems += [text for text in missing_everywhere(storages, backup) if text.split("/", 1)[0] in wanted]
    if problems:
        raise DamagedPartError(
            f"this backup is damaged: {'; '.join(problems[:3])} ({len(problems)} in all); nothing was restored",
            hint="restore another backup, or copy what is damaged back from another storage",
            problems=len(problems),
        )
