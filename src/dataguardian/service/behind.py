"""What the catalogue says of a storage location that must hold a backup: that it fell behind, or caught up."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution, ExecutionTarget, Repair, StorageLocation
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.domain.states import (
    HOLDS_A_BACKUP,
    EntityType,
    ExecutionStatus,
    NotificationType,
    Severity,
    TargetStatus,
)
from dataguardian.service.events import Events, Pending
from dataguardian.service.spread import FIRST_REPAIR, next_repair

DAMAGED = "damaged"


async def note_repaired(session: AsyncSession, events: Events, repair: Repair, now: datetime) -> list[Pending]:
    """The target holds the backup; when all do, the execution is completed, and whoever was told of it hears so."""
    execution = await ExecutionRepository(session).locked(repair.execution_id)
    targets = TargetRepository(session)
    target = await targets.one(repair.execution_id, repair.storage_location_id)
    if target is None:
        return []
    target.status, target.updated_at = TargetStatus.STORED, now
    target.error = target.error_message = target.next_repair_at = None
    target.size_bytes, target.failed_repairs = execution.compressed_size_bytes, 0
    await session.flush()
    if execution.status is not ExecutionStatus.PARTIAL or await targets.of(execution.id, TargetStatus.BEHIND):
        return []
    execution.status, execution.updated_at = ExecutionStatus.COMPLETED, now
    execution.error_code = execution.error_message = None
    place = await StorageRepository(session).get(repair.storage_location_id)
    job = await JobRepository(session).find(execution.job_id) if execution.job_id else None
    return await events.emit(
        session,
        type=NotificationType.BACKUP_SUCCESS,
        severity=Severity.INFO,
        entity_type=EntityType.BACKUP_JOB,
        entity_id=execution.job_id,
        title=f"Backup of {job.name if job else 'a deleted job'} is complete",
        message=f"It was partial, and was copied to {place.name}: all storage locations hold it now.",
        metadata={"execution_id": str(execution.id), "repair_id": str(repair.id)},
    )


async def note_unrepaired(session: AsyncSession, repair: Repair, now: datetime) -> None:
    """A repair ended without its backup being there: the next one comes later and later."""
    target = await TargetRepository(session).one(repair.execution_id, repair.storage_location_id)
    if target is None or target.status is not TargetStatus.BEHIND:
        return
    target.failed_repairs += 1
    target.next_repair_at, target.updated_at = next_repair(target.failed_repairs, now), now
    if repair.error_message:
        target.error_message = repair.error_message


async def note_damage(
    session: AsyncSession,
    execution_id: uuid.UUID,
    storages: Sequence[StorageLocation],
    told: Sequence[Mapping[str, Any]],
    now: datetime,
) -> None:
    """Takes in what a verification found in each of several copies: a damaged one is behind when another is good."""
    found = list(zip(storages, told, strict=False))
    good = [storage for storage, copy in found if copy["ok"]]
    if not good or all(copy["ok"] is not False for _, copy in found):
        return
    execution = await ExecutionRepository(session).locked(execution_id)
    if execution.status not in HOLDS_A_BACKUP:
        return
    for storage, copy in found:
        target = await TargetRepository(session).one(execution_id, storage.id)
        if copy["ok"] is False and target is not None:
            _fall_behind(target, copy["message"], now)
    execution.storage_location_id = good[0].id
    execution.status, execution.updated_at = ExecutionStatus.PARTIAL, now
    execution.error_code = "damaged"
    execution.error_message = _damaged(execution, [storage for storage, copy in found if copy["ok"] is False])
    await session.flush()


def _fall_behind(target: ExecutionTarget, message: str, now: datetime) -> None:
    target.status, target.updated_at = TargetStatus.BEHIND, now
    target.error, target.error_message = DAMAGED, message
    target.size_bytes, target.next_repair_at = None, now + FIRST_REPAIR


def _damaged(execution: BackupExecution, storages: Sequence[StorageLocation]) -> str:
    names = " and ".join(storage.name for storage in storages)
    return f"{execution.backup_path} was found damaged in {names}, and will be repaired by copying"
