"""What lies in storages: the parts of backups, and directories that attempts which ended badly may have left."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import and_, or_, select

from dataguardian.db.models import AbandonedDirectory, BackupChunk, BackupExecution, ExecutionTarget
from dataguardian.db.repositories.base import Repository
from dataguardian.db.repositories.targets import HOLDING
from dataguardian.domain.states import ACTIVE


class ChunkRepository(Repository[BackupChunk]):
    model = BackupChunk
    noun = "chunk"

    async def after(self, execution_id: uuid.UUID, number: int, limit: int) -> Sequence[BackupChunk]:
        """Returns up to `limit` chunks of an execution that follow chunk `number`, in order."""
        statement = (
            select(BackupChunk)
            .where(BackupChunk.execution_id == execution_id, BackupChunk.chunk_number > number)
            .order_by(BackupChunk.chunk_number)
            .limit(limit)
        )
        return (await self.session.execute(statement)).scalars().all()


class AbandonedRepository(Repository[AbandonedDirectory]):
    model = AbandonedDirectory
    noun = "abandoned directory"

    async def removable(
        self, after: uuid.UUID | None, limit: int, *, storage_location_id: uuid.UUID | None = None
    ) -> Sequence[AbandonedDirectory]:
        """Returns directories that cleanup may remove, by id from after `after`.

        Not among them: those of an execution that is queued or running, which may yet adopt one, and any that a row
        names as its backup. Whoever removes one re-reads its manifest first, and then deletes the row.
        """
        execution, note, target = BackupExecution, AbandonedDirectory, ExecutionTarget
        copy = (
            select(target.id)
            .where(
                target.execution_id == note.execution_id,
                target.storage_location_id == note.storage_location_id,
                target.status.in_(HOLDING),
            )
            .correlate(note)
            .exists()
        )
        here = or_(execution.storage_location_id == note.storage_location_id, copy)
        needed = (
            select(execution.id)
            .where(
                execution.id == note.execution_id,
                or_(execution.status.in_(ACTIVE), and_(execution.backup_path == note.path, here)),
            )
            .exists()
        )
        statement = select(AbandonedDirectory).where(~needed)
        if after is not None:
            statement = statement.where(AbandonedDirectory.id > after)
        if storage_location_id is not None:
            statement = statement.where(AbandonedDirectory.storage_location_id == storage_location_id)
        return (await self.session.execute(statement.order_by(AbandonedDirectory.id).limit(limit))).scalars().all()
