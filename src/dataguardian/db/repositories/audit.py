"""The audit log: appended to by one transaction at a time, paged, read from one number on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, UnaryExpression, insert, select, text
from sqlalchemy.sql.operators import custom_op

from dataguardian.db.accounts import AuditEntry
from dataguardian.db.repositories.base import Page, Repository
from dataguardian.domain.auditlog import GENESIS, chained, to_micros

_CHAIN_LOCK = 0x6461_7461_6175_6474
"""The advisory lock of PostgreSQL that whoever appends holds until its transaction ends; any number will do."""


@dataclass(frozen=True, kw_only=True)
class AuditFilters:
    """What the list is narrowed to; None does not. `since` belongs to the list, `until` no longer."""

    actor_name: str | None = None
    action: str | None = None
    entity_type: str | None = None
    entity_id: uuid.UUID | None = None
    since: datetime | None = None
    until: datetime | None = None

    def equal(self) -> list[ColumnElement[bool]]:
        names = ("actor_name", "action", "entity_type", "entity_id")
        given = {name: getattr(self, name) for name in names}
        return [getattr(AuditEntry, name) == value for name, value in given.items() if value is not None]

    def between(self, column: Any) -> list[ColumnElement[bool]]:  # noqa: ANN401 -- a column, or what stands for it
        conditions = [] if self.since is None else [column >= self.since]
        return conditions if self.until is None else [*conditions, column < self.until]


@dataclass(frozen=True)
class Head:
    """The end of the log. An empty one has number 0 and the hash that the first line follows."""

    number: int = 0
    hash: str = GENESIS

    @property
    def anchor(self) -> str | None:
        """What is kept elsewhere to compare with, `NUMBER:HASH`; None of an empty log."""
        return f"{self.number}:{self.hash}" if self.number else None


class AuditRepository(Repository[AuditEntry]):
    model = AuditEntry
    noun = "line of the audit log"

    async def append(self, fields: Mapping[str, Any], now: Callable[[], datetime]) -> Head:
        """Writes the next line and returns it as the new head. `fields` has a value for each column but number, time
        and hashes, and nothing in it that a database would give back in another way (`domain.auditlog.storable`).

        From here to the end of the transaction nobody else can: on SQLite nobody else writes at all, on PostgreSQL
        everybody who appends waits here. So this comes last in a transaction.
        """
        await self.session.flush()  # what still waits to be written may have to wait for others
        if self.session.get_bind().dialect.name == "postgresql":
            await self.session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
        head = await self.head()
        row = {"number": head.number + 1, "created_at": now(), **fields}
        line_hash = chained(head.hash, document(row))
        await self.session.execute(insert(AuditEntry).values(**row, previous_hash=head.hash, hash=line_hash))
        return Head(head.number + 1, line_hash)

    async def head(self) -> Head:
        newest = select(AuditEntry.number, AuditEntry.hash).order_by(AuditEntry.number.desc()).limit(1)
        found = (await self.session.execute(newest)).first()
        return Head(*found) if found else Head()

    async def after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """Returns the lines that follow `number`, at most `limit`, as plain JSON with both hashes."""
        columns = AuditEntry.__table__.columns
        statement = select(*columns).where(AuditEntry.number > number).order_by(AuditEntry.number).limit(limit)
        rows = (await self.session.execute(statement)).mappings().all()
        return [document(row) | {"previous_hash": row["previous_hash"], "hash": row["hash"]} for row in rows]

    async def listed(self, filters: AuditFilters, page: int, limit: int) -> Page[AuditEntry]:
        """Returns page `page` (from 1), newest first. Numbers come from an index alone, and from the nearer end; since
        they have no gaps, the list of everything is counted and cut by them.
        """
        equal = filters.equal()
        between = filters.between(self._unindexed(AuditEntry.created_at) if equal else AuditEntry.created_at)
        skip = (page - 1) * limit
        if not equal and not between:
            total = (await self.head()).number
            chosen = AuditEntry.number.between(total - skip - limit + 1, total - skip)
            rows = await self.all(chosen, order=AuditEntry.number.desc()) if skip < total else []
            return Page(rows, total, page, limit)
        total = await self.total(*equal, *between)
        take = min(limit, total - skip)
        if take <= 0:
            return Page([], total, page, limit)
        numbers = await self._numbers([*equal, *between], by_time=not equal, skip=skip, take=take, total=total)
        order = (AuditEntry.created_at.desc(), AuditEntry.number.desc()) if not equal else AuditEntry.number.desc()
        return Page(await self.all(AuditEntry.number.in_(numbers), order=order), total, page, limit)

    def _unindexed(self, column: Any) -> Any:  # noqa: ANN401 -- a column, or what stands for it
        """Keeps SQLite from choosing the index of times beside a filter, and then sorting: `+` before a column does."""
        if self.session.get_bind().dialect.name != "sqlite":
            return column
        return UnaryExpression(column.expression, operator=custom_op("+"), type_=column.type)

    async def _numbers(
        self, where: Sequence[ColumnElement[bool]], *, by_time: bool, skip: int, take: int, total: int
    ) -> Sequence[int]:
        columns: list[Any] = [AuditEntry.created_at, AuditEntry.number] if by_time else [AuditEntry.number]
        from_the_end = skip > total // 2
        order = [column.asc() if from_the_end else column.desc() for column in columns]
        start = total - skip - take if from_the_end else skip
        statement = select(AuditEntry.number).where(*where).order_by(*order).offset(start).limit(take)
        return (await self.session.execute(statement)).scalars().all()


def document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns what the hash of a line covers, as plain JSON."""
    return {
        "number": row["number"],
        "created_at": to_micros(row["created_at"]),
        "actor_kind": str(row["actor_kind"]),
        "actor_id": _text(row["actor_id"]),
        "actor_name": row["actor_name"],
        "address": row["address"],
        "request_id": row["request_id"],
        "action": row["action"],
        "entity_type": row["entity_type"],
        "entity_id": _text(row["entity_id"]),
        "entity_name": row["entity_name"],
        "changes": row["changes"],
    }


def _text(value: uuid.UUID | None) -> str | None:
    return None if value is None else str(value)
