"""Every minute: which jobs are due, what is queued for them, and when they are due next."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution, BackupJob
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.domain.cron import parse_schedule
from dataguardian.domain.errors import QueueUnavailableError, UsageError
from dataguardian.domain.states import EntityType, ExecutionStatus, NotificationType, Severity, Trigger
from dataguardian.service.context import Context
from dataguardian.service.events import Events, Pending
from dataguardian.service.executions import Executions, new_execution

BATCH = 100


class Scheduler:
    """Several may run at once: a due job is taken by the transaction that moves its next run, so by one of them."""

    def __init__(self, context: Context, executions: Executions, events: Events) -> None:
        self._context = context
        self._executions = executions
        self._events = events

    async def tick(self) -> int:
        """Queues everything that is due; returns how many executions. Runs missed while the machine was off run once.

        A run that finds the last one still active, or its datasource switched off, is recorded as `skipped`, so that
        every due run is accounted for.
        """
        queued = 0
        while True:
            rows, pending, looked_at = await self._take_due()
            await self._tell(rows, pending)
            queued += len(rows)
            if looked_at < BATCH:
                return queued

    async def _take_due(self) -> tuple[list[BackupExecution], list[Pending], int]:
        """One transaction: inserts the executions of up to BATCH due jobs and moves their next runs."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            jobs = await JobRepository(session).due(now, BATCH)
            active = await ExecutionRepository(session).active_jobs([job.id for job in jobs])
            enabled = await DatasourceRepository(session).enabled_ids({job.datasource_id for job in jobs})
            default = await StorageRepository(session).default()
            rows: list[BackupExecution] = []
            pending: list[Pending] = []
            for job in jobs:
                row = new_execution(job, default.id if default else None, Trigger.SCHEDULED, now)
                row.scheduled_for = job.next_execution_at
                reason = _reason_to_skip(job, row, active, enabled)
                if reason is not None:
                    _skip(row, reason, now)
                    pending += await self._complain(session, job, row, reason)
                session.add(row)
                rows += [row] if reason is None else []
                pending += await self._move(session, job, now)
            await session.flush()
        return rows, pending, len(jobs)

    async def _move(self, session: AsyncSession, job: BackupJob, now: datetime) -> list[Pending]:
        """Sets when a job is due next. One whose schedule this release cannot read must not stop all the others."""
        job.updated_at = now
        try:
            job.next_execution_at = next_run(job.schedule_cron, job.schedule_timezone, now)
        except UsageError as error:
            job.next_execution_at = None
            return await self._alarm(session, job, f"{error.message} The job is not scheduled any more.", {})
        return []

    async def _tell(self, rows: Sequence[BackupExecution], pending: Sequence[Pending]) -> None:
        try:
            await self._executions.enqueue(rows)
        except QueueUnavailableError:
            return  # the rows are committed; the reconciler enqueues them when the queue is back
        await self._events.dispatch(pending)

    async def _complain(
        self, session: AsyncSession, job: BackupJob, row: BackupExecution, reason: str
    ) -> list[Pending]:
        """A job that cannot run for want of a storage is a failure that somebody must hear of; other skips are not."""
        if row.storage_location_id is not None:
            return []
        return await self._alarm(session, job, reason, {"execution_id": str(row.id)})

    async def _alarm(
        self, session: AsyncSession, job: BackupJob, message: str, metadata: dict[str, Any]
    ) -> list[Pending]:
        return await self._events.emit(
            session,
            type=NotificationType.BACKUP_FAILED,
            severity=Severity.CRITICAL,
            entity_type=EntityType.BACKUP_JOB,
            entity_id=job.id,
            title=f"Backup of {job.name} did not run",
            message=message,
            metadata=metadata,
        )


def next_run(expression: str | None, timezone: str, now: datetime) -> datetime | None:
    """Returns when a job is due next, strictly after `now`; None for jobs that only people start."""
    return None if expression is None else parse_schedule(expression, timezone).next_after(now)


def _reason_to_skip(
    job: BackupJob, row: BackupExecution, active: dict[uuid.UUID, uuid.UUID], enabled: set[uuid.UUID]
) -> str | None:
    if row.storage_location_id is None:
        return "The job has no storage location, and none is the default. Give it one, or make one the default."
    if job.datasource_id not in enabled:
        return "The datasource is switched off."
    if job.id in active:
        return f"The execution {active[job.id]} was still active."
    return None


def _skip(row: BackupExecution, reason: str, now: datetime) -> None:
    row.status = ExecutionStatus.SKIPPED
    row.finished_at = now
    row.error_message = reason
