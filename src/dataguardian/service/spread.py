"""Where a finished backup lies, of all the storage locations that it was meant for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution, StorageLocation
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.domain.states import ExecutionStatus, TargetStatus

FIRST_REPAIR = timedelta(minutes=5)
"""So long after the backup, or after a repair that failed; doubled with every further failure."""
LAST_PAUSE = timedelta(hours=6)


@dataclass(frozen=True)
class Spread:
    """The outcome per storage location, in the job's order: (where, state, code and words of what went wrong)."""

    entries: Sequence[tuple[StorageLocation, TargetStatus, str, str]]

    @classmethod
    def of(cls, storages: Sequence[StorageLocation], result: Mapping[str, Any]) -> Spread:
        """Reads what the runner said. A backup to one storage location is stored there."""
        told = result.get("targets") or [{"status": TargetStatus.STORED, "code": "", "message": ""}]
        return cls(
            [
                (storage, TargetStatus(target["status"]), target["code"], target["message"])
                for storage, target in zip(storages, told, strict=True)
            ]
        )

    @property
    def first(self) -> StorageLocation:
        """The first one that holds it."""
        return self._in(TargetStatus.STORED)[0]

    @property
    def status(self) -> ExecutionStatus:
        return ExecutionStatus.PARTIAL if self._in(TargetStatus.BEHIND) else ExecutionStatus.COMPLETED

    @property
    def holding(self) -> list[uuid.UUID]:
        """Ids of those whose directory is the backup's, or is to become it."""
        return [place.id for place in self._in(TargetStatus.STORED) + self._in(TargetStatus.BEHIND)]

    @property
    def where(self) -> str:
        return " and ".join(place.name for place in self._in(TargetStatus.STORED))

    @property
    def troubles(self) -> list[str]:
        """A sentence for each that does not hold it although it was tried."""
        words = {
            TargetStatus.BEHIND: "is behind, and will be repaired by copying",
            TargetStatus.UNUSED: "was passed over",
        }
        return [f"{place.name} {words[status]}: {message}" for place, status, _, message in self.entries if message]

    @property
    def error_message(self) -> str | None:
        if self.status is not ExecutionStatus.PARTIAL:
            return None
        held = len(self._in(TargetStatus.STORED))
        return f"{held} of {len(self.entries)} storage locations hold it. {'; '.join(self.troubles)}"

    async def record(self, session: AsyncSession, row: BackupExecution, size_bytes: int, now: datetime) -> None:
        """Writes the outcome to the rows of the targets. One that was tried in vain may have leftovers."""
        targets = {target.storage_location_id: target for target in await TargetRepository(session).of(row.id)}
        for place, status, code, message in self.entries:
            target = targets.get(place.id)
            if target is None:  # a single storage location has no rows
                continue
            target.status, target.updated_at = status, now
            target.error, target.error_message = code[:50] or None, message or None
            target.size_bytes = size_bytes if status is TargetStatus.STORED else None
            target.next_repair_at = now + FIRST_REPAIR if status is TargetStatus.BEHIND else None
            if status is TargetStatus.UNUSED and code and row.attempt_path is not None:
                ExecutionRepository(session).note_leftover(row.id, place.id, row.attempt_path, "passed over", now)
        await session.flush()

    def _in(self, wanted: TargetStatus) -> list[StorageLocation]:
        return [place for place, status, _, _ in self.entries if status is wanted]


def next_repair(failed_repairs: int, now: datetime) -> datetime:
    """Returns when a target is repaired next after so many failures in a row."""
    return now + min(FIRST_REPAIR * 2.0 ** min(failed_repairs, 20), LAST_PAUSE)
