"""What goes by age. Each call deletes one batch, so that no write transaction is long; call until it deletes none."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    IS_OWED,
    AbandonedDirectory,
    BackupExecution,
    ExecutionLog,
    HealthCheck,
    NotificationDelivery,
    NotificationRow,
)
from dataguardian.db.repositories.base import Repository
from dataguardian.db.repositories.executions import LEASES
from dataguardian.domain.states import ACTIVE_WORK, ExecutionStatus

BATCH = 1000
HOLD_NOTHING = (ExecutionStatus.FAILED, ExecutionStatus.SKIPPED, ExecutionStatus.CANCELLED)


class Pruning:
    """Every method takes the moment before which rows go, and returns how many went: 0 when there are no more."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def health_checks(self, before: datetime, limit: int = BATCH) -> int:
        return await self._delete(HealthCheck, _oldest(HealthCheck, HealthCheck.checked_at < before, limit=limit))

    async def read_notifications(self, before: datetime, limit: int = BATCH) -> int:
        """Notifications that were read before then, and that no channel is still owed."""
        owed = select(NotificationDelivery.id).where(
            IS_OWED, NotificationDelivery.notification_id == NotificationRow.id
        )
        old = _oldest(NotificationRow, NotificationRow.read_at < before, ~owed.exists(), limit=limit)
        return await self._delete(NotificationRow, old)

    async def executions(self, before: datetime, limit: int = BATCH) -> int:
        """Failed, skipped and cancelled executions that hold nothing, in the catalogue or in a storage; their logs."""
        execution = BackupExecution
        holds = [
            select(AbandonedDirectory.id).where(AbandonedDirectory.execution_id == execution.id).exists(),
            *(select(work.id).where(work.execution_id == execution.id).exists() for work in LEASES),
        ]
        deleted = 0
        for status in HOLD_NOTHING:
            old = _oldest(
                execution,
                execution.status == status,
                execution.created_at < before,
                execution.backup_path.is_(None),
                execution.pinned.is_(False),
                *[~held for held in holds],
                limit=limit - deleted,
            )
            deleted += await self._delete(execution, old, with_logs=True) if deleted < limit else 0
        return deleted

    async def ended_work(self, before: datetime, limit: int = BATCH) -> int:
        """Restores, verifications and repairs that ended, with their logs."""
        deleted = 0
        for work in LEASES:
            old = _oldest(work, work.status.not_in(ACTIVE_WORK), work.created_at < before, limit=limit - deleted)
            deleted += await self._delete(work, old, with_logs=True) if deleted < limit else 0
        return deleted

    async def logs(self, before: datetime, limit: int = BATCH) -> int:
        """Log lines that were written before then, whatever they are of. A line's id tells when it was written."""
        return await self._delete(ExecutionLog, _oldest(ExecutionLog, ExecutionLog.id < first_id(before), limit=limit))

    async def _delete(self, model: type[Any], old: Select[tuple[uuid.UUID]], *, with_logs: bool = False) -> int:
        ids = (await self.session.execute(old)).scalars().all()
        if not ids:
            return 0
        if with_logs:
            await _Rows(self.session).changed(delete(ExecutionLog).where(ExecutionLog.owner_id.in_(ids)))
        return await _Rows(self.session).changed(delete(model).where(model.id.in_(ids)))


class _Rows(Repository[Any]):
    pass


def first_id(moment: datetime) -> uuid.UUID:
    """Returns the smallest UUIDv7 of that moment: ids that are smaller are older."""
    return uuid.UUID(int=int(moment.astimezone(UTC).timestamp() * 1000) << 80 | 0x7 << 76)


def _oldest(model: type[Any], *where: ColumnElement[bool], limit: int) -> Select[tuple[uuid.UUID]]:
    return select(model.id).where(*where).limit(limit)
