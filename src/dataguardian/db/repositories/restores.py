"""Restores and verifications: work on a backup. While one is queued or running it is a lease on its backup."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import select

from dataguardian.db.models import BackupExecution, Restore, Verification
from dataguardian.db.repositories.base import Page
from dataguardian.db.repositories.work import W, WorkRepository
from dataguardian.domain.errors import ConflictError, NotFoundError
from dataguardian.domain.states import ExecutionStatus, WorkStatus


class LeaseRepository(WorkRepository[W]):
    """Work that must not begin on a backup that is going, and that keeps a backup from going."""

    async def insert(self, row: W) -> W:
        """Adds queued work and so takes its lease, in the transaction that checks the backup.

        Raises NotFoundError without the execution, ConflictError when it holds no complete backup.
        """
        held = await self.session.get(
            BackupExecution, row.execution_id, with_for_update={"read": True}, populate_existing=True
        )
        if held is None:
            raise NotFoundError(f"there is no execution {row.execution_id}", hint="a list shows what there is")
        if held.status is not ExecutionStatus.COMPLETED:
            raise ConflictError(
                f"this execution is {held.status}: it holds no complete backup", hint="choose a completed one"
            )
        return await self.add(row)

    async def of_execution(self, execution_id: uuid.UUID, *, page: int, limit: int) -> Page[W]:
        return await self.page(self.model.execution_id == execution_id, page=page, limit=limit)

    async def active_of(self, execution_id: uuid.UUID) -> Sequence[W]:
        """Returns what is queued or running on a backup, the oldest first."""
        active = self.model.status.in_((WorkStatus.QUEUED, WorkStatus.RUNNING))
        return await self.all(self.model.execution_id == execution_id, active)


class RestoreRepository(LeaseRepository[Restore]):
    model = Restore
    noun = "restore"

    async def active_into(self, datasource_id: uuid.UUID) -> Restore | None:
        """Returns the restore into a datasource that is queued or running, if there is one."""
        statement = select(Restore).where(
            Restore.target_datasource_id == datasource_id,
            Restore.status.in_((WorkStatus.QUEUED, WorkStatus.RUNNING)),
        )
        return (await self.session.execute(statement)).scalars().first()


class VerificationRepository(LeaseRepository[Verification]):
    model = Verification
    noun = "verification"

    async def newest_of(self, execution_id: uuid.UUID) -> Verification | None:
        """Returns the last verification of a backup that came to a result."""
        statement = (
            select(Verification)
            .where(Verification.execution_id == execution_id, Verification.status == WorkStatus.COMPLETED)
            .order_by(Verification.created_at.desc(), Verification.id.desc())
            .limit(1)
        )
        return (await self.session.execute(statement)).scalars().first()
