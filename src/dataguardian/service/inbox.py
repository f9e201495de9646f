"""Notifications as people see them: one by one, read or not."""

from __future__ import annotations

import uuid

from dataguardian.db.models import NotificationRow
from dataguardian.db.repositories.notifications import NotificationRepository
from dataguardian.service.context import Context


class Inbox:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, notification_id: uuid.UUID) -> NotificationRow:
        """Raises NotFoundError."""
        async with self._context.db.read() as session:
            return await NotificationRepository(session).get(notification_id)

    async def mark_read(self, notification_id: uuid.UUID) -> NotificationRow:
        """Marks one as read; what was read before keeps its time. Raises NotFoundError."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await NotificationRepository(session).locked(notification_id)
            if row.read_at is None:
                row.read_at = row.updated_at = now
            return row

    async def mark_all_read(self) -> int:
        """Returns how many were unread."""
        async with self._context.db.write() as session:
            return await NotificationRepository(session).mark_all_read(self._context.clock.now())
