"""Notifications, what is still to be delivered of them, settings, and the logs of executions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dataguardian.db.models import ExecutionLog, NotificationRow, SystemSetting
from dataguardian.db.repositories.base import Repository
from dataguardian.domain.ids import new_id


class NotificationRepository(Repository[NotificationRow]):
    model = NotificationRow
    noun = "notification"

    async def mark_all_read(self, now: datetime) -> int:
        """Marks every unread notification as read; returns how many there were."""
        statement = update(NotificationRow).where(NotificationRow.read_at.is_(None)).values(read_at=now, updated_at=now)
        return await self.changed(statement)

    async def mark_titled_read(self, titles: Sequence[str], now: datetime) -> int:
        """Marks those unread notifications as read whose title is one of these; returns how many there were."""
        unread = NotificationRow.read_at.is_(None) & NotificationRow.title.in_(titles)
        return await self.changed(update(NotificationRow).where(unread).values(read_at=now, updated_at=now))


class SettingRepository(Repository[SystemSetting]):
    model = SystemSetting
    noun = "setting"

    async def by_key(self, key: str) -> SystemSetting | None:
        statement = select(SystemSetting).where(SystemSetting.key == key)
        return (await self.session.execute(statement)).scalars().first()

    async def value(self, key: str) -> dict[str, Any] | None:
        statement = select(SystemSetting.value).where(SystemSetting.key == key)
        return (await self.session.execute(statement)).scalars().first()

    async def locked_value(self, key: str, *, shared: bool = False) -> dict[str, Any] | None:
        """Like `value`, and nobody changes it before this transaction ends. Shared locks suffer each other."""
        statement = select(SystemSetting.value).where(SystemSetting.key == key).with_for_update(read=shared)
        return (await self.session.execute(statement)).scalars().first()

    async def remove(self, key: str) -> None:
        await self.changed(delete(SystemSetting).where(SystemSetting.key == key))

    async def put_first(self, key: str, value: dict[str, Any], description: str, now: datetime) -> dict[str, Any]:
        """Stores a setting when there is none; returns the one that there is then. The first of two writers wins."""
        dialect = sqlite if self.session.get_bind().dialect.name == "sqlite" else postgresql
        given = {"value": value, "description": description, "updated_at": now}
        statement = dialect.insert(SystemSetting).values(id=new_id(now), created_at=now, key=key, **given)
        await self.session.execute(statement.on_conflict_do_nothing(index_elements=["key"]))
        chosen = select(SystemSetting.value).where(SystemSetting.key == key)
        stored: dict[str, Any] = (await self.session.execute(chosen)).scalars().one()
        return stored

    async def put(self, key: str, value: dict[str, Any], description: str, now: datetime) -> SystemSetting:
        """Stores a setting, or changes the one that there is; the last of two writers wins."""
        given = {"value": value, "description": description, "updated_at": now}
        dialect = sqlite if self.session.get_bind().dialect.name == "sqlite" else postgresql
        statement = (
            dialect.insert(SystemSetting)
            .values(id=new_id(now), created_at=now, key=key, **given)
            .on_conflict_do_update(index_elements=["key"], set_=given)
        )
        await self.session.execute(statement)
        chosen = select(SystemSetting).where(SystemSetting.key == key).execution_options(populate_existing=True)
        return (await self.session.execute(chosen)).scalars().one()


class LogRepository(Repository[ExecutionLog]):
    model = ExecutionLog
    noun = "log line"

    async def append(self, owner_id: uuid.UUID, lines: Sequence[dict[str, Any]]) -> None:
        """Adds lines ({created_at, level, message, details}) behind those that are there."""
        await self._one_writer(owner_id)
        last = select(func.coalesce(func.max(ExecutionLog.number), 0)).where(ExecutionLog.owner_id == owner_id)
        number = (await self.session.execute(last)).scalar_one()
        await self.session.execute(
            insert(ExecutionLog),
            [
                {
                    "id": new_id(line["created_at"]),
                    "updated_at": line["created_at"],
                    "owner_id": owner_id,
                    "number": number + offset,
                    **line,
                }
                for offset, line in enumerate(lines, start=1)
            ],
        )

    async def after(self, owner_id: uuid.UUID, number: int, limit: int) -> Sequence[ExecutionLog]:
        """Returns up to `limit` lines that follow line `number`, in order."""
        statement = (
            select(ExecutionLog)
            .where(ExecutionLog.owner_id == owner_id, ExecutionLog.number > number)
            .order_by(ExecutionLog.number)
            .limit(limit)
        )
        return (await self.session.execute(statement)).scalars().all()

    async def _one_writer(self, owner_id: uuid.UUID) -> None:
        """Makes writers of one log wait for each other, so that no number is given twice; SQLite has one writer."""
        if self.session.get_bind().dialect.name == "postgresql":
            number = int.from_bytes(owner_id.bytes[8:], signed=True)
            await self.session.execute(select(func.pg_advisory_xact_lock(number)))
