"""The kinds of work that is done with a backup after it was taken, as rows, queue jobs and claims."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution, Datasource, Repair, Restore, StorageLocation, Verification
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.restores import (
    LeaseRepository,
    RepairRepository,
    RestoreRepository,
    VerificationRepository,
)
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.domain.states import Trigger
from dataguardian.queues.definitions import QueueName

TRIGGER = "trigger"
"""In `metadata`: who wanted it."""

Row = Restore | Verification | Repair


class Kind(StrEnum):
    RESTORE = "restore"
    VERIFICATION = "verification"
    REPAIR = "repair"

    @property
    def queue(self) -> QueueName:
        """Repairs have a queue of their own: a restore must not wait for a backup to be copied."""
        return QueueName.REPAIR if self is Kind.REPAIR else QueueName.RESTORE


@dataclass(frozen=True)
class WorkClaim:
    """Work that is ours to carry out, with everything that the runner must know."""

    kind: Kind
    work_id: uuid.UUID
    attempt: int
    row: Row
    execution: BackupExecution
    storages: tuple[StorageLocation, ...]
    """Those that hold the backup; of a repair, the one that is to get it, and then those that hold it."""
    target: Datasource | None
    """Of a restore: where it goes."""

    @property
    def storage(self) -> StorageLocation:
        return self.storages[0]


def is_scheduled(row: Row) -> bool:
    """Tells whether nobody waits for this: it is of the weekly sample."""
    return isinstance(row, Verification) and row.details.get(TRIGGER) == Trigger.SCHEDULED


def kind_of(row: Row) -> Kind:
    if isinstance(row, Repair):
        return Kind.REPAIR
    return Kind.RESTORE if isinstance(row, Restore) else Kind.VERIFICATION


def repository(session: AsyncSession, kind: Kind) -> LeaseRepository[Any]:
    repositories: dict[Kind, type[LeaseRepository[Any]]] = {
        Kind.RESTORE: RestoreRepository,
        Kind.VERIFICATION: VerificationRepository,
        Kind.REPAIR: RepairRepository,
    }
    return repositories[kind](session)


def queue_job_id(row: Row) -> str:
    """An id that the queue has seen is dead for ever, so every enqueueing has its own."""
    return f"{row.id}-{row.enqueue_number}"


async def storages_of(session: AsyncSession, row: Row, execution: BackupExecution) -> tuple[StorageLocation, ...]:
    """Returns the storage locations of a claim, in its order."""
    holders = await TargetRepository(session).holders(execution)
    if isinstance(row, Repair):
        holders = [row.storage_location_id, *(place for place in holders if place != row.storage_location_id)]
    return tuple([await StorageRepository(session).get(place) for place in holders])
