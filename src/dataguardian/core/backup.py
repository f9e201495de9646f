"""Taking a backup: the pipeline, from the engine's bytes to a manifest that makes the backup exist."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from mmap import mmap
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict

from dataguardian import __version__
from dataguardian.core.byhand import Guard, how_to_restore
from dataguardian.core.overlap import refuse_self_backup
from dataguardian.core.progress import Progress, Report, silent
from dataguardian.core.targets import TargetOutcome, Targets
from dataguardian.core.texts import Pattern, Text, shown
from dataguardian.domain import artifact
from dataguardian.domain.artifact import Manifest, PartRecord, StreamRecord, ToolRecord
from dataguardian.domain.clock import Clock, SystemClock, to_iso, to_stamp
from dataguardian.domain.errors import DumpFailedError, StorageError, UsageError
from dataguardian.domain.sizes import GIB, KIB, MIB, format_size
from dataguardian.engines.base import DumpOptions, DumpStream, Engine, refuse_streams
from dataguardian.interruption import undoing
from dataguardian.storage.base import Storage
from dataguardian.streams.codecs import Codec, codec_for
from dataguardian.streams.sealing import RunningHash
from dataguardian.streams.split import BufferPool, fill, give_back_big_blocks, plan_lanes

if TYPE_CHECKING:
    from dataguardian.core.backupkeys import EncryptionOptions
    from dataguardian.core.encryption import Sealer

DEFAULT_PART_SIZE_BYTES = 16 * MIB
MIN_PART_SIZE_BYTES = 64 * KIB
MAX_WARNINGS = 1000


class BackupPlan(BaseModel):
    """Everything that a backup is told, as plain JSON. `name` is the job's; `attempt` counts tries of one execution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    execution_id: Text
    attempt: int = 1
    name: Text
    engine: str
    source: Text
    compression: str = "zstd"
    compression_level: int | None = None
    part_size_bytes: int = DEFAULT_PART_SIZE_BYTES
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    streams: tuple[Text, ...] = ()
    directory: Text | None = None
    """Where the backup goes, when the caller must know beforehand; None derives it from name, time, id and attempt."""

    def dump_options(self) -> DumpOptions:
        return DumpOptions(include=self.include, exclude=self.exclude, streams=self.streams)


@dataclass(frozen=True)
class BackupResult:
    """`directory` is the backup's path in every storage that holds it; `targets` say which do."""

    directory: str
    manifest: Manifest
    parts: list[PartRecord]
    targets: list[TargetOutcome]


def attempt_directory(name: str, started_at: datetime, execution_id: str, attempt: int) -> str:
    """Returns `<job>/<start>-<execution id>-<attempt>`: every attempt writes in a directory of its own."""
    return f"{artifact.slugify(name)}/{to_stamp(started_at)}-{execution_id}-{attempt}"


def _publish_always() -> None:
    """The command line's runs have nobody to ask."""


def run_backup(
    plan: BackupPlan,
    engine: Engine,
    storage: Storage | Targets,
    *,
    clock: Clock | None = None,
    report: Report = silent,
    before_publish: Callable[[], None] = _publish_always,
    encryption: EncryptionOptions | None = None,
) -> BackupResult:
    """Takes one backup, encrypted if it is told how. On any error, and when stopped, what was stored is removed again.

    Of several targets those that fail are left behind, and the backup goes on as long as there is one.
    `before_publish` is called when only the manifest is missing; it raises when somebody else has taken over, or when
    the run is to be stopped: afterwards the backup is beyond recall.
    Raises what the engine and the storage raise, and UsageError for a plan that cannot be carried out.
    """
    clock = clock or SystemClock()
    targets = storage if isinstance(storage, Targets) else Targets.only(storage)
    codec = codec_for(plan.compression, plan.compression_level)
    _check_part_size(plan.part_size_bytes)
    refuse_streams(engine, plan.streams, plan.source)
    started_at, started = clock.now(), clock.monotonic()
    directory = plan.directory or attempt_directory(plan.name, started_at, plan.execution_id, plan.attempt)
    sealer = _sealer(encryption)  # before there are buffers: a passphrase takes as much memory as all of them
    conveyor = _Conveyor(plan, codec, targets, directory, report, sealer)
    with _removed_on_failure(targets, directory), conveyor:
        targets.claim(directory)
        for place in targets.storages:
            refuse_self_backup(engine, plan.dump_options(), place, directory)
        for number, dump in enumerate(engine.dump(plan.dump_options()), start=1):
            with dump as stream:
                conveyor.carry(number, stream)
        told = _draft_manifest(plan, codec, engine, conveyor)
        draft, parts, objects = sealer.seal_records(told, conveyor.parts) if sealer else (told, conveyor.parts, {})
        for name, data in objects.items():
            targets.put(f"{directory}/{name}", data)
        _check_arrival(targets, directory, parts, draft)
        records = artifact.encode_parts(parts)
        targets.put(f"{directory}/{artifact.PARTS}", records)
        draft = draft.model_copy(
            update={
                "started_at": to_iso(started_at),
                "finished_at": to_iso(clock.now()),
                "duration_seconds": round(clock.monotonic() - started, 3),
                "parts_sha256": hashlib.sha256(records).hexdigest(),
            }
        )
        sums = artifact.expected_sums(draft, parts)
        targets.put(f"{directory}/{artifact.SUMS}", sums)
        manifest = draft.model_copy(update={"checksum": hashlib.sha256(sums).hexdigest()})
        text = artifact.encode_manifest(manifest)
        manifest = artifact.decode_manifest(text, where=artifact.MANIFEST)
        before_publish()
        targets.put(f"{directory}/{artifact.MANIFEST}", text)
    known = {"streams": told.streams, "warnings": told.warnings, "options": told.options}
    return BackupResult(directory, manifest.model_copy(update=known), conveyor.parts, targets.outcomes())


