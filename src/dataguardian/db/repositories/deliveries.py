"""Deliveries of notifications: who may send one, and how it ended. Every step is a compare-and-set."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update

from dataguardian.db.models import IS_OWED, NotificationDelivery, NotificationRow
from dataguardian.db.repositories.base import Repository
from dataguardian.domain.states import NotificationType

PENDING, SENDING, SENT, FAILED = "pending", "sending", "sent", "failed"


class OutboxRepository(Repository[NotificationDelivery]):
    model = NotificationDelivery
    noun = "delivery"

    async def claim(self, delivery_id: uuid.UUID, number: int, now: datetime) -> NotificationDelivery | None:
        """Takes a pending delivery for sending; None when it is not pending or the number is stale."""
        row = await self.find_locked(delivery_id)
        if row is None or row.status != PENDING or row.enqueue_number != number:
            return None
        row.status, row.attempts, row.updated_at = SENDING, row.attempts + 1, now
        await self.session.flush()
        return row

    async def end(self, row: NotificationDelivery, status: str, now: datetime, **values: Any) -> bool:  # noqa: ANN401 -- columns
        """Writes how a sending that was claimed ended; False when it is no longer the newest claim."""
        statement = (
            update(NotificationDelivery)
            .where(
                NotificationDelivery.id == row.id,
                NotificationDelivery.status == SENDING,
                NotificationDelivery.attempts == row.attempts,
            )
            .values(status=status, updated_at=now, **values)
        )
        return bool(await self.changed(statement))

    async def owed(
        self, pending_before: datetime, sending_before: datetime, now: datetime, after: uuid.UUID | None, limit: int
    ) -> Sequence[NotificationDelivery]:
        """Returns, by id from after `after`, what is pending or being sent for long, or since a time yet to come."""
        delivery = NotificationDelivery
        statement = select(delivery).where(
            IS_OWED,
            or_(
                (delivery.status == PENDING) & (delivery.updated_at <= pending_before),
                (delivery.status == SENDING) & (delivery.updated_at <= sending_before),
                delivery.updated_at > now,  # the clock went back
            ),
        )
        if after is not None:
            statement = statement.where(delivery.id > after)
        return (await self.session.execute(statement.order_by(delivery.id).limit(limit))).scalars().all()

    async def requeue(self, row: NotificationDelivery, now: datetime) -> int | None:
        """Makes a delivery pending under a new number, unless somebody touched it since it was read: then None."""
        statement = (
            update(NotificationDelivery)
            .where(
                NotificationDelivery.id == row.id,
                NotificationDelivery.status == row.status,
                NotificationDelivery.enqueue_number == row.enqueue_number,
                NotificationDelivery.attempts == row.attempts,
            )
            .values(status=PENDING, enqueue_number=row.enqueue_number + 1, updated_at=now)
        )
        return row.enqueue_number + 1 if await self.changed(statement) else None


class DigestRepository(Repository[NotificationRow]):
    model = NotificationRow
    noun = "notification"

    async def between(self, since: datetime, until: datetime, limit: int) -> Sequence[NotificationRow]:
        """Returns up to `limit` notifications of [since, until), the newest first, without earlier digests."""
        statement = (
            select(NotificationRow)
            .where(
                NotificationRow.created_at >= since,
                NotificationRow.created_at < until,
                NotificationRow.type != NotificationType.DAILY_DIGEST,
            )
            .order_by(NotificationRow.created_at.desc(), NotificationRow.id.desc())
            .limit(limit)
        )
        return (await self.session.execute(statement)).scalars().all()
