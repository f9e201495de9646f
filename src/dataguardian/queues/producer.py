"""Putting jobs into the queues, and looking at them. Safe for several tasks of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

from bullmq import Job, Queue

from dataguardian.domain.errors import ConflictError, NotFoundError
from dataguardian.queues.connection import ANSWER_SECONDS, MAX_CONNECTIONS, quick_client, translated
from dataguardian.queues.definitions import SPECS, QueueName

BATCH = 100
"""More at once would keep the event loop from everything else for longer than a request may take."""
_STATE_KEYS = ("completed", "failed", "delayed", "active", "wait", "paused", "waiting-children", "prioritized")
JobState = Literal["waiting", "active", "delayed", "completed", "failed", "prioritized"]


@dataclass(frozen=True)
class QueueJob:
    """A queue job as others see it. `attempts_made` counts ended tries; times are aware UTC."""

    id: str
    queue: QueueName
    data: dict[str, Any]
    attempts_made: int = 0
    priority: int = 0
    failed_reason: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    state: str | None = None

    @classmethod
    def of(cls, job: Job, queue: QueueName, state: str | None = None) -> Self:
        return cls(
            id=str(job.id),
            queue=queue,
            data=dict(job.data or {}),
            attempts_made=job.attemptsMade,
            priority=job.priority,
            failed_reason=job.failedReason,
            created_at=_moment(job.timestamp),
            started_at=_moment(job.processedOn),
            finished_at=_moment(job.finishedOn),
            state=state,
        )


@dataclass(frozen=True)
class NewJob:
    """What `add_many` takes. An id that the queue has seen before, even if that job ended, is silently ignored."""

    id: str
    data: dict[str, Any]
    priority: int = 0
    delay_seconds: float = 0
    options: dict[str, Any] = field(default_factory=dict)


class Queues:
    """Every call raises QueueUnavailableError within 2 seconds when the server is away, and works when it is back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = quick_client(url)
        self._queues = {name: Queue(name.value, {"connection": self._client}) for name in QueueName}
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS // 2)

    async def add(self, queue: QueueName, job: NewJob) -> None:
        await self.add_many(queue, [job])

    async def add_many(self, queue: QueueName, jobs: Sequence[NewJob]) -> None:
        """Adds jobs, in batches that each arrive whole or not at all."""
        options = SPECS[queue].job_options()
        for start in range(0, len(jobs), BATCH):
            batch = [
                {
                    "name": queue.value,
                    "data": job.data,
                    "opts": options
                    | {"jobId": job.id, "priority": job.priority, "delay": int(job.delay_seconds * 1000)}
                    | job.options,
                }
                for job in jobs[start : start + BATCH]
            ]
            await self._call(self._queues[queue].addBulk(batch))

    async def states(self, queue: QueueName, job_ids: Sequence[str]) -> list[str]:
        """Returns each job's state; "unknown" for one that the queue does not have."""
        batches = [job_ids[start : start + BATCH] for start in range(0, len(job_ids), BATCH)]
        return [state for batch in batches for state in await self._call(self._ask_states(queue, batch))]

    async def counts(self) -> dict[QueueName, dict[str, int]]:
        """Returns, per queue, how many jobs are in each state."""
        found = await asyncio.gather(*(self._call(self._queues[name].getJobCounts()) for name in QueueName))
        return dict(zip(QueueName, found, strict=True))

    async def jobs(self, queue: QueueName, state: JobState, start: int = 0, end: int = 99) -> list[QueueJob]:
        """Returns jobs `start` to `end` (inclusive) of a state, newest first."""
        found = await self._call(self._queues[queue].getJobs([state], start, end))
        return [QueueJob.of(job, queue, state) for job in found]

    async def retry(self, queue: QueueName, job_id: str) -> QueueJob:
        """Puts a failed job back; raises NotFoundError, or ConflictError when it did not fail."""
        job = await self._get(queue, job_id)
        if await self._call(self._queues[queue].getJobState(job_id)) != "failed":
            raise ConflictError(f"the job {job_id} did not fail", hint="only failed jobs can be tried again")
        await self._call(job.retry("failed", {"resetAttemptsMade": True, "resetAttemptsStarted": True}))
        return QueueJob.of(job, queue, "waiting")

    async def remove(self, queue: QueueName, job_id: str) -> None:
        """Removes a job that is not being worked on; no error when it is not there."""
        await self._call(self._queues[queue].remove(job_id))

    async def pause(self, queue: QueueName) -> None:
        """Stops handing out jobs of a queue, everywhere, until `resume`."""
        await self._call(self._queues[queue].pause())

    async def resume(self, queue: QueueName) -> None:
        await self._call(self._queues[queue].resume())

    async def paused(self) -> dict[QueueName, bool]:
        found = await asyncio.gather(*(self._call(self._queues[name].isPaused()) for name in QueueName))
        return dict(zip(QueueName, map(bool, found), strict=True))

    async def ping(self) -> None:
        """Tells within ANSWER_SECONDS, retries and all, whether it is there: ask this first where somebody waits."""
        async with translated(), asyncio.timeout(ANSWER_SECONDS):
            await cast("Awaitable[Any]", self._client.ping())

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask_states(self, queue: QueueName, job_ids: Sequence[str]) -> list[str]:
        """BullMQ's own question, for many jobs at once: the reconciler asks for all that wait, time after time."""
        scripts = self._queues[queue].scripts
        keys = scripts.getKeys(_STATE_KEYS)
        async with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                await scripts.commands["getStateV2"](keys=keys, args=[job_id], client=pipe)
            found: list[str] = await pipe.execute()
        return found

    async def _get(self, queue: QueueName, job_id: str) -> Job:
        job = await self._call(self._queues[queue].getJob(job_id))
        if job is None:
            raise NotFoundError(f"{queue} has no job {job_id}", hint="ended jobs are forgotten after a while")
        return job

    async def _call(self, work: Awaitable[Any]) -> Any:  # noqa: ANN401 -- BullMQ has no types
        async with self._slots, translated():
            return await work


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
