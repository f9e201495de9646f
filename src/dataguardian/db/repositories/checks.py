"""Health checks: which rows are to be checked, and the checks that were made."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, select

from dataguardian.db.models import Datasource, HealthCheck, StorageLocation
from dataguardian.db.repositories.base import Page, Repository


class CheckRepository(Repository[HealthCheck]):
    model = HealthCheck
    noun = "health check"

    async def datasources_to_check(self) -> Sequence[uuid.UUID]:
        """Returns those that are switched on, the one whose last check is the longest ago first."""
        column = Datasource.last_health_check_at
        statement = select(Datasource.id).where(Datasource.enabled.is_(True)).order_by(column.nulls_first())
        return (await self.session.execute(statement)).scalars().all()

    async def storages_to_check(self) -> Sequence[uuid.UUID]:
        """Returns all storage locations, in the same order."""
        statement = select(StorageLocation.id).order_by(StorageLocation.last_health_check_at.nulls_first())
        return (await self.session.execute(statement)).scalars().all()

    async def add_many(self, rows: Sequence[HealthCheck]) -> None:
        """Inserts checks in batches."""
        self.session.add_all(rows)
        await self.session.flush()

    async def of_datasource(self, datasource_id: uuid.UUID, *, page: int, limit: int) -> Page[HealthCheck]:
        """Returns a page of a datasource's checks, newest first."""
        where = HealthCheck.datasource_id == datasource_id
        return await self.page(where, page=page, limit=limit, newest_by=HealthCheck.checked_at)

    async def of_storage(self, storage_location_id: uuid.UUID, *, page: int, limit: int) -> Page[HealthCheck]:
        """Returns a page of a storage location's checks, newest first."""
        where = HealthCheck.storage_location_id == storage_location_id
        return await self.page(where, page=page, limit=limit, newest_by=HealthCheck.checked_at)

    async def latest(self) -> Sequence[HealthCheck]:
        """Returns the newest check of every datasource and every storage location that was ever checked."""
        newest = [
            select(_newest(HealthCheck.datasource_id == Datasource.id, Datasource)).select_from(Datasource),
            select(_newest(HealthCheck.storage_location_id == StorageLocation.id, StorageLocation)).select_from(
                StorageLocation
            ),
        ]
        ids = [row_id for statement in newest for row_id in (await self.session.execute(statement)).scalars() if row_id]
        return await self.all(HealthCheck.id.in_(ids))


def _newest(where: ColumnElement[bool], entity: type[Datasource | StorageLocation]) -> ScalarSelect[Any]:
    """Returns the subquery of the id of the newest check of the row at hand."""
    return (
        select(HealthCheck.id)
        .where(where)
        .order_by(HealthCheck.checked_at.desc(), HealthCheck.id.desc())
        .limit(1)
        .correlate(entity)
        .scalar_subquery()
    )
