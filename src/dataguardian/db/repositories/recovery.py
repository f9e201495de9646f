"""What the recovery kit and the proofs of keys look for."""

from __future__ import annotations

import uuid

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution
from dataguardian.db.repositories.samples import SampleRepository
from dataguardian.domain.states import HOLDS_A_BACKUP

LOOKED_AT = 20
"""Of a job whose newest backups are all damaged, no more than these are looked at."""


class RecoveryRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def newest_good(self, job_id: uuid.UUID) -> BackupExecution | None:
        """Returns the newest backup of a job whose last verification, if there is one, did not find it damaged."""
        found: list[BackupExecution] = []
        for status in HOLDS_A_BACKUP:  # each from the end of an index
            statement = (
                select(BackupExecution)
                .where(BackupExecution.job_id == job_id, BackupExecution.status == status)
                .order_by(BackupExecution.created_at.desc(), BackupExecution.id.desc())
                .limit(LOOKED_AT)
            )
            found += (await self.session.execute(statement)).scalars()
        found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        last = await SampleRepository(self.session).last_of([row.id for row in found])
        return next((row for row in found if row.id not in last or last[row.id].ok is not False), None)
