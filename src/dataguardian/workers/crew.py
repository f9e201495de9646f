"""All consumers of one process, and the loops that its roles run."""

from __future__ import annotations

import asyncio

from dataguardian.core.services import Services
from dataguardian.queues.consumer import Consumer, Processor
from dataguardian.queues.definitions import QueueName
from dataguardian.workers.backup import BackupWorker
from dataguardian.workers.cleanup import CleanupWorker, cleanup_loops
from dataguardian.workers.health import HealthWorker, health_loops
from dataguardian.workers.loops import Loop
from dataguardian.workers.notification import NotificationWorker, notification_loops
from dataguardian.workers.restore import RestoreWorker

TICK_SECONDS = 60.0
RECONCILE_SECONDS = 15.0


class Crew:
    """A consumer per queue. `stop` lets running work end within its grace and hands the rest back."""

    def __init__(self, services: Services) -> None:
        self._stopping = asyncio.Event()
        context = services.context
        processors: dict[QueueName, Processor] = {
            QueueName.BACKUP: BackupWorker(context, services.executions, self._stopping).process,
            QueueName.RESTORE: RestoreWorker(context, services.work, self._stopping).process,
            QueueName.HEALTH: HealthWorker(services.health).process,
            QueueName.CLEANUP: CleanupWorker(services.cleanup, self._stopping).process,
            QueueName.NOTIFICATION: NotificationWorker(services.delivery).process,
        }
        self._consumers = [Consumer(context.queues.url, name, processor) for name, processor in processors.items()]

    def start(self) -> None:
        for consumer in self._consumers:
            consumer.start()

    async def stop(self, grace_seconds: float) -> None:
        await asyncio.gather(*(consumer.stop(grace_seconds, hurry=self._stopping) for consumer in self._consumers))

    def hurry(self) -> None:
        """Ends the grace now."""
        self._stopping.set()


def worker_loops(services: Services) -> list[Loop]:
    """What a process that works runs beside its consumers: mending what crashes left."""
    return [
        Loop("executions that crashes left", RECONCILE_SECONDS, services.executions.reconcile),
        Loop("restores that crashes left", RECONCILE_SECONDS, services.work.reconcile),
    ]


def scheduler_loops(services: Services) -> list[Loop]:
    """What the scheduler's role runs. Several schedulers may run at once."""
    return [
        Loop("due jobs", TICK_SECONDS, services.scheduler.tick, on_the_minute=True),
        *health_loops(services.health),
        *cleanup_loops(services.cleanup),
        *notification_loops(services.events, services.delivery),
    ]
