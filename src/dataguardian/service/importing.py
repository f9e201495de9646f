"""Backups that the catalogue does not know: found by their manifests alone.

A catalogue that was restored from its own backup is older than the storages. What was made since then is imported
before anything may be reconciled or cleaned up; the self-backup, which holds its own row as `running`, is completed
this way.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.catalog import Backup, Listing, list_backups, load_backup
from dataguardian.db.models import BackupExecution, StorageLocation
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.db.session import fingerprint
from dataguardian.domain.errors import DataGuardianError, IntegrityError, ObjectMissingError
from dataguardian.domain.states import HOLDS_A_BACKUP, ExecutionStatus, Trigger
from dataguardian.service.context import Context
from dataguardian.service.executions import TRIES, details_of
from dataguardian.service.home import forget_note, noted_backup
from dataguardian.service.removal import open_storage
from dataguardian.storage.base import Storage

SETTING = "catalogue"
_RECORDED = (ExecutionStatus.COMPLETED, ExecutionStatus.PARTIAL, ExecutionStatus.DELETING)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Imported:
    """How many backups became known, and which storages could not be read."""

    backups: int
    unreadable: tuple[str, ...]


class Importer:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def after_restore(self) -> Imported | None:
        """Imports when this catalogue was restored or moved since the last start; None when it was not.

        It is another file or database then, or it does not know the newest backup that this home recorded: somebody
        put an older content into the same file. When a storage cannot be read the import is tried again at the next
        start.
        """
        async with self._context.db.read() as session:
            found = await fingerprint(session, self._context.home_id)
            known = await SettingRepository(session).value(SETTING)
        behind = await self._is_behind()
        if known == {"fingerprint": found} and not behind:
            return None
        imported = await self.run() if known is not None else None
        if imported is None or not imported.unreadable:
            async with self._context.db.write() as session:
                now = self._context.clock.now()
                text = "Tells whether this catalogue was restored or moved since the last start"
                await SettingRepository(session).put(SETTING, {"fingerprint": found}, text, now)
            await asyncio.to_thread(forget_note, self._context.settings.home)
        return imported

    async def _is_behind(self) -> bool:
        noted = await asyncio.to_thread(noted_backup, self._context.settings.home)
        if noted is None:
            return False
        async with self._context.db.read() as session:
            row = await ExecutionRepository(session).find(noted)
        return row is None or row.status not in _RECORDED

    async def run(self) -> Imported:
        """Reads every storage location and records what the catalogue does not know."""
        async with self._context.db.read() as session:
            locations = await StorageRepository(session).all()
        count, unreadable = 0, []
        for location in locations:
            try:
                count += await self._import_from(location)
            except DataGuardianError as error:
                log.warning("a storage could not be read for the import", storage=location.name, message=error.message)
                unreadable.append(location.name)
        return Imported(count, tuple(unreadable))

    async def _import_from(self, location: StorageLocation) -> int:
        storage = open_storage(location, self._context.vault)
        listing: Listing = await asyncio.to_thread(list_backups, storage)
        count = 0
        for directory, manifest in listing.backups:
            try:
                async with self._context.db.read() as session:
                    row = await ExecutionRepository(session).find(_uuid(manifest.execution_id))
                if row is not None and row.status in _RECORDED:
                    await self._note_copy(row, directory, manifest.checksum, location)
                    continue
                count += await self._record(storage, directory, location)
            except (IntegrityError, ObjectMissingError) as error:  # the others must not suffer from it
                log.warning("a damaged backup was not imported", backup=directory, message=error.message)
            except (ValueError, StatementError) as error:  # text that no catalogue can hold: NUL, halves of surrogates
                log.warning("a backup was not imported", backup=directory, message=type(error).__name__)
        return count

    async def _note_copy(self, row: BackupExecution, directory: str, checksum: str, location: StorageLocation) -> None:
        """Records that a backup which is known lies in this storage location, too."""
        known = row.storage_location_id
        if known in (None, location.id) or (row.backup_path, row.checksum) != (directory, checksum):
            return
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await ExecutionRepository(session).locked(row.id)
            if row.status in HOLDS_A_BACKUP and row.storage_location_id == known:
                await TargetRepository(session).add_copy(row, location.id, now)

    async def _record(self, storage: Storage, directory: str, location: StorageLocation) -> int:
        backup = await asyncio.to_thread(load_backup, storage, directory)
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await self._found(session, backup) or await self._new_row(session, backup, location, now)
            if row is None or row.status in _RECORDED:
                return 0
            row.storage_location_id = location.id
            _complete(row, backup, now)
            await session.flush()
            await executions.add_chunks(
                row.id, [(part.path, part.stored_size_bytes, part.stored_sha256) for part in backup.parts], now
            )
            await executions.forget_directory(row.id, directory)
        return 1

    async def _found(self, session: AsyncSession, backup: Backup) -> BackupExecution | None:
        return await ExecutionRepository(session).find_locked(_uuid(backup.manifest.execution_id))

    async def _new_row(
        self, session: AsyncSession, backup: Backup, location: StorageLocation, now: datetime
    ) -> BackupExecution | None:
        """A backup belongs to the job of its name; one of a job that is not there is reported and left alone.

        The job is locked, so that of two processes that import at once the second sees what the first one did.
        """
        job = await JobRepository(session).by_name(backup.manifest.name)
        if job is None:
            log.info("a backup of an unknown job was left alone", backup=backup.directory, storage=location.name)
            return None
        await JobRepository(session).locked(job.id)
        if (known := await self._found(session, backup)) is not None:
            return known
        row = BackupExecution(
            id=_uuid(backup.manifest.execution_id),
            created_at=datetime.fromisoformat(backup.manifest.started_at),
            updated_at=now,
            job_id=job.id,
            datasource_id=job.datasource_id,
            storage_location_id=location.id,
            status=ExecutionStatus.CANCELLED,  # until everything else is known, too
            trigger=Trigger.SCHEDULED,
            backup_type=backup.manifest.backup_type,
            details={},
            pinned=False,
            attempt=backup.manifest.attempt,
            tries_left=TRIES - 1,
            enqueue_number=1,
            cancel_requested=False,
        )
        session.add(row)
        return row


def _complete(row: BackupExecution, backup: Backup, now: datetime) -> None:
    manifest = backup.manifest
    row.status = ExecutionStatus.COMPLETED
    row.started_at = datetime.fromisoformat(manifest.started_at)
    row.finished_at = datetime.fromisoformat(manifest.finished_at)
    row.duration_seconds = manifest.duration_seconds
    row.size_bytes = manifest.size_bytes
    row.compressed_size_bytes = manifest.compressed_size_bytes
    row.backup_path = backup.directory
    row.checksum = manifest.checksum
    row.details = details_of(manifest.model_dump(mode="json"), adopted=False) | {"imported": True}
    row.error_code = row.error_message = row.error_stack = row.attempt_path = row.worker = row.lease_until = None
    row.updated_at = now


def _uuid(text: str) -> uuid.UUID:
    """Ids of the command line's backups are UUIDs too; anything else gets a stable one of its own."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, text)
