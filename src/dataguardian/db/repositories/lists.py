"""The lists that people page through, and what each may be narrowed to."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    BackupExecution,
    BackupJob,
    Datasource,
    ExecutionLog,
    HealthCheck,
    NotificationRow,
    Repair,
    Restore,
    StorageLocation,
    Verification,
)
from dataguardian.db.repositories.base import Page
from dataguardian.db.repositories.checks import CheckRepository
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import ExecutionFilter, ExecutionRepository, JobRepository
from dataguardian.db.repositories.notifications import LogRepository, NotificationRepository
from dataguardian.db.repositories.work import WorkRepository
from dataguardian.domain.states import DatasourceStatus, EntityType, NotificationType, Severity

Conditions = Sequence[ColumnElement[bool]]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a list is narrowed to; None does not. `since` belongs to the list, `until` no longer. A list minds those
    that it has a column for.
    """

    job_id: uuid.UUID | None = None
    datasource_id: uuid.UUID | None = None
    storage_location_id: uuid.UUID | None = None
    execution_id: uuid.UUID | None = None
    status: Any = None
    """A word of the list's own states."""
    since: datetime | None = None
    until: datetime | None = None

    def of_backup(self) -> Mapping[str, uuid.UUID]:
        """Returns those that are about a backup, by the column of its table."""
        given = {
            "job_id": self.job_id,
            "datasource_id": self.datasource_id,
            "storage_location_id": self.storage_location_id,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class NotificationFilters:
    """What the list of notifications is narrowed to; None does not."""

    type: NotificationType | None = None
    severity: Severity | None = None
    unread: bool | None = None
    entity_type: EntityType | None = None
    entity_id: uuid.UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


class Lists:
    """Each returns a page, newest first."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def datasources_by_status(self) -> dict[DatasourceStatus, int]:
        """Returns how many datasources are in each state; states without any too."""
        statement = select(Datasource.status, func.count()).group_by(Datasource.status)
        found = {status: count for status, count in await self.session.execute(statement)}  # noqa: C416 -- rows
        return {status: found.get(status, 0) for status in DatasourceStatus}

    async def datasources(self, filters: Filters, page: int, limit: int) -> Page[Datasource]:
        where = _equal(Datasource, status=filters.status)
        return await DatasourceRepository(self.session).page(*where, page=page, limit=limit)

    async def storages(self, filters: Filters, page: int, limit: int) -> Page[StorageLocation]:
        where = _equal(StorageLocation, status=filters.status)
        return await StorageRepository(self.session).page(*where, page=page, limit=limit)

    async def jobs(self, filters: Filters, page: int, limit: int) -> Page[BackupJob]:
        where = _equal(BackupJob, datasource_id=filters.datasource_id, storage_location_id=filters.storage_location_id)
        return await JobRepository(self.session).page(*where, page=page, limit=limit)

    async def executions(self, filters: Filters, page: int, limit: int) -> Page[BackupExecution]:
        chosen = ExecutionFilter(
            job_id=filters.job_id,
            datasource_id=filters.datasource_id,
            storage_location_id=filters.storage_location_id,
            status=filters.status,
            created_from=filters.since,
            created_to=filters.until,
        )
        return await ExecutionRepository(self.session).listed(chosen, page=page, limit=limit)

    async def works(
        self, works: WorkRepository[Any], filters: Filters, page: int, limit: int
    ) -> Page[Restore | Verification | Repair]:
        """Returns restores, verifications or repairs; what is about a backup narrows to those of such backups."""
        model = works.model
        where = [*_equal(model, execution_id=filters.execution_id, status=filters.status)]
        where += _between(model.created_at, filters.since, filters.until)
        if filters.of_backup():
            backups = select(BackupExecution.id).where(*_equal(BackupExecution, **filters.of_backup()))
            where.append(model.execution_id.in_(backups))
        return await works.page(*where, page=page, limit=limit)

    async def checks(self, filters: Filters, page: int, limit: int) -> Page[HealthCheck]:
        where = [
            *_equal(
                HealthCheck,
                status=filters.status,
                datasource_id=filters.datasource_id,
                storage_location_id=filters.storage_location_id,
            ),
            *_between(HealthCheck.checked_at, filters.since, filters.until),
        ]
        return await CheckRepository(self.session).page(
            *where, page=page, limit=limit, newest_by=HealthCheck.checked_at
        )

    async def notifications(self, filters: NotificationFilters, page: int, limit: int) -> Page[NotificationRow]:
        where = [
            *_equal(
                NotificationRow,
                type=filters.type,
                severity=filters.severity,
                entity_type=filters.entity_type,
                entity_id=filters.entity_id,
            ),
            *_between(NotificationRow.created_at, filters.since, filters.until),
        ]
        if filters.unread is not None:
            read_at = NotificationRow.read_at
            where.append(read_at.is_(None) if filters.unread else read_at.is_not(None))
        return await NotificationRepository(self.session).page(*where, page=page, limit=limit)

    async def logs(self, owner_id: uuid.UUID, after: int, page: int, limit: int) -> Page[ExecutionLog]:
        """Returns lines of one log, oldest first, that follow line number `after`."""
        where = (ExecutionLog.owner_id == owner_id, ExecutionLog.number > after)
        logs = LogRepository(self.session)
        return await logs.page(*where, page=page, limit=limit, newest_by=ExecutionLog.number, oldest_first=True)


def _equal(model: Any, **given: uuid.UUID | StrEnum | None) -> Conditions:  # noqa: ANN401 -- a table's class
    return [getattr(model, name) == value for name, value in given.items() if value is not None]


def _between(column: Any, since: datetime | None, until: datetime | None) -> Conditions:  # noqa: ANN401 -- a column
    conditions: list[ColumnElement[bool]] = [column >= since] if since is not None else []
    return [*conditions, column < until] if until is not None else conditions
