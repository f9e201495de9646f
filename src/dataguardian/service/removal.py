"""Removing backups and leftovers from storages, in the order that a crash cannot turn into a loss.

Absence never authorises deletion. A backup goes only after its manifest was read again and names the execution that is
meant: row to `deleting`, manifest, everything else, rows. From the moment that the row is `deleting` the rest can be
done again at any time; before it nothing has happened.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.catalog import load_manifest
from dataguardian.db.models import AbandonedDirectory, BackupExecution, StorageLocation
from dataguardian.db.repositories.cleanup import CleanupRepository
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.stored import AbandonedRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.domain.artifact import MANIFEST, Manifest
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import (
    DataGuardianError,
    IntegrityError,
    NotFoundError,
    ObjectMissingError,
    StorageError,
    StorageUnreachableError,
)
from dataguardian.domain.states import HOLDS_A_BACKUP, ExecutionStatus
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.safekeeping import opened_config
from dataguardian.service.threads import in_thread
from dataguardian.service.vault import Vault
from dataguardian.storage.base import Storage
from dataguardian.storage.registry import build_storage, storage_document
from dataguardian.storage.retrying import wrap

STEP_OBJECTS = 200
STEP_THREADS = 4
STEP_SECONDS = 600.0
"""Longer than a storage's own limits and retries; only what hangs in the kernel takes so long."""
ZOMBIE_GRACE = timedelta(hours=1)
"""A worker that froze may wake and store another part: a note of what it left is kept for so long."""

T = TypeVar("T")
Opener = Callable[[StorageLocation, Vault], Storage]


def open_storage(row: StorageLocation, vault: Vault) -> Storage:
    """Raises UsageError for a configuration that this installation cannot read, SecretUnreadableError for one whose
    secrets it cannot open, MissingToolError.
    """
    return wrap(build_storage(storage_document(opened_config(row, vault))))


class Removed(StrEnum):
    """What became of an attempt to remove something."""

    GONE = "gone"
    HELD = "held"
    """Pinned, being read, or the newest good one by now."""
    REPORTED = "reported"
    WAITING = "waiting"
    """Gone from the storages that answer; the rest goes with a later pass."""


@dataclass(frozen=True)
class Outcome:
    """`reason` says why something was not removed, for people."""

    removed: Removed
    size_bytes: int = 0
    reason: str = ""


