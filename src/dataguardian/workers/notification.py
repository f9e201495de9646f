"""The notification queue's processor, and the loops of deliveries: what a crash lost, and the daily digest."""

from __future__ import annotations

from dataguardian.queues.consumer import NoRetry, TryAgain
from dataguardian.queues.producer import QueueJob
from dataguardian.service.delivery import Delivery, Verdict
from dataguardian.service.events import Events
from dataguardian.workers.loops import Loop

RECONCILE_SECONDS = 30.0
DIGEST_SECONDS = 60.0


class NotificationWorker:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    async def process(self, job: QueueJob) -> None:
        """Raises TryAgain for the queue's back-off, NoRetry when the message will never be taken."""
        verdict, reason = await self._delivery.carry_out(job.data, tries=job.attempts_made + 1)
        if verdict is Verdict.TRY_AGAIN:
            raise TryAgain(reason)
        if verdict is Verdict.GIVEN_UP:
            raise NoRetry(reason)


def notification_loops(events: Events, delivery: Delivery) -> list[Loop]:
    """What the scheduler's role runs."""
    return [
        Loop("deliveries that were lost", RECONCILE_SECONDS, events.reconcile),
        Loop("daily digest", DIGEST_SECONDS, delivery.send_digest, on_the_minute=True),
    ]
