"""The cleanup queue's processor, and the loop that feeds it."""

from __future__ import annotations

import asyncio

from dataguardian.queues.producer import QueueJob
from dataguardian.service.cleanup import Cleanup
from dataguardian.workers.loops import Loop

LOOK_SECONDS = 60.0


class CleanupWorker:
    """`stopping` is set at a shutdown: a pass ends between two removals and goes on after the next start."""

    def __init__(self, cleanup: Cleanup, stopping: asyncio.Event) -> None:
        self._cleanup = cleanup
        self._stopping = stopping

    async def process(self, job: QueueJob) -> None:
        await self._cleanup.carry_out(job.data, stopped=self._stopping.is_set)


def cleanup_loops(cleanup: Cleanup) -> list[Loop]:
    """What the scheduler's role runs."""
    return [Loop("cleanup", LOOK_SECONDS, cleanup.enqueue_due, on_the_minute=True)]
