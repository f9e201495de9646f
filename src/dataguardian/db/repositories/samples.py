"""Which backups are verified when: what the weekly sample chooses from, and when each was verified last."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution, Verification
from dataguardian.domain.states import HOLDS_A_BACKUP, WorkStatus

SKEW = timedelta(days=1)
"""A row of a later time was written by a clock that was wrong, and would count for ever."""


@dataclass(frozen=True)
class Tally:
    """How many verifications of one storage's backups came to a result, go on, or could not be made."""

    completed: int = 0
    active: int = 0
    failed: int = 0


@dataclass(frozen=True)
class LastVerification:
    """The newest verification of a backup that came to a result."""

    at: datetime | None
    ok: bool | None


class SampleRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def backups_by_storage(self) -> dict[uuid.UUID, int]:
        """Returns how many backups each storage location holds."""
        statement = (
            select(BackupExecution.storage_location_id, func.count())
            .where(*_verifiable(), BackupExecution.storage_location_id.is_not(None))
            .group_by(BackupExecution.storage_location_id)
        )
        return {storage_id: count for storage_id, count in await self.session.execute(statement) if storage_id}

    async def tallies(self, since: datetime, now: datetime) -> dict[uuid.UUID, Tally]:
        """Counts, by storage location, the verifications that were asked for since then, by whomever."""
        statement = (
            select(BackupExecution.storage_location_id, Verification.status, func.count())
            .join(BackupExecution, BackupExecution.id == Verification.execution_id)
            .where(Verification.created_at.between(since, now + SKEW), BackupExecution.storage_location_id.is_not(None))
            .group_by(BackupExecution.storage_location_id, Verification.status)
        )
        found: dict[uuid.UUID, dict[WorkStatus, int]] = {}
        for storage_id, status, count in await self.session.execute(statement):
            if storage_id is not None:
                found.setdefault(storage_id, {})[status] = count
        return {
            storage_id: Tally(
                completed=counts.get(WorkStatus.COMPLETED, 0),
                active=counts.get(WorkStatus.QUEUED, 0) + counts.get(WorkStatus.RUNNING, 0),
                failed=counts.get(WorkStatus.FAILED, 0),
            )
            for storage_id, counts in found.items()
        }

    async def longest_unverified(
        self, storage_id: uuid.UUID, since: datetime, now: datetime, limit: int
    ) -> Sequence[uuid.UUID]:
        """Returns backups of a storage that nobody asked to verify since then: those that never were verified first,
        the oldest before the others, then those whose last verification is the longest ago.
        """
        last = (
            select(Verification.execution_id, func.max(Verification.finished_at).label("at"))
            .where(Verification.status == WorkStatus.COMPLETED)
            .group_by(Verification.execution_id)
            .subquery()
        )
        asked = (
            select(Verification.id)
            .where(Verification.execution_id == BackupExecution.id, Verification.created_at.between(since, now + SKEW))
            .exists()
        )
        statement = (
            select(BackupExecution.id)
            .outerjoin(last, last.c.execution_id == BackupExecution.id)
            .where(*_verifiable(), BackupExecution.storage_location_id == storage_id, ~asked)
            .order_by(last.c.at.is_not(None), last.c.at, BackupExecution.created_at, BackupExecution.id)
            .limit(limit)
        )
        return (await self.session.execute(statement)).scalars().all()

    async def last_of(self, execution_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, LastVerification]:
        """Returns the last result for those of these backups that were ever verified."""
        statement = (
            select(Verification.execution_id, Verification.finished_at, Verification.ok)
            .where(Verification.execution_id.in_(execution_ids), Verification.status == WorkStatus.COMPLETED)
            .order_by(Verification.finished_at, Verification.id)
        )
        rows = await self.session.execute(statement)
        return {execution_id: LastVerification(at, ok) for execution_id, at, ok in rows}


def _verifiable() -> tuple[ColumnElement[bool], ...]:
    return (BackupExecution.status.in_(HOLDS_A_BACKUP), BackupExecution.backup_path.is_not(None))
