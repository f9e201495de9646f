"""All consumers of one process, and the loops that its roles run."""

from __future__ import annotations

import asyncio

from dataguardian.queues.consumer import Consumer, Processor
from dataguardian.queues.definitions import QueueName
from dataguardian.service.access.tokens import USED_SECONDS
from dataguardian.service.audit import HEAD_SECONDS
from dataguardian.service.refusals import WINDOW_SECONDS
from dataguardian.service.services import Services
from dataguardian.workers.backup import BackupWorker
from dataguardian.workers.cleanup import CleanupWorker, cleanup_loops
from dataguardian.workers.health import HealthWorker, health_loops
from dataguardian.workers.loops import Loop
from dataguardian.workers.notification import NotificationWorker, notification_loops
from dataguardian.workers.restore import RestoreWorker

TICK_SECONDS = 60.0
RECONCILE_SECONDS = 15.0
SAMPLE_SECONDS = 60.0
RECOVERY_SECONDS = 3600.0
TELL_SECONDS = 600.0
LAST_SECONDS = 90.0
"""What was told to stop ends within its own limits, which are shorter; a defect must not keep the service alive."""


class Crew:
    """A consumer per queue. `stop` lets running work end within its grace and hands the rest back."""

    def __init__(self, services: Services) -> None:
        self._stopping = asyncio.Event()
        context = services.context
        work = RestoreWorker(context, services.work, self._stopping)
        processors: dict[QueueName, Processor] = {
            QueueName.BACKUP: BackupWorker(context, services.executions, self._stopping).process,
            QueueName.RESTORE: work.process,
            QueueName.REPAIR: work.process,
            QueueName.HEALTH: HealthWorker(services.health).process,
            QueueName.CLEANUP: CleanupWorker(services.cleanup, self._stopping).process,
            QueueName.NOTIFICATION: NotificationWorker(services.delivery).process,
        }
        self._consumers = [Consumer(context.queues.url, name, processor) for name, processor in processors.items()]

    def start(self) -> None:
        for consumer in self._consumers:
            consumer.start()

    def refuse(self) -> None:
        """Takes no more work; what runs goes on."""
        for consumer in self._consumers:
            consumer.refuse()

    async def stop(self, grace_seconds: float) -> None:
        self.refuse()
        idle = asyncio.create_task(self._idle())
        hurried = asyncio.create_task(self._hurried())
        await asyncio.wait({idle, hurried}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        await asyncio.wait({idle, hurried}, timeout=LAST_SECONDS)
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))

    async def _idle(self) -> None:
        await asyncio.gather(*(consumer.idle() for consumer in self._consumers))

    async def _hurried(self) -> None:
        await self._stopping.wait()

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
        Loop("storage locations that are behind", TICK_SECONDS, services.work.repair_due),
        *health_loops(services.health),
        *cleanup_loops(services.cleanup),
        Loop("weekly sample", SAMPLE_SECONDS, services.sampling.tick, on_the_minute=True),
        Loop("recovery kit and keys", RECOVERY_SECONDS, services.recovery.tick),
        *notification_loops(services.events, services.delivery),
        Loop("secrets that people must see to", TELL_SECONDS, services.exposure.tell),
    ]


def access_loops(services: Services) -> list[Loop]:
    """What every process runs that listens."""
    return [
        Loop("uses of tokens", USED_SECONDS, services.tokens.write_uses),
        Loop("uses of sessions", USED_SECONDS, services.sessions.write_uses),
        Loop("refusals", WINDOW_SECONDS, services.refusals.flush),
        Loop("end of the audit log", HEAD_SECONDS, services.audit.log_head),
    ]
