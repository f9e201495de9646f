"""What cleanup asks the catalogue: which backups a job has, and what belongs to one that goes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import delete, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    IS_ACTIVE,
    AbandonedDirectory,
    BackupExecution,
    BackupJob,
    ExecutionLog,
    ExecutionTarget,
)
from dataguardian.db.repositories.executions import LEASES
from dataguardian.db.repositories.targets import HOLDING
from dataguardian.domain.states import ACTIVE_WORK, HOLDS_A_BACKUP, ExecutionStatus

STREAM_ROWS = 1000


@dataclass(frozen=True, slots=True)
class BackupView:
    """What retention needs of a backup."""

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
        """Streams the backups of a job, newest first; partial ones, which can be restored, too."""
        statement = (
            select(
                BackupExecution.id,
                BackupExecution.created_at,
                BackupExecution.pinned,
                BackupExecution.compressed_size_bytes,
            )
            .where(BackupExecution.job_id == job_id, BackupExecution.status.in_(HOLDS_A_BACKUP))
            .order_by(BackupExecution.created_at.desc(), BackupExecution.id.desc())
        )
        found = await self.session.stream(statement, execution_options={"yield_per": STREAM_ROWS})
        async for rows in found.partitions():
            for row_id, created_at, pinned, stored_bytes in rows:
                yield BackupView(row_id, created_at, pinned, stored_bytes or 0)

    async def half_deleted(self, job_id: uuid.UUID) -> Sequence[uuid.UUID]:
        """Returns the executions of a job whose deletion began and did not end."""
        statement = select(BackupExecution.id).where(
            BackupExecution.job_id == job_id, BackupExecution.status == ExecutionStatus.DELETING
        )
        return (await self.session.execute(statement)).scalars().all()

    async def is_leased(self, execution_id: uuid.UUID) -> bool:
        """Tells whether a restore, verification or repair of this backup is queued or running."""
        for work in LEASES:
            leased = select(work.id).where(work.execution_id == execution_id, work.status.in_(ACTIVE_WORK)).limit(1)
            if (await self.session.execute(leased)).first() is not None:
                return True
        return False

    async def forget(self, execution_id: uuid.UUID) -> bool:
        """Deletes an execution whose objects are gone, with its chunks, logs, targets and ended work.

        Returns whether there was one; of two cleanups only one gets True.
        """
        for work in LEASES:
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
        # Not narrowed to the storage: SQLite would then go through everything that it holds.
        execution, note, target = BackupExecution, AbandonedDirectory, ExecutionTarget
        active = (
            select(execution.id, execution.attempt_path).where(IS_ACTIVE, execution.attempt_path.in_(paths)).subquery()
        )
        copies = select(execution.backup_path, target.storage_location_id).join(
            target, target.execution_id == execution.id
        )
        statements = (
            copies.where(execution.backup_path.in_(paths), target.status.in_(HOLDING)),
            select(active.c.attempt_path, target.storage_location_id).join(target, target.execution_id == active.c.id),
            select(execution.backup_path, execution.storage_location_id).where(execution.backup_path.in_(paths)),
            select(execution.attempt_path, execution.storage_location_id).where(
                IS_ACTIVE, execution.attempt_path.in_(paths)
            ),
            select(note.path, note.storage_location_id).where(note.path.in_(paths)),
        )
        found = [row for statement in statements for row in await self.session.execute(statement)]
        return {path for path, place in found if path is not None and place == storage_id}

    async def notes_of(self, execution_id: uuid.UUID) -> Sequence[AbandonedDirectory]:
        """Returns the directories that attempts of an execution may have left."""
        statement = select(AbandonedDirectory).where(AbandonedDirectory.execution_id == execution_id)
        return (await self.session.execute(statement.order_by(AbandonedDirectory.id))).scalars().all()

    async def names_backup(self, note: AbandonedDirectory) -> bool:
        """Tells whether an execution calls this directory, in this storage location, its backup or a copy of it."""
        execution, target = BackupExecution, ExecutionTarget
        own = select(execution.storage_location_id).where(execution.backup_path == note.path)
        copies = select(target.storage_location_id).join(execution, execution.id == target.execution_id)
        copies = copies.where(execution.backup_path == note.path, target.status.in_(HOLDING))
        held = [place for statement in (own, copies) for place in (await self.session.execute(statement)).scalars()]
        return note.storage_location_id in held

    async def _deleted(self, statement: Any) -> int:  # noqa: ANN401 -- any DELETE
        result = await self.session.execute(statement, execution_options={"synchronize_session": False})
        return cast("CursorResult[Any]", result).rowcount
