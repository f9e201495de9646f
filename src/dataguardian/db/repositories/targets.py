"""The storage locations of executions that have several, and what each of them holds."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, text, update

from dataguardian.db.models import BackupExecution, ExecutionTarget, Repair
from dataguardian.db.repositories.base import Repository
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import ACTIVE_WORK, HOLDS_A_BACKUP, TargetStatus

IS_BEHIND_HERE = text("execution_targets.status = 'behind'")
"""With the table's name, for queries of several tables; planners take it for the index's own words."""
HOLDING = (TargetStatus.PENDING, TargetStatus.STORED, TargetStatus.BEHIND)
"""Where something of an execution's directory may lie that belongs to it."""


class TargetRepository(Repository[ExecutionTarget]):
    model = ExecutionTarget
    noun = "target"

    async def of(self, execution_id: uuid.UUID, *statuses: TargetStatus) -> Sequence[ExecutionTarget]:
        """Returns an execution's targets in the job's order, or those in one of these states. Locks nothing."""
        where = [ExecutionTarget.execution_id == execution_id]
        if statuses:
            where.append(ExecutionTarget.status.in_(statuses))
        return await self.all(*where, order=(ExecutionTarget.position,))

    async def one(self, execution_id: uuid.UUID, storage_location_id: uuid.UUID) -> ExecutionTarget | None:
        found = await self.all(
            ExecutionTarget.execution_id == execution_id, ExecutionTarget.storage_location_id == storage_location_id
        )
        return found[0] if found else None

    async def holders(self, row: BackupExecution) -> list[uuid.UUID]:
        """Returns the storage locations that hold a whole copy, its own first; one that has no rows has its own."""
        stored = [target.storage_location_id for target in await self.of(row.id, TargetStatus.STORED)]
        own = [row.storage_location_id] if row.storage_location_id is not None else []
        return own + [place for place in stored if place not in own]

    async def places(self, row: BackupExecution) -> list[uuid.UUID]:
        """Returns the storage locations where something of an execution's directory may lie."""
        targets = await self.of(row.id)
        own = [row.storage_location_id] if row.storage_location_id is not None else []
        return [target.storage_location_id for target in targets if target.status in HOLDING] if targets else own

    async def replace(self, execution_id: uuid.UUID, storage_ids: Sequence[uuid.UUID], now: datetime) -> None:
        """Makes these the targets of an attempt that begins; a single one needs no rows."""
        await self.changed(delete(ExecutionTarget).where(ExecutionTarget.execution_id == execution_id))
        if len(storage_ids) > 1:
            self.session.add_all(
                new_target(execution_id, storage_id, position, TargetStatus.PENDING, now)
                for position, storage_id in enumerate(storage_ids)
            )
        await self.session.flush()

    async def release(self, execution_id: uuid.UUID, now: datetime) -> None:
        """Takes note that an execution ended without a backup; what it left is noted elsewhere."""
        statement = update(ExecutionTarget).where(
            ExecutionTarget.execution_id == execution_id, ExecutionTarget.status == TargetStatus.PENDING
        )
        await self.changed(statement.values(status=TargetStatus.UNUSED, updated_at=now))

    async def add_copy(self, row: BackupExecution, found_in: uuid.UUID, now: datetime) -> None:
        """Records that a storage location beside its own holds a backup. One that is behind stays so until a repair."""
        targets = {target.storage_location_id: target for target in await self.of(row.id)}
        for place in (row.storage_location_id, found_in):
            target = targets.get(place) if place is not None else None
            if target is not None and target.status is not TargetStatus.UNUSED:
                continue
            if target is None and place is not None:
                position = max((other.position for other in targets.values()), default=-1) + 1
                target = targets[place] = new_target(row.id, place, position, TargetStatus.STORED, now)
                self.session.add(target)
            if target is not None:
                target.status, target.size_bytes = TargetStatus.STORED, row.compressed_size_bytes
        await self.session.flush()

    async def note_emptied(self, row: BackupExecution, emptied: uuid.UUID) -> None:
        """Takes note that nothing is left of a backup in a storage location: it is unused from now on."""
        statement = update(ExecutionTarget).where(
            ExecutionTarget.execution_id == row.id, ExecutionTarget.storage_location_id == emptied
        )
        await self.changed(statement.values(status=TargetStatus.UNUSED, size_bytes=None, next_repair_at=None))

    async def to_repair(self, now: datetime, limit: int) -> Sequence[ExecutionTarget]:
        """Returns targets of backups that are behind and due for a repair, unless one is queued or running."""
        active = (
            select(Repair.id)
            .where(
                Repair.status.in_(ACTIVE_WORK),
                Repair.execution_id == ExecutionTarget.execution_id,
                Repair.storage_location_id == ExecutionTarget.storage_location_id,
            )
            .exists()
        )
        statement = (
            select(ExecutionTarget)
            .join(BackupExecution, BackupExecution.id == ExecutionTarget.execution_id)
            .where(
                IS_BEHIND_HERE,
                ExecutionTarget.next_repair_at <= now,
                BackupExecution.status.in_(HOLDS_A_BACKUP),
                ~active,
            )
            .order_by(ExecutionTarget.next_repair_at, ExecutionTarget.id)
            .limit(limit)
        )
        return (await self.session.execute(statement)).scalars().all()


def new_target(
    execution_id: uuid.UUID, storage_location_id: uuid.UUID, position: int, status: TargetStatus, now: datetime
) -> ExecutionTarget:
    """Returns a target, not yet stored."""
    return ExecutionTarget(
        id=new_id(now),
        created_at=now,
        updated_at=now,
        execution_id=execution_id,
        storage_location_id=storage_location_id,
        position=position,
        status=status,
        failed_repairs=0,
    )
