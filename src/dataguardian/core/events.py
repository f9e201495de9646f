"""Events become notifications: rows first, in the transaction of what happened, then deliveries through the queue."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.context import Context
from dataguardian.db.models import NotificationDelivery, NotificationRow
from dataguardian.db.repositories.notifications import DeliveryRepository, NotificationRepository, SettingRepository
from dataguardian.domain.errors import QueueUnavailableError
from dataguardian.domain.ids import new_id
from dataguardian.domain.notifications import Notification
from dataguardian.domain.routing import NotificationSettings, channels_for
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.notifiers.base import NotifierConfig
from dataguardian.notifiers.registry import settings_type
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import NewJob

SETTING = "notifications"
PENDING, SENT, FAILED = "pending", "sent", "failed"
OWED_AFTER = timedelta(seconds=60)
OWED_BATCH = 500


@dataclass(frozen=True)
class Pending:
    """A delivery that was stored and must be told to the queue after the commit."""

    delivery_id: uuid.UUID
    number: int


class Events:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def emit(
        self,
        session: AsyncSession,
        *,
        type: NotificationType,  # noqa: A002 -- the field's name everywhere
        severity: Severity,
        entity_type: EntityType,
        entity_id: uuid.UUID | None,
        title: str,
        message: str,
        metadata: dict[str, Any] | None = None,
    ) -> list[Pending]:
        """Stores a notification and its deliveries in the caller's transaction; dispatch what it returns afterwards."""
        now = self._context.clock.now()
        notification = Notification(
            id=new_id(now),
            type=type,
            severity=severity,
            entity_type=entity_type,
            entity_id=entity_id,
            title=title,
            message=message,
            metadata=metadata or {},
            created_at=now,
        )
        return await self.store(session, notification, channels_for(notification, await load_settings(session)))

    async def store(self, session: AsyncSession, notification: Notification, channels: Sequence[str]) -> list[Pending]:
        """Stores a notification that is complete, to be delivered to the named channels."""
        now = self._context.clock.now()
        await NotificationRepository(session).add(
            NotificationRow(
                **notification.model_dump(exclude={"metadata"}),
                details=notification.model_dump(mode="json")["metadata"],
                updated_at=now,
                read_at=None,
            )
        )
        deliveries = [
            NotificationDelivery(
                id=new_id(now),
                created_at=now,
                updated_at=now,
                notification_id=notification.id,
                channel=channel,
                status=PENDING,
                attempts=0,
                enqueue_number=1,
            )
            for channel in channels
        ]
        session.add_all(deliveries)
        await session.flush()
        return [Pending(delivery.id, delivery.enqueue_number) for delivery in deliveries]

    async def dispatch(self, pending: Sequence[Pending]) -> None:
        """Tells the queue; when that is away, `reconcile` does it later."""
        jobs = [
            NewJob(f"{entry.delivery_id}-{entry.number}", {"id": str(entry.delivery_id), "number": entry.number})
            for entry in pending
        ]
        try:
            await self._context.queues.add_many(QueueName.NOTIFICATION, jobs)
        except QueueUnavailableError:
            return

    async def reconcile(self) -> int:
        """Enqueues deliveries that the queue does not know, under a new number; returns how many."""
        now = self._context.clock.now()
        async with self._context.db.read() as session:
            owed = await DeliveryRepository(session).owed(now - OWED_AFTER, OWED_BATCH)
        ids = [f"{row.id}-{row.enqueue_number}" for row in owed]
        states = await self._context.queues.states(QueueName.NOTIFICATION, ids)
        lost = [row.id for row, state in zip(owed, states, strict=True) if state in {"unknown", "completed", "failed"}]
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            for delivery_id in lost:
                row = await DeliveryRepository(session).locked(delivery_id)
                row.enqueue_number, row.updated_at = row.enqueue_number + 1, now
                pending.append(Pending(row.id, row.enqueue_number))
        await self.dispatch(pending)
        return len(pending)


async def load_settings(session: AsyncSession) -> NotificationSettings[NotifierConfig]:
    """Returns the stored channels and routes; without any, or with some that this release cannot read, none."""
    stored = await SettingRepository(session).value(SETTING)
    try:
        return settings_type().model_validate(stored or {})
    except ValidationError:
        return settings_type()()
