"""Health checks: which rows are to be checked, and the checks that were made."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import select

from dataguardian.db.models import Datasource, HealthCheck, StorageLocation
from dataguardian.db.repositories.base import Repository


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
