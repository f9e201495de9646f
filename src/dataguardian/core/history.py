"""What happened, for those who look: reading only."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from dataguardian.core.context import Context
from dataguardian.core.work import Kind, repository
from dataguardian.db.models import (
    BackupExecution,
    BackupJob,
    Datasource,
    ExecutionLog,
    HealthCheck,
    NotificationRow,
    Restore,
    StorageLocation,
    Verification,
)
from dataguardian.db.repositories.base import Page
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.lists import Filters, Lists, NotificationFilters
from dataguardian.db.repositories.samples import LastVerification, SampleRepository
from dataguardian.domain.states import ExecutionStatus

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

    async def last_verifications(self, rows: Sequence[BackupExecution]) -> dict[uuid.UUID, LastVerification]:
        """Returns, for those of these backups that were ever verified, the last result."""
        ids = [row.id for row in rows if row.backup_path is not None]
        if not ids:
            return {}
        async with self._context.db.read() as session:
            return await SampleRepository(session).last_of(ids)

    async def works(self, kind: Kind, filters: Filters, page: int, limit: int) -> Page[Restore | Verification]:
        async with self._context.db.read() as session:
            return await Lists(session).works(repository(session, kind), filters, page, limit)

    async def work(self, kind: Kind, work_id: uuid.UUID) -> Restore | Verification:
        async with self._context.db.read() as session:
            row: Restore | Verification = await repository(session, kind).get(work_id)
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

    async def progress(self, row: BackupExecution | Restore | Verification) -> dict[str, Any] | None:
        """Returns what running work says of itself; None when it does not run, or the queue server is away."""
        if row.status.value != ExecutionStatus.RUNNING.value:
            return None
        return await self._context.live.get(str(row.id))
