"""The health queue's processor, and the loop that feeds it."""

from __future__ import annotations

from dataguardian.queues.consumer import TryAgain
from dataguardian.queues.definitions import SPECS, QueueName
from dataguardian.queues.producer import QueueJob
from dataguardian.service.health import EVERY_MINUTES, Health
from dataguardian.workers.loops import Loop

TRIES = SPECS[QueueName.HEALTH].attempts


class HealthWorker:
    def __init__(self, health: Health) -> None:
        self._health = health

    async def process(self, job: QueueJob) -> None:
        """Raises TryAgain for a check that failed for the first time: it counts when it fails once more."""
        if not await self._health.check(job.data, last_try=job.attempts_made + 1 >= TRIES):
            raise TryAgain("the check failed and is made once more before it counts")


def health_loops(health: Health) -> list[Loop]:
    """What the scheduler's role runs."""
    return [Loop("health checks", EVERY_MINUTES * 60, health.enqueue, on_the_minute=True)]
