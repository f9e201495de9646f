"""What all repositories share: fetching by id, inserting, pages of a list."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import ColumnElement, CursorResult, TextClause, UpdateBase, and_, delete, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.recent import Recent
from dataguardian.domain.errors import NotFoundError

MAX_LIMIT = 100


R = TypeVar("R", bound=Any)


@dataclass(frozen=True)
class Page(Generic[R]):
    """One page of a list; `total` counts all rows that match."""

    data: Sequence[R]
    total: int
    page: int
    limit: int

    @property
    def total_pages(self) -> int:
        return -(-self.total // self.limit)


class Repository(Generic[R]):
    """Access to one table. `noun` is what error texts call a row."""

    model: type[R]
    noun: str

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, row_id: uuid.UUID) -> R:
        """Raises NotFoundError."""
        return self._found(await self.find(row_id), row_id)

    async def find(self, row_id: uuid.UUID) -> R | None:
        return await self.session.get(self.model, row_id)

    async def locked(self, row_id: uuid.UUID) -> R:
        """Like `get`, and nobody else changes the row before this transaction ends. Raises NotFoundError."""
        return self._found(await self.find_locked(row_id), row_id)

    async def find_locked(self, row_id: uuid.UUID) -> R | None:
        return await self.session.get(self.model, row_id, with_for_update=True, populate_existing=True)

    def _found(self, row: R | None, row_id: uuid.UUID) -> R:
        if row is None:
            raise NotFoundError(f"there is no {self.noun} {row_id}", hint="a list shows what there is", id=str(row_id))
        return row

    async def add(self, row: R) -> R:
        self.session.add(row)
        await self.session.flush()
        return row

    async def delete(self, row_id: uuid.UUID) -> bool:
        """Returns whether there was one."""
        return bool(await self.changed(delete(self.model).where(self.model.id == row_id)))

    async def changed(self, statement: UpdateBase) -> int:
        """Executes an UPDATE or DELETE and returns how many rows it hit."""
        result = await self.session.execute(statement, execution_options={"synchronize_session": False})
        return cast("CursorResult[Any]", result).rowcount

    async def count(self, *where: ColumnElement[bool]) -> int:
        return await count_of(self.session, self.model, *where)

    async def total(self, *where: ColumnElement[bool]) -> int:
        """Counts for a list: a total above 10,000 may be some seconds old in a session that reads."""
        recent: Recent | None = self.session.info.get("recent")
        if recent is None:
            return await self.count(*where)
        compiled = and_(true(), *where).compile(dialect=self.session.get_bind().dialect)
        key = (self.model.__tablename__, compiled.string, tuple(compiled.params.items()))
        known: int | None = recent.get(key)
        if known is None:
            known = await self.count(*where)
            recent.put_total(key, known)
        return known

    async def all(self, *where: ColumnElement[bool] | TextClause, order: Any = None) -> Sequence[R]:  # noqa: ANN401 -- a column, or several
        columns = order if isinstance(order, tuple) else (self.model.id if order is None else order,)
        statement = select(self.model).where(*where).order_by(*columns)
        return (await self.session.execute(statement)).scalars().all()

    async def batch(self, after: uuid.UUID | None, limit: int, *, locked: bool = False) -> Sequence[R]:
        """Returns up to `limit` rows that follow an id, in the order of ids; nobody else changes them when `locked`."""
        statement = select(self.model).order_by(self.model.id).limit(limit)
        if after is not None:
            statement = statement.where(self.model.id > after)
        if locked:
            statement = statement.with_for_update()
        return (await self.session.execute(statement)).scalars().all()

    async def page(
        self,
        *where: ColumnElement[bool],
        page: int,
        limit: int,
        newest_by: Any = None,  # noqa: ANN401 -- a column
        total: int | None = None,
        oldest_first: bool = False,
    ) -> Page[R]:
        """Returns page `page` (from 1), newest first by `newest_by` (default `created_at`), ties by id.

        Ids are fetched first, from an index alone, and from whichever end is nearer, so that the last page of a
        million rows costs what the middle one does at most. `total` may be given when the caller knows it.
        """
        column = self.model.created_at if newest_by is None else newest_by
        total = await self.total(*where) if total is None else total
        skip = (page - 1) * limit
        take = min(limit, total - skip)
        if take <= 0:
            return Page([], total, page, limit)
        from_the_end = skip > total // 2
        ids = (
            select(self.model.id)
            .where(*where)
            .order_by(*_order(column, self.model.id, ascending=oldest_first is not from_the_end))
            .offset(total - skip - take if from_the_end else skip)
            .limit(take)
        )
        found = (await self.session.execute(ids)).scalars().all()
        order = _order(column, self.model.id, ascending=oldest_first)
        return Page(await self.all(self.model.id.in_(found), order=order), total, page, limit)


async def count_of(session: AsyncSession, model: type[Any], *where: ColumnElement[bool]) -> int:
    """Counts the rows of a table."""
    return (await session.execute(select(func.count()).select_from(model).where(*where))).scalar_one()


def _order(column: Any, row_id: Any, *, ascending: bool) -> tuple[Any, Any]:  # noqa: ANN401 -- columns
    return (column.asc(), row_id.asc()) if ascending else (column.desc(), row_id.desc())


def stamp(row: R, now: datetime) -> R:
    """Marks a row as changed now."""
    row.updated_at = now
    return row