class Remover:
    """Removes one thing after the other. One per pass: it keeps the storages that it opened, so that a storage that
    changes under its feet is noticed, and the ones that failed, so that nobody waits for them twice.
    """

    def __init__(self, context: Context, opener: Opener = open_storage) -> None:
        self._context = context
        self._opener = opener
        self._storages: dict[uuid.UUID, Storage] = {}
        self._away: dict[uuid.UUID, StorageError] = {}

    async def storage(self, storage_id: uuid.UUID | None) -> Storage:
        """Raises StorageUnreachableError for one that failed in this pass already, NotFoundError, UsageError."""
        if storage_id is None:
            raise NotFoundError("this execution has no storage location")
        if storage_id in self._away:
            raise self._away[storage_id]
        if storage_id not in self._storages:
            async with self._context.db.read() as session:
                row = await StorageRepository(session).get(storage_id)
            self._storages[storage_id] = self._opener(row, self._context.vault)
        return self._storages[storage_id]

    async def step(self, storage_id: uuid.UUID | None, work: Callable[[Storage], T]) -> T:
        """Does something with a storage in a thread. After a failure of the storage itself it is not asked again."""
        storage = await self.storage(storage_id)
        try:
            return await in_thread(lambda: work(storage), seconds=STEP_SECONDS)
        except ObjectMissingError:
            raise
        except StorageError as error:
            if storage_id is not None:
                self._away[storage_id] = error
            raise
        except TimeoutError as error:
            away = StorageUnreachableError(f"the storage did not answer within {STEP_SECONDS:g} s")
            if storage_id is not None:
                self._away[storage_id] = away
            raise away from error

    async def check(self, row: BackupExecution) -> str | None:
        """Reads a backup's manifest again, in every storage that holds it; returns what is wrong with it, None when it
        is the one that is meant. Of several storages one must answer: raises what the first one raised when none does.
        """
        if row.backup_path is None:
            return f"the execution {row.id} is completed and names no directory"
        async with self._context.db.read() as session:
            places: list[uuid.UUID | None] = [*await TargetRepository(session).holders(row)]
        away: DataGuardianError | None = None
        seen = 0
        for place in places or [None]:
            try:
                wrong = await self._check_at(place, row, row.backup_path)
            except DataGuardianError as error:
                away = away or error
                continue
            if wrong:
                return wrong
            seen += 1
        if away is not None and not seen:
            raise away
        return None

    async def _check_at(self, place: uuid.UUID | None, row: BackupExecution, path: str) -> str | None:
        try:
            manifest = await self.step(place, lambda storage: load_manifest(storage, path))
        except ObjectMissingError:
            return f"{path} has no manifest any more, although its execution is {row.status}"
        except IntegrityError as error:
            return error.message
        return _difference(manifest, row)

    async def remove(self, execution_id: uuid.UUID, *, even_newest: bool = False, unchecked: bool = False) -> Outcome:
        """Removes a completed backup; raises StorageError, after which the next pass goes on with it.

        `unchecked` is for people who want the row of a backup gone whose manifest is damaged or missing.
        """
        async with self._context.db.read() as session:
            row = await ExecutionRepository(session).find(execution_id)
        if row is None or row.status not in HOLDS_A_BACKUP:
            return Outcome(Removed.HELD, reason="it is no longer a completed backup")
        wrong = None if unchecked else await self.check(row)
        if wrong:
            return Outcome(Removed.REPORTED, reason=wrong)
        if not await self._mark(row, even_newest=even_newest):
            return Outcome(Removed.HELD, reason="it is pinned, being read, or the newest good backup of its job")
        return await self.finish(execution_id, unchecked=unchecked)

    async def finish(self, execution_id: uuid.UUID, *, unchecked: bool = False) -> Outcome:
        """Goes on with a deletion that began: safe at any time, by any number of processes."""
        async with self._context.db.read() as session:
            row = await ExecutionRepository(session).find(execution_id)
        if row is None or row.status is not ExecutionStatus.DELETING:
            return Outcome(Removed.HELD, reason="somebody else has finished it")
        if row.backup_path is None:
            emptied, kept = 0, None
        else:
            emptied, kept = await self._empty_everywhere(row, row.backup_path, unchecked=unchecked)
        if kept is not None:
            return kept
        async with self._context.db.write() as session:
            ours = await CleanupRepository(session).forget(execution_id)
        return Outcome(Removed.GONE if ours else Removed.HELD, (row.compressed_size_bytes or 0) * max(1, emptied))

    async def _empty_everywhere(
        self, row: BackupExecution, path: str, *, unchecked: bool
    ) -> tuple[int, Outcome | None]:
        """Empties a backup's directory in every storage; returns how many, and an outcome when something is left.

        Each storage that was emptied is forgotten at once. Of several, one that is away does not keep the others: what
        lies there goes when it is back. The only one raises its StorageError.
        """
        async with self._context.db.read() as session:
            several = bool(await TargetRepository(session).of(row.id))
            places: list[uuid.UUID | None] = [*await TargetRepository(session).places(row)]
        left: list[str] = []
        kept = Removed.WAITING
        for place in places or ([] if several else [None]):
            try:
                wrong = None if unchecked else await self._foreign(place, row, path)
                if not wrong:
                    await self._empty(place, path)
            except DataGuardianError as error:
                if not several:
                    raise
                left.append(error.message)
                continue
            if wrong:
                kept, left = Removed.REPORTED, [*left, wrong]
            elif several and place is not None:
                async with self._context.db.write() as session:
                    await TargetRepository(session).note_emptied(row, place)
        text = f"{path} is not gone from every storage: {'; '.join(left)}" if several else "; ".join(left)
        return len(places) - len(left), Outcome(kept, reason=text) if left else None

    async def remove_abandoned(self, note: AbandonedDirectory, *, unchecked: bool = False) -> Outcome:
        """Removes what an attempt left that ended badly; raises StorageError.

        A directory that holds a valid manifest is a backup: it goes only when another attempt of the same execution
        became the backup, under another path.
        """
        if str(note.execution_id) not in note.path:
            return Outcome(Removed.REPORTED, reason=f"{note.path} does not bear the name of its execution")
        async with self._context.db.read() as session:
            named = await CleanupRepository(session).names_backup(note)
            row = await ExecutionRepository(session).find(note.execution_id)
        if named:
            await self._forget(note)
            return Outcome(Removed.HELD, reason="it is a backup")
        # Under the winner's own path, in a place that was passed over, a whole backup is the winner itself.
        won = (*HOLDS_A_BACKUP, ExecutionStatus.DELETING)
        another_won = row is not None and row.status in won and row.backup_path != note.path
        wrong = None if another_won or unchecked else await self._whole(note)
        if wrong:
            return Outcome(Removed.REPORTED, reason=wrong)
        size_bytes = await self._empty(note.storage_location_id, note.path)
        if unchecked or self._context.clock.now() - note.created_at >= ZOMBIE_GRACE:
            await self._forget(note)
        return Outcome(Removed.GONE, size_bytes)

    async def _mark(self, row: BackupExecution, *, even_newest: bool) -> bool:
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            # Locked first: a restore takes its lease under the same lock, and the next statement must see it.
            current = await executions.find_locked(row.id)
            if current is None or current.status not in HOLDS_A_BACKUP or row.job_id is None:
                return False
            newest = await executions.newest_good(row.job_id)
            if not even_newest and (newest is None or newest.id == row.id):
                return False
            marked = await executions.mark_deleting(row.id, self._context.clock.now())
            if marked:
                await record_deletion(Audit(self._context), session, current)
            return marked

    async def _foreign(self, place: uuid.UUID | None, row: BackupExecution, path: str) -> str | None:
        """Tells why a directory whose deletion began is not touched: it holds somebody else's manifest by now."""
        try:
            manifest = await self.step(place, lambda storage: load_manifest(storage, path))
        except ObjectMissingError:
            return None
        except IntegrityError as error:
            return error.message
        return _difference(manifest, row)

    async def _whole(self, note: AbandonedDirectory) -> str | None:
        try:
            await self.step(note.storage_location_id, lambda storage: load_manifest(storage, note.path))
        except ObjectMissingError:
            return None
        except IntegrityError as error:
            return f"{note.path} was left by an attempt that failed, and has a manifest: {error.message}"
        return (
            f"{note.path} was left by an attempt that failed, and yet holds a whole backup: look at it, and whether two"
            " storage locations are the same place"
        )

    async def _empty(self, storage_id: uuid.UUID | None, directory: str) -> int:
        """Deletes the manifest and then everything else of a directory, also what killed puts left that no list shows;
        in bounded steps; returns the bytes.
        """
        await self.step(storage_id, lambda storage: storage.delete(f"{directory}/{MANIFEST}"))
        total = 0
        while True:
            count, size_bytes = await self.step(storage_id, lambda storage: _delete_some(storage, directory))
            total += size_bytes
            if count == 0:
                break
        await self.step(storage_id, lambda storage: storage.discard(directory))
        return total

    async def _forget(self, note: AbandonedDirectory) -> None:
        async with self._context.db.write() as session:
            await AbandonedRepository(session).delete(note.id)


