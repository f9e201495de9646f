"""Numbers about everything: for the overview page and for metrics. None of them loads a row of an execution."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import ScalarSelect, Select, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from dataguardian.db.models import BackupExecution, BackupJob, ExecutionTarget, NotificationRow
from dataguardian.db.recent import Recent
from dataguardian.db.repositories.base import count_of
from dataguardian.db.types import UtcDateTime
from dataguardian.domain.states import HOLDS_A_BACKUP, ExecutionStatus, TargetStatus

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Stored:
    """What one storage location holds, as the catalogue knows it."""

    backups: int
    size_bytes: int


@dataclass(frozen=True)
class JobNumbers:
    """How a job fares. Sizes are bytes and of the last success, as are its times; None when there was none yet.

    `failures` counts the failed executions that the catalogue still knows, `failures_in_row` those since the last
    success: a job with any is failing.
    """

    job_id: uuid.UUID
    name: str
    enabled: bool
    last_success_id: uuid.UUID | None
    last_success_at: datetime | None
    duration_seconds: float | None
    size_bytes: int | None
    compressed_size_bytes: int | None
    failures: int
    failures_in_row: int


class OverviewRepository:
    """A figure over all executions may be some seconds old; see `Recent`."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def counts(self, since: datetime) -> dict[ExecutionStatus, int]:
        """Returns how many executions that were created since then are in which state; states without any too."""
        execution = BackupExecution
        statement = (
            select(execution.status, func.count())
            .where(execution.status.in_(list(ExecutionStatus)), execution.created_at >= since)
            .group_by(execution.status)
        )
        found = {status: count for status, count in await self.session.execute(statement)}  # noqa: C416 -- rows
        return {status: found.get(status, 0) for status in ExecutionStatus}

    async def stored(self) -> Mapping[uuid.UUID, Stored]:
        """Returns what each storage location holds that holds anything."""
        recent: Recent = self.session.info.get("recent") or Recent()
        known: Mapping[uuid.UUID, Stored] | None = recent.get("stored")
        if known is None:
            known = await self._stored()
            recent.put("stored", known)
        return known

    async def jobs(self, *, failing: bool = False) -> Sequence[JobNumbers]:
        """Returns the numbers of all jobs, or of those whose newest run that ended was a failure, by name."""
        rows = [JobNumbers(*row) for row in await self.session.execute(_job_numbers())]
        return [row for row in rows if row.failures_in_row] if failing else rows

    async def unread_notifications(self) -> int:
        return await count_of(self.session, NotificationRow, NotificationRow.read_at.is_(None))

    async def _stored(self) -> dict[uuid.UUID, Stored]:
        # No WHERE: all of it comes from one index in its own order; with one, planners go through the rows instead.
        execution = BackupExecution
        held = execution.status.in_(HOLDS_A_BACKUP)
        backups = func.sum(case((held, 1), else_=0))
        size_bytes = func.sum(case((held, func.coalesce(execution.compressed_size_bytes, 0)), else_=0))
        statement = select(execution.storage_location_id, backups, size_bytes).group_by(execution.storage_location_id)
        rows = await self.session.execute(statement)
        own = {place: Stored(int(count), int(size)) for place, count, size in rows if place is not None and count}
        return await self._with_copies(own)

    async def _with_copies(self, own: dict[uuid.UUID, Stored]) -> dict[uuid.UUID, Stored]:
        """Adds what lies in further storage locations of executions that have several."""
        target, execution = ExecutionTarget, BackupExecution
        statement = (
            select(target.storage_location_id, func.count(), func.sum(func.coalesce(target.size_bytes, 0)))
            .join(execution, execution.id == target.execution_id)
            .where(
                target.status == TargetStatus.STORED,
                target.storage_location_id != execution.storage_location_id,
                execution.status.in_(HOLDS_A_BACKUP),
            )
            .group_by(target.storage_location_id)
        )
        for place, count, size in await self.session.execute(statement):
            before = own.get(place, Stored(0, 0))
            own[place] = Stored(before.backups + int(count), before.size_bytes + int(size))
        return own


@cache  # putting it together takes longer than executing it
def _job_numbers() -> Select[Any]:
    success = aliased(BackupExecution)
    in_row = _failures(success.created_at).label("failures_in_row")
    return (
        select(
            BackupJob.id,
            BackupJob.name,
            BackupJob.enabled,
            success.id,
            success.finished_at,
            success.duration_seconds,
            success.size_bytes,
            success.compressed_size_bytes,
            _failures(None),
            in_row,
        )
        .outerjoin(success, success.id == _last_success())
        .order_by(BackupJob.name)
    )


def _last_success() -> ScalarSelect[Any]:
    execution = aliased(BackupExecution)
    return (
        select(execution.id)
        .where(execution.job_id == BackupJob.id, execution.status == ExecutionStatus.COMPLETED)
        .order_by(execution.created_at.desc(), execution.id.desc())
        .limit(1)
        .correlate(BackupJob)
        .scalar_subquery()
    )


def _failures(since: Any) -> ScalarSelect[Any]:  # noqa: ANN401 -- a column
    execution = aliased(BackupExecution)
    statement = select(func.count()).where(execution.job_id == BackupJob.id, execution.status == ExecutionStatus.FAILED)
    if since is not None:
        statement = statement.where(execution.created_at > func.coalesce(since, literal(_LONG_AGO, UtcDateTime())))
    return statement.correlate_except(execution).scalar_subquery()
