"""Datasources and storage locations: what people define."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select, update

from dataguardian.db.models import Datasource, StorageLocation
from dataguardian.db.repositories.base import Repository


class DatasourceRepository(Repository[Datasource]):
    model = Datasource
    noun = "datasource"

    async def enabled_ids(self, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Returns those of `ids` that are switched on."""
        statement = select(Datasource.id).where(Datasource.id.in_(ids), Datasource.enabled.is_(True))
        return set((await self.session.execute(statement)).scalars())


class StorageRepository(Repository[StorageLocation]):
    model = StorageLocation
    noun = "storage location"

    async def default(self) -> StorageLocation | None:
        """Returns the one that jobs without a storage location use; at most one row is marked so."""
        statement = select(StorageLocation).where(StorageLocation.is_default.is_(True))
        return (await self.session.execute(statement)).scalars().first()

    async def clear_default(self, now: datetime) -> None:
        """Makes no storage location the default, so that another one can become it in this transaction."""
        statement = update(StorageLocation).where(StorageLocation.is_default.is_(True))
        await self.changed(statement.values(is_default=False, updated_at=now))