async def record_deletion(audit: Audit, session: AsyncSession, row: BackupExecution) -> None:
    """Puts into the audit log, where it begins, that an execution goes: what it was can be read nowhere else then."""
    job = await JobRepository(session).find(row.job_id) if row.job_id else None
    names = ("status", "trigger", "started_at", "backup_path", "checksum", "size_bytes", "compressed_size_bytes")
    gone = {name: getattr(row, name) for name in names}
    gone["started_at"] = to_iso(row.started_at) if row.started_at else None
    changes = {name: [value, None] for name, value in gone.items() if value is not None}
    name = job.name if job else None
    await audit.record(session, "execution.delete", "execution", row.id, entity_name=name, changes=changes)


def _delete_some(storage: Storage, directory: str) -> tuple[int, int]:
    """Deletes up to STEP_OBJECTS objects; returns how many there were and their bytes.

    Raises StorageError when the storage goes on listing what it said it had deleted.
    """
    found = [entry for entry in islice(storage.list(directory), STEP_OBJECTS) if entry.path.startswith(f"{directory}/")]
    if found:
        with ThreadPoolExecutor(STEP_THREADS, thread_name_prefix="delete") as threads:
            list(threads.map(lambda entry: storage.delete(entry.path), found))
        _expect_gone(storage, found[0].path)
    return len(found), sum(entry.size_bytes for entry in found)


def _expect_gone(storage: Storage, path: str) -> None:
    try:
        storage.stat(path)
    except ObjectMissingError:
        return
    raise StorageError(f"{path} is still there after it was deleted", hint="look at the storage's permissions")


def _difference(manifest: Manifest, row: BackupExecution) -> str | None:
    if manifest.execution_id != str(row.id):
        return f"{row.backup_path} holds the backup of another execution, {manifest.execution_id}"
    if row.checksum is not None and manifest.checksum != row.checksum:
        return f"{row.backup_path} holds another backup than the one that was recorded: its checksum differs"
    return None
