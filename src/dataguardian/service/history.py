"""What happened, for those who look: reading only."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from dataguardian.db.models import (
    BackupExecution,
    BackupJob,
    Datasource,
    ExecutionLog,
    ExecutionTarget,
    HealthCheck,
    NotificationRow,
    Repair,
    Restore,
    StorageLocation,
    Verification,
)
from dataguardian.db.repositories.base import Page
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.lists import Filters, Lists, NotificationFilters
from dataguardian.db.repositories.samples import LastVerification, SampleRepository
from dataguardian.db.repositories.targets import TargetRepository, new_target
from dataguardian.domain.states import HOLDS_A_BACKUP, ExecutionStatus, TargetStatus
from dataguardian.service.context import Context
from dataguardian.service.workkinds import Kind, repository

__all__ = ["Filters", "History", "NotificationFilters"]


class History:
    """Lists are pages, newest first; single rows raise NotFoundError."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def datasources(self, filters: Filters, page: int, limit: int) -> Page[Datasource]:
        async with self._context.db.read() as session:
            return await Lists(session).datasources(filters, page, limit)

    async def storages(self, filters: Filters, page: int, limit: int) -> Page[StorageLocation]:
        async with self._context.db.read() as session:
            return await Lists(session).storages(filters, page, limit)

    async def jobs(self, filters: Filters, page: int, limit: int) -> Page[BackupJob]:
        async with self._context.db.read() as session:
            return await Lists(session).jobs(filters, page, limit)

    async def executions(self, filters: Filters, page: int, limit: int) -> Page[BackupExecution]:
        async with self._context.db.read() as session:
            return await Lists(session).executions(filters, page, limit)

    async def execution(self, execution_id: uuid.UUID) -> BackupExecution:
        async with self._context.db.read() as session:
            return await ExecutionRepository(session).get(execution_id)

    async def targets(self, row: BackupExecution) -> list[ExecutionTarget]:
        """Returns an execution's storage locations, in the job's order; a single one as a row that is not stored."""
        async with self._context.db.read() as session:
            found = list(await TargetRepository(session).of(row.id))
        if found or row.storage_location_id is None or row.started_at is None:
            return found
        held = row.status in HOLDS_A_BACKUP or row.status is ExecutionStatus.DELETING
        status = TargetStatus.STORED if held else TargetStatus.PENDING
        target = new_target(row.id, row.storage_location_id, 0, status, row.created_at)
        target.size_bytes = row.compressed_size_bytes
        return [target]

    async def last_verifications(self, rows: Sequence[BackupExecution]) -> dict[uuid.UUID, LastVerification]:
        """Returns, for those of these backups that were ever verified, the last result."""
        ids = [row.id for row in rows if row.backup_path is not None]
        if not ids:
            return {}
        async with self._context.db.read() as session:
            return await SampleRepository(session).last_of(ids)

    async def works(self, kind: Kind, filters: Filters, page: int, limit: int) -> Page[Restore | Verification | Repair]:
        async with self._context.db.read() as session:
            return await Lists(session).works(repository(session, kind), filters, page, limit)

    async def work(self, kind: Kind, work_id: uuid.UUID) -> Restore | Verification | Repair:
        async with self._context.db.read() as session:
            row: Restore | Verification | Repair = await repository(session, kind).get(work_id)
            return row

    async def checks(self, filters: Filters, page: int, limit: int) -> Page[HealthCheck]:
        async with self._context.db.read() as session:
            return await Lists(session).checks(filters, page, limit)

    async def notifications(self, filters: NotificationFilters, page: int, limit: int) -> Page[NotificationRow]:
        async with self._context.db.read() as session:
            return await Lists(session).notifications(filters, page, limit)

    async def logs(self, owner_id: uuid.UUID, after: int, page: int, limit: int) -> Page[ExecutionLog]:
        """Returns lines of the log of an execution, restore or verification that follow line `after`, oldest first."""
        async with self._context.db.read() as session:
            return await Lists(session).logs(owner_id, after, page, limit)

    async def progress(self, row: BackupExecution | Restore | Verification | Repair) -> dict[str, Any] | None:
        """Returns what running work says of itself; None when it does not run, or the queue server is away."""
        if row.status.value != ExecutionStatus.RUNNING.value:
            return None
        return await self._context.live.get(str(row.id))
