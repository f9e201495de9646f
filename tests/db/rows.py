"""Rows for tests: a moment that does not move, and one function per table with fields that do not matter."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from dataguardian.db.models import (
    BackupExecution,
    BackupJob,
    Datasource,
    HealthCheck,
    NotificationRow,
    Restore,
    StorageLocation,
    Verification,
)
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import (
    CheckStatus,
    DatasourceStatus,
    EntityType,
    ExecutionStatus,
    NotificationType,
    Severity,
    StorageStatus,
    Trigger,
    WorkStatus,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
R = TypeVar("R", bound=Any)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def row(model: type[R], at: datetime, fields: dict[str, Any]) -> R:
    made: R = model(**{"id": new_id(at), "created_at": at, "updated_at": at} | fields)
    return made


def datasource(name: str = "shop", *, at: datetime = NOW, **fields: Any) -> Datasource:
    given = {"name": name, "type": "sqlite", "connection_config": {}, "status": DatasourceStatus.UNKNOWN}
    return row(
        Datasource, at, given | {"enabled": True, "production": True, "tags": [], "consecutive_failures": 0} | fields
    )


def storage(name: str = "disk", *, at: datetime = NOW, **fields: Any) -> StorageLocation:
    given = {"name": name, "type": "local", "config": {}, "is_default": False, "status": StorageStatus.UNKNOWN}
    return row(StorageLocation, at, given | {"consecutive_failures": 0} | fields)


def job(
    source: Datasource, place: StorageLocation | None, name: str = "nightly", *, at: datetime = NOW, **fields: Any
) -> BackupJob:
    given = {
        "name": name,
        "datasource_id": source.id,
        "storage_location_id": place.id if place else None,
        "schedule_timezone": "UTC",
        "enabled": True,
        "retention_policy": {},
        "backup_options": {},
    }
    return row(BackupJob, at, given | fields)


def execution(of: BackupJob, *, at: datetime = NOW, **fields: Any) -> BackupExecution:
    given: dict[str, Any] = {
        "job_id": of.id,
        "datasource_id": of.datasource_id,
        "storage_location_id": of.storage_location_id,
        "status": ExecutionStatus.QUEUED,
        "trigger": Trigger.MANUAL,
        "backup_type": "full",
        "details": {},
        "pinned": False,
        "attempt": 0,
        "tries_left": 3,
        "enqueue_number": 1,
        "cancel_requested": False,
    }
    return row(BackupExecution, at, given | fields)


def completed(of: BackupJob, *, at: datetime = NOW, size: int = 100, **fields: Any) -> BackupExecution:
    given: dict[str, Any] = {
        "status": ExecutionStatus.COMPLETED,
        "finished_at": at,
        "size_bytes": size * 2,
        "duration_seconds": 1.5,
    }
    return execution(of, at=at, **given | {"compressed_size_bytes": size, "backup_path": f"nightly/{at}"} | fields)


def restore(of: BackupExecution, *, at: datetime = NOW, **fields: Any) -> Restore:
    own = {"target_datasource_id": of.datasource_id, "drop_existing": False, "streams": []}
    return row(Restore, at, _work(of) | own | fields)


def verification(of: BackupExecution, *, at: datetime = NOW, **fields: Any) -> Verification:
    return row(Verification, at, _work(of) | {"deep": False, "errors": []} | fields)


def check(of: Datasource, *, at: datetime = NOW, **fields: Any) -> HealthCheck:
    given = {"datasource_id": of.id, "checked_at": at, "status": CheckStatus.OK, "latency_ms": 1.0, "details": {}}
    return row(HealthCheck, at, given | fields)


def notification(*, at: datetime = NOW, **fields: Any) -> NotificationRow:
    given = {"type": NotificationType.TEST, "severity": Severity.INFO, "entity_type": EntityType.SYSTEM}
    return row(NotificationRow, at, given | {"title": "t", "message": "m", "details": {}} | fields)


def _work(of: BackupExecution) -> dict[str, Any]:
    return {
        "execution_id": of.id,
        "status": WorkStatus.QUEUED,
        "details": {},
        "attempt": 0,
        "enqueue_number": 1,
        "cancel_requested": False,
    }


async def add_house(session: Any, name: str = "shop", **fields: Any) -> BackupJob:
    """Adds a datasource, a storage location and a job of that name, which belong together."""
    source, place = datasource(name), storage(name)
    session.add_all([source, place])
    await session.flush()
    made = job(source, place, name, **fields)
    session.add(made)
    await session.flush()
    return made


def some_id() -> uuid.UUID:
    return new_id(NOW)
