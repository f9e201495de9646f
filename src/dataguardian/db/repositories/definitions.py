"""Datasources and storage locations: what people define."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    AbandonedDirectory,
    BackupExecution,
    BackupJob,
    Datasource,
    ExecutionTarget,
    Restore,
    StorageLocation,
)
from dataguardian.db.repositories.base import Repository, count_of


class DatasourceRepository(Repository[Datasource]):
    model = Datasource
    noun = "datasource"

    async def enabled_ids(self, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Returns those of `ids` that are switched on."""
        statement = select(Datasource.id).where(Datasource.id.in_(ids), Datasource.enabled.is_(True))
        return set((await self.session.execute(statement)).scalars())

    async def uses_of(self, datasource_id: uuid.UUID) -> dict[str, int | list[str]]:
        """Returns what keeps a datasource from being deleted: names of jobs, numbers of executions and restores."""
        return {
            "backup jobs": await names_of_jobs(self.session, BackupJob.datasource_id == datasource_id),
            "executions": await count_of(self.session, BackupExecution, BackupExecution.datasource_id == datasource_id),
            "restores": await count_of(self.session, Restore, Restore.target_datasource_id == datasource_id),
        }


class StorageRepository(Repository[StorageLocation]):
    model = StorageLocation
    noun = "storage location"

    async def default(self) -> StorageLocation | None:
        """Returns the one that jobs without a storage location use; at most one row is marked so."""
        statement = select(StorageLocation).where(StorageLocation.is_default.is_(True))
        return (await self.session.execute(statement)).scalars().first()

    async def clear_default(self, now: datetime) -> None:
        """Makes no storage location the default, so that another one can become it in this transaction."""
        statement = update(StorageLocation).where(StorageLocation.is_default.is_(True))
        await self.changed(statement.values(is_default=False, updated_at=now))

    async def uses_of(self, storage_location_id: uuid.UUID) -> dict[str, int | list[str]]:
        """Returns what keeps a storage location from being deleted. Directories are what cleanup must still remove."""
        execution, target, directory = BackupExecution, ExecutionTarget, AbandonedDirectory
        jobs = await names_of_jobs(self.session, BackupJob.storage_location_id == storage_location_id)
        own = await count_of(self.session, execution, execution.storage_location_id == storage_location_id)
        copies = (
            target.storage_location_id == storage_location_id,
            ~select(execution.id)
            .where(execution.id == target.execution_id, execution.storage_location_id == storage_location_id)
            .correlate(target)
            .exists(),
        )
        return {
            "backup jobs": sorted({*jobs, *await self._replicating(storage_location_id)}),
            "executions": own + await count_of(self.session, target, *copies),
            "abandoned directories": await count_of(
                self.session, directory, directory.storage_location_id == storage_location_id
            ),
        }

    async def _replicating(self, storage_location_id: uuid.UUID) -> list[str]:
        """Returns the names of jobs that have it among their further storage locations."""
        rows = await self.session.execute(select(BackupJob.name, BackupJob.backup_options))
        return [name for name, options in rows if str(storage_location_id) in options.get("storage_targets", ())]


async def names_of_jobs(session: AsyncSession, where: ColumnElement[bool]) -> list[str]:
    statement = select(BackupJob.name).where(where).order_by(BackupJob.name)
    return list((await session.execute(statement)).scalars())
