"""Restores, verifications and repairs: work on a backup. While one is queued or running it is a lease on its backup."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import select

from dataguardian.db.models import Repair, Restore, Verification
from dataguardian.db.repositories.base import Page
from dataguardian.db.repositories.work import W, WorkRepository
from dataguardian.domain.states import WorkStatus


class LeaseRepository(WorkRepository[W]):
    """Work that keeps a backup from going. Add one in the transaction that locked its execution and found it completed:
    a deletion takes that lock, too, and so sees the work or is seen by it.
    """

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


class RepairRepository(LeaseRepository[Repair]):
    model = Repair
    noun = "repair"

    async def active_on(self, execution_id: uuid.UUID, storage_location_id: uuid.UUID) -> Repair | None:
        """Returns the repair of a backup in a storage location that is queued or running, if there is one."""
        statement = select(Repair).where(
            Repair.execution_id == execution_id,
            Repair.storage_location_id == storage_location_id,
            Repair.status.in_((WorkStatus.QUEUED, WorkStatus.RUNNING)),
        )
        return (await self.session.execute(statement)).scalars().first()
