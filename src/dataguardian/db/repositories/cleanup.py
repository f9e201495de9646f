"""What cleanup asks the catalogue: which backups a job has, what was abandoned, and what is old enough to go."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, delete, exists, or_, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    AbandonedDirectory,
    BackupExecution,
    BackupJob,
    ExecutionLog,
    HealthCheck,
    NotificationRow,
    Restore,
    Verification,
)
from dataguardian.db.repositories.base import Repository
from dataguardian.db.repositories.executions import ACTIVE_WORK
from dataguardian.domain.states import ACTIVE, ExecutionStatus

STREAM_ROWS = 1000
PRUNED_STATES = (ExecutionStatus.FAILED, ExecutionStatus.SKIPPED, ExecutionStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class BackupView:
    """What retention needs of a completed backup."""

    id: uuid.UUID
    created_at: datetime
    pinned: bool
    stored_bytes: int


class CleanupRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def job_ids(self) -> Sequence[uuid.UUID]:
        return (await self.session.execute(select(BackupJob.id).order_by(BackupJob.id))).scalars().all()

    async def backups_of(self, job_id: uuid.UUID) -> AsyncIterator[BackupView]:
        """Streams the completed backups of a job, newest first."""
        statement = (
            select(
                BackupExecution.id,
                BackupExecution.created_at,
                BackupExecution.pinned,
                BackupExecution.compressed_size_bytes,
            )
            .where(BackupExecution.job_id == job_id, BackupExecution.status == ExecutionStatus.COMPLETED)
            .order_by(BackupExecution.created_at.desc(), BackupExecution.id.desc())
        )
        found = await self.session.stream(statement, execution_options={"yield_per": STREAM_ROWS})
        async for row_id, created_at, pinned, stored_bytes in found.tuples():
            yield BackupView(row_id, created_at, pinned, stored_bytes or 0)

    async def half_deleted(self, job_id: uuid.UUID) -> Sequence[uuid.UUID]:
        """Returns the executions of a job whose deletion began and did not end."""
        statement = select(BackupExecution.id).where(
            BackupExecution.job_id == job_id, BackupExecution.status == ExecutionStatus.DELETING
        )
        return (await self.session.execute(statement)).scalars().all()

    async def is_leased(self, execution_id: uuid.UUID) -> bool:
        """Tells whether a restore or verification of this backup is queued or running."""
        for work in (Restore, Verification):
            leased = select(work.id).where(work.execution_id == execution_id, work.status.in_(ACTIVE_WORK)).limit(1)
            if (await self.session.execute(leased)).first() is not None:
                return True
        return False

    async def forget(self, execution_id: uuid.UUID) -> bool:
        """Deletes an execution whose objects are gone, with its chunks, logs and ended restores and verifications.

        Returns whether there was one; of two cleanups only one gets True.
        """
        for work in (Restore, Verification):
            ended = select(work.id).where(work.execution_id == execution_id)
            await self._deleted(delete(ExecutionLog).where(ExecutionLog.owner_id.in_(ended)))
            await self._deleted(delete(work).where(work.execution_id == execution_id))
        await self._deleted(delete(ExecutionLog).where(ExecutionLog.owner_id == execution_id))
        statement = delete(BackupExecution).where(
            BackupExecution.id == execution_id, BackupExecution.status == ExecutionStatus.DELETING
        )
        return bool(await self._deleted(statement))

    async def known_paths(self, storage_id: uuid.UUID, paths: Collection[str]) -> set[str]:
        """Returns those of `paths` in a storage location that the catalogue has an execution or a note of."""
        rows = (BackupExecution.backup_path, BackupExecution.attempt_path)
        found: set[str] = set()
        for column in rows:
            statement = select(column).where(BackupExecution.storage_location_id == storage_id, column.in_(paths))
            found.update(path for path in (await self.session.execute(statement)).scalars() if path)
        noted = select(AbandonedDirectory.path).where(
            AbandonedDirectory.storage_location_id == storage_id, AbandonedDirectory.path.in_(paths)
        )
        return found | set((await self.session.execute(noted)).scalars())

    async def _deleted(self, statement: Any) -> int:  # noqa: ANN401 -- any DELETE
        result = await self.session.execute(statement, execution_options={"synchronize_session": False})
        return cast("CursorResult[Any]", result).rowcount


class AbandonedRepository(Repository[AbandonedDirectory]):
    model = AbandonedDirectory
    noun = "abandoned directory"

    async def removable(self, after: uuid.UUID | None, limit: int) -> Sequence[AbandonedDirectory]:
        """Returns, by id from after `after`, those whose execution is neither queued nor running any more.

        An active one may still adopt what an earlier attempt left.
        """
        active = exists().where(
            BackupExecution.id == AbandonedDirectory.execution_id, BackupExecution.status.in_(ACTIVE)
        )
        statement = select(AbandonedDirectory).where(~active)
        if after is not None:
            statement = statement.where(AbandonedDirectory.id > after)
        return (await self.session.execute(statement.order_by(AbandonedDirectory.id).limit(limit))).scalars().all()

    async def of(self, execution_id: uuid.UUID) -> Sequence[AbandonedDirectory]:
        return await self.all(AbandonedDirectory.execution_id == execution_id)

    async def names_backup(self, row: AbandonedDirectory) -> bool:
        """Tells whether an execution calls this directory its backup."""
        statement = select(BackupExecution.id).where(
            BackupExecution.storage_location_id == row.storage_location_id, BackupExecution.backup_path == row.path
        )
        return (await self.session.execute(statement.limit(1))).first() is not None


class PruningRepository:
    """Old rows, in batches: each call is one short transaction's worth and returns how many rows went."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def health(self, before: datetime, limit: int) -> int:
        return await self._prune(HealthCheck, limit, HealthCheck.checked_at < before)

    async def read_notifications(self, before: datetime, limit: int) -> int:
        return await self._prune(NotificationRow, limit, NotificationRow.read_at < before)

    async def logs(self, before: uuid.UUID, limit: int) -> int:
        """Log lines are told by their ids, which begin with their time: no index of their own is needed."""
        return await self._prune(ExecutionLog, limit, ExecutionLog.id < before)

    async def executions(self, before: datetime, limit: int) -> int:
        """Failed, skipped and cancelled ones, unless something of them may still lie in a storage."""
        leftovers = [
            exists().where(AbandonedDirectory.execution_id == BackupExecution.id),
            exists().where(Restore.execution_id == BackupExecution.id),
            exists().where(Verification.execution_id == BackupExecution.id),
        ]
        return await self._prune(
            BackupExecution,
            limit,
            BackupExecution.status.in_(PRUNED_STATES),
            BackupExecution.created_at < before,
            BackupExecution.pinned.is_(False),
            ~or_(*leftovers),
        )

    async def _prune(self, model: Any, limit: int, *where: ColumnElement[bool]) -> int:  # noqa: ANN401 -- a table's class
        chosen = select(model.id).where(*where).limit(limit)
        statement = delete(model).where(model.id.in_(chosen))
        result = await self.session.execute(statement, execution_options={"synchronize_session": False})
        return cast("CursorResult[Any]", result).rowcount