def _sealer(encryption: EncryptionOptions | None) -> Sealer | None:
    if encryption is None:
        return None
    give_back_big_blocks()  # what the heap keeps, and sealed parts besides, would come to more than the budget
    from dataguardian.core.encryption import Sealer  # noqa: PLC0415 -- 25 MB that a backup in clear can do without

    return Sealer.of(encryption)


@dataclass(frozen=True)
class _Piece:
    """Raw bytes on their way: the first `size_bytes` of `buffer`, at `offset` of their stream; `number` is from 0.

    `running_sha256` is of the stream to their end.
    """

    stream: str
    number: int
    offset: int
    buffer: mmap
    size_bytes: int
    running_sha256: str


@dataclass
class _Conveyor:
    """Carries streams to the targets, part by part, several at once, and keeps the records in order.

    This thread reads and hashes what it read; a few others compress, hash and store. Parts that are not yet stored are
    bounded by `lanes`, and so is the memory. A failure anywhere surfaces in this thread at the next part.
    """

    plan: BackupPlan
    codec: Codec
    targets: Targets
    directory: str
    report: Report
    sealer: Sealer | None = None
    parts: list[PartRecord] = field(default_factory=list)
    streams: list[StreamRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _size_bytes: int = 0
    _stored_bytes: int = 0

    def __enter__(self) -> Self:
        self._lanes = plan_lanes(self.plan.part_size_bytes, encrypted=self.sealer is not None)
        self._pool = BufferPool(self._lanes.buffers, self.plan.part_size_bytes)
        self._threads = ThreadPoolExecutor(self._lanes.in_flight, thread_name_prefix="part")
        self.targets.share(self._lanes.in_flight)
        return self

    def __exit__(self, *exc: object) -> None:
        self.targets.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def carry(self, number: int, stream: DumpStream) -> None:
        """Reads one stream to its end, has the engine confirm it, and records it."""
        directory = artifact.stream_directory(number, stream.name, stream.kind)
        raw_hash = RunningHash()
        waiting: deque[Future[PartRecord]] = deque()
        first, offset, ended = len(self.parts), 0, False

        def settle(until: int) -> None:
            while len(waiting) > until:
                part = waiting.popleft().result()
                self.parts.append(part)
                self._stored_bytes += part.stored_size_bytes
                self._tell(stream)

        def seen(piece: memoryview) -> None:
            raw_hash.update(piece)
            self._size_bytes += len(piece)
            self._tell(stream)

        while not ended:
            settle(self._lanes.in_flight - 1)
            buffer = self._pool.acquire()
            size_bytes = fill(stream.readinto, buffer, seen)
            ended = size_bytes < self.plan.part_size_bytes
            if size_bytes == 0 and offset > 0:  # the stream ended with the part before; an empty one has one empty part
                self._pool.release(buffer)
                break
            number_in_stream = len(self.parts) - first + len(waiting)
            piece = _Piece(directory, number_in_stream, offset, buffer, size_bytes, raw_hash.hexdigest())
            waiting.append(self._threads.submit(self._store, self._path(piece), piece))
            offset += size_bytes
        stream.finish()
        settle(0)
        self.warnings += [f"{stream.name}: {warning}" for warning in stream.warnings]
        self.streams.append(
            StreamRecord(
                directory=directory,
                name=stream.name,
                kind=stream.kind,
                parts=len(self.parts) - first,
                size_bytes=offset,
                stored_size_bytes=sum(part.stored_size_bytes for part in self.parts[first:]),
                sha256=raw_hash.hexdigest(),
                metadata=stream.metadata,
                restore_by_hand=stream.restore_by_hand,
            )
        )

    def _store(self, path: str, piece: _Piece) -> PartRecord:
        """Runs in a thread: compresses one part, frees its buffer, seals and puts it, and looks at what arrived."""
        data = self._compressed(piece)
        if self.sealer is not None:
            data = self.sealer.seal(data)
        stored_sha256 = hashlib.sha256(data).hexdigest()
        self.targets.put(f"{self.directory}/{path}", data, stored_sha256)
        return PartRecord(
            path=path,
            stream=piece.stream,
            offset=piece.offset,
            size_bytes=piece.size_bytes,
            stored_size_bytes=len(data),
            running_sha256=piece.running_sha256,
            stored_sha256=stored_sha256,
        )

    def _compressed(self, piece: _Piece) -> bytes | bytearray | memoryview:
        try:
            with memoryview(piece.buffer)[: piece.size_bytes] as raw:
                return self.codec.compress(raw)
        finally:
            self._pool.release(piece.buffer)

    def _path(self, piece: _Piece) -> str:
        if piece.number >= artifact.MAX_PARTS:
            raise UsageError(
                f"the stream {piece.stream} needs more than {artifact.MAX_PARTS} parts",
                hint=f"give a --part-size above {format_size(self.plan.part_size_bytes)}",
            )
        suffix = self.codec.suffix + (artifact.PART_SUFFIX if self.sealer else "")
        return artifact.part_path(piece.stream, piece.number + 1, suffix)

    def _tell(self, stream: DumpStream) -> None:
        self.report(
            Progress(
                phase="backup",
                stream=stream.name,
                size_bytes=self._size_bytes,
                stored_bytes=self._stored_bytes,
                parts=len(self.parts),
                total_bytes=stream.size_hint_bytes,
            )
        )


@contextmanager
def _removed_on_failure(targets: Targets, directory: str) -> Iterator[None]:
    """Removes whatever the block stored when it does not end well; the manifest first, so that no half stays listed."""
    try:
        yield
    except BaseException as error:
        with undoing():
            for trouble in targets.clear(directory):
                error.add_note(trouble)
        raise


def _check_arrival(targets: Targets, directory: str, parts: list[PartRecord], manifest: Manifest) -> None:
    """One list must equal the names and sizes that were sent."""
    if not parts:
        raise DumpFailedError("the source gave no stream at all", hint="`dataguardian doctor` may tell why")
    sent = {
        f"{directory}/{entry.path}": entry.stored_size_bytes for entry in artifact.expected_objects(manifest, parts)
    }

    def check(storage: Storage) -> None:
        held = {entry.path: entry.size_bytes for entry in storage.list(directory)}
        if sent != held:
            wrong = sorted(path for path in sent.keys() | held.keys() if sent.get(path) != held.get(path))
            raise StorageError(
                f"the storage does not hold what was sent: {', '.join(wrong[:3])} ({len(wrong)} in all)",
                hint="run the backup again; if it happens again, do not trust this storage",
            )

    targets.each(check)


def _draft_manifest(plan: BackupPlan, codec: Codec, engine: Engine, conveyor: _Conveyor) -> Manifest:
    """Returns the manifest without times and hashes, which are known only at the very end."""
    sealer = conveyor.sealer
    return Manifest(
        format=artifact.FORMAT,
        dataguardian_version=__version__,
        execution_id=plan.execution_id,
        attempt=plan.attempt,
        name=plan.name,
        engine=plan.engine,
        source=plan.source,
        backup_type="full",
        started_at="",
        finished_at="",
        duration_seconds=0,
        server_version=engine.server_version,
        tools=[ToolRecord(name=tool.name, version=tool.version) for tool in engine.tools],
        compression=codec.name,
        compression_level=codec.level,
        part_size_bytes=plan.part_size_bytes,
        options=_told_options(plan),
        size_bytes=sum(stream.size_bytes for stream in conveyor.streams),
        compressed_size_bytes=sum(stream.stored_size_bytes for stream in conveyor.streams),
        parts=len(conveyor.parts),
        streams=conveyor.streams,
        warnings=conveyor.warnings[:MAX_WARNINGS],
        how_to_restore=how_to_restore(conveyor.streams, codec, sealer.guard if sealer else Guard.NONE),
        parts_sha256=artifact.UNKNOWN,
        checksum=artifact.UNKNOWN,
        manifest_sha256=artifact.UNKNOWN,
    )


def _told_options(plan: BackupPlan) -> dict[str, list[str]]:
    """Returns what the manifest tells of the choice; without streams as before there were any."""
    streams = {"streams": list(plan.streams)} if plan.streams else {}
    return {"include": shown(plan.include), "exclude": shown(plan.exclude), **streams}


def _check_part_size(part_size_bytes: int) -> None:
    if not MIN_PART_SIZE_BYTES <= part_size_bytes <= GIB:
        raise UsageError(
            f"a part size of {format_size(part_size_bytes)} is out of bounds", hint="give one from 64KiB to 1GiB"
        )
