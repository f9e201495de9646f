"""The queues as people see and steer them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataguardian.db.repositories.base import Page
from dataguardian.db.repositories.deliveries import PENDING, OutboxRepository
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.domain.errors import ConflictError, NotFoundError
from dataguardian.domain.states import WorkStatus
from dataguardian.queues.definitions import SPECS, QueueName
from dataguardian.queues.producer import JobState, QueueJob
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.workkinds import Kind, repository

_ROW_QUEUES = (QueueName.BACKUP, QueueName.RESTORE, QueueName.REPAIR, QueueName.NOTIFICATION)
"""Queues whose jobs point at a row that decides whether there is anything to do."""


@dataclass(frozen=True)
class QueueNumbers:
    name: QueueName
    concurrency: int
    attempts: int
    paused: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class WatchedJob:
    """A queue job, and what its work says of itself while it is active."""

    job: QueueJob
    progress: dict[str, Any] | None


class QueueBoard:
    """Everything here raises QueueUnavailableError while the queue server is away."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._audit = Audit(context)

    async def queues(self) -> list[QueueNumbers]:
        await self._context.queues.ping()
        counts, paused = await self._context.queues.counts(), await self._context.queues.paused()
        return [
            QueueNumbers(name, spec.concurrency, spec.attempts, paused[name], counts[name])
            for name, spec in SPECS.items()
        ]

    async def jobs(self, queue: QueueName, state: JobState, page: int, limit: int) -> Page[WatchedJob]:
        """Returns a page of the jobs in a state."""
        await self._context.queues.ping()
        total = (await self._context.queues.counts())[queue].get(state, 0)
        start = (page - 1) * limit
        found: Sequence[QueueJob] = []
        if start < total:
            found = await self._context.queues.jobs(queue, state, start, start + limit - 1)
        return Page([WatchedJob(job, await self._progress(job)) for job in found], total, page, limit)

    async def retry(self, queue: QueueName, job_id: str) -> WatchedJob:
        """Puts a failed job back. Raises NotFoundError, or ConflictError when it did not fail or its row has ended."""
        await self._context.queues.ping()
        jobs = {job.id: job for job in await self._context.queues.jobs(queue, "failed", 0, -1)}
        if job_id in jobs and queue in _ROW_QUEUES and not await self._has_work(queue, jobs[job_id]):
            raise ConflictError(
                "what this job points at has ended, so there is nothing to try again",
                hint="start it anew: run the backup job, or restore or verify the backup again",
            )
        changes = {"queue_job_id": [None, job_id]}
        async with self._audit.telling("queue.retry", entity_type="queue", entity_name=queue.value, changes=changes):
            return WatchedJob(await self._context.queues.retry(queue, job_id), None)

    async def pause(self, queue: QueueName) -> None:
        await self._context.queues.ping()
        async with self._audit.telling("queue.pause", entity_type="queue", entity_name=queue.value):
            await self._context.queues.pause(queue)

    async def resume(self, queue: QueueName) -> None:
        await self._context.queues.ping()
        async with self._audit.telling("queue.resume", entity_type="queue", entity_name=queue.value):
            await self._context.queues.resume(queue)

    async def _progress(self, job: QueueJob) -> dict[str, Any] | None:
        return await self._context.live.get(str(job.data.get("id"))) if job.state == "active" else None

    async def _has_work(self, queue: QueueName, job: QueueJob) -> bool:
        row_id = uuid.UUID(job.data["id"])
        async with self._context.db.read() as session:
            try:
                if queue is QueueName.NOTIFICATION:
                    return (await OutboxRepository(session).get(row_id)).status == PENDING
                if queue in (QueueName.RESTORE, QueueName.REPAIR):
                    row = await repository(session, Kind(job.data["kind"])).get(row_id)
                else:
                    row = await ExecutionRepository(session).get(row_id)
            except NotFoundError:
                return False
        return bool(row.status.value == WorkStatus.QUEUED.value)
