"""Events become notifications: rows first, in the transaction of what happened, then deliveries through the queue."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import NotificationDelivery, NotificationRow
from dataguardian.db.repositories.deliveries import PENDING, SENDING, OutboxRepository
from dataguardian.db.repositories.notifications import NotificationRepository, SettingRepository
from dataguardian.domain.errors import QueueUnavailableError, UsageError
from dataguardian.domain.ids import new_id
from dataguardian.domain.notifications import Notification
from dataguardian.domain.routing import NotificationSettings, channels_for
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.notifiers.base import NotifierConfig
from dataguardian.notifiers.registry import channel_config, settings_type
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import NewJob
from dataguardian.service.context import Context
from dataguardian.service.safekeeping import opened_where_possible, setting_owner
from dataguardian.service.vault import Vault

SETTING = "notifications"
OWED_AFTER = timedelta(seconds=60)
"""A pending delivery is left alone for so long before the reconciler asks the queue about it."""
SENDING_AT_MOST = timedelta(minutes=5)
"""Longer than any notifier may take."""
OWED_BATCH = 500
ENDED_STATES = frozenset({"unknown", "completed", "failed"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pending:
    """A delivery that was stored and must be told to the queue after the commit."""

    delivery_id: uuid.UUID
    number: int
    delay_seconds: float = 0


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
        settings = await load_settings(session, self._context.vault)
        return await self.store(session, notification, channels_for(notification, settings))

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
            NewJob(
                queue_job_id(entry.delivery_id, entry.number),
                {"id": str(entry.delivery_id), "number": entry.number},
                delay_seconds=entry.delay_seconds,
            )
            for entry in pending
        ]
        try:
            await self._context.queues.add_many(QueueName.NOTIFICATION, jobs)
        except QueueUnavailableError:
            return

    async def reconcile(self) -> int:
        """Enqueues, under a new number, deliveries that the queue lost or a crash cut short; returns how many.

        One that was being sent at the crash is sent again: at least once, and receivers know it by its id.
        """
        mended, after = 0, None
        while True:
            now = self._context.clock.now()
            async with self._context.db.read() as session:
                owed = await OutboxRepository(session).owed(
                    now - OWED_AFTER, now - SENDING_AT_MOST, now, after, OWED_BATCH
                )
            lost = await self._lost(owed)
            pending = await self._requeue(lost, now) if lost else []
            await self.dispatch(pending)
            mended += len(pending)
            if len(owed) < OWED_BATCH:
                return mended
            after = owed[-1].id

    async def _requeue(self, lost: Sequence[NotificationDelivery], now: datetime) -> list[Pending]:
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            for row in lost:
                number = await OutboxRepository(session).requeue(row, now)
                pending += [Pending(row.id, number)] if number is not None else []
        return pending

    async def _lost(self, owed: Sequence[NotificationDelivery]) -> list[NotificationDelivery]:
        ids = [queue_job_id(row.id, row.enqueue_number) for row in owed]
        states = await self._context.queues.states(QueueName.NOTIFICATION, ids)
        # One that is `sending` for so long has lost its sender, whatever the queue believes.
        return [row for row, state in zip(owed, states, strict=True) if row.status == SENDING or state in ENDED_STATES]


def queue_job_id(delivery_id: uuid.UUID, number: int) -> str:
    """An id that the queue has seen is dead for ever, so every enqueueing has its own."""
    return f"{delivery_id}-{number}"


async def load_settings(session: AsyncSession, vault: Vault) -> NotificationSettings[NotifierConfig]:
    """Returns the stored channels and routes. Channels that this installation cannot read or whose secrets it cannot
    open are left out, with a word in the log, and the others go on: an alert that reaches fewer people is better than
    one that reaches nobody.
    """
    stored = await SettingRepository(session).value(SETTING)
    stored = opened_where_possible(stored or {}, vault, setting_owner(SETTING))
    try:
        return settings_type().model_validate(stored)
    except ValidationError:
        log.warning("some notification channels cannot be read and are left out")
        return _readable(stored)


def _readable(stored: dict[str, Any]) -> NotificationSettings[NotifierConfig]:
    channels = {name: config for name, config in _mapping(stored.get("channels")).items() if _is_channel(config)}
    routes = [_without_unknown(route, channels) for route in stored.get("routes") or []]
    for document in (
        {"channels": channels, "routes": [route for route in routes if route]},
        {"channels": channels},  # by default what is grave goes to every channel
    ):
        try:
            return settings_type().model_validate(document)
        except ValidationError:
            continue
    return settings_type()()


def _without_unknown(route: object, channels: dict[str, Any]) -> dict[str, Any]:
    fields = _mapping(route)
    return fields | {"channels": [name for name in fields.get("channels") or [] if name in channels]} if fields else {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_channel(config: object) -> bool:
    try:
        channel_config(_mapping(config))
    except UsageError:
        return False
    return True
