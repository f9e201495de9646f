"""The tables of SPEC M11. Sizes are bytes, times aware UTC, ids UUIDv7. Only repositories use these classes."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dataguardian.db.types import Identifier, Json, UtcDateTime, word
from dataguardian.domain.states import (
    CheckStatus,
    DatasourceStatus,
    EntityType,
    ExecutionStatus,
    NotificationType,
    Severity,
    StorageStatus,
    TargetStatus,
    Trigger,
    WorkStatus,
)

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

IS_ACTIVE = text("status IN ('queued', 'running')")
"""Written out in a query, too: a planner uses a partial index only when it sees the index's own words."""
IS_OWED = text("status IN ('pending', 'sending')")
IS_BEHIND = text("status = 'behind'")


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 -- the way SQLAlchemy reads it
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[str]: Json,
        uuid.UUID: Identifier(),
        int: BigInteger(),
        float: Double(),
        ExecutionStatus: word(ExecutionStatus),
        WorkStatus: word(WorkStatus),
        Trigger: word(Trigger),
        TargetStatus: word(TargetStatus),
        DatasourceStatus: word(DatasourceStatus),
        StorageStatus: word(StorageStatus),
        CheckStatus: word(CheckStatus),
        Severity: word(Severity),
        EntityType: word(EntityType),
        NotificationType: word(NotificationType),
    }


class Row:
    """What every table has."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Datasource(Row, Base):
    __tablename__ = "datasources"

    name: Mapped[str] = mapped_column(String(200), unique=True)
    type: Mapped[str] = mapped_column(String(50), index=True)
    connection_config: Mapped[dict[str, Any]]
    status: Mapped[DatasourceStatus] = mapped_column(index=True)
    enabled: Mapped[bool]
    production: Mapped[bool]
    """Operators may not restore into it."""
    tags: Mapped[list[str]]
    last_health_check_at: Mapped[datetime | None]
    consecutive_failures: Mapped[int] = mapped_column(Integer)
    usual_latency_ms: Mapped[float | None]
    outage_since: Mapped[datetime | None]
    """Set when `connection_lost` was notified, cleared when `connection_restored` was: one message per outage."""


class StorageLocation(Row, Base):
    __tablename__ = "storage_locations"
    __table_args__ = (
        Index(
            "uq_storage_locations_default",
            "is_default",
            unique=True,
            sqlite_where=text("is_default"),
            postgresql_where=text("is_default"),
        ),
    )

    name: Mapped[str] = mapped_column(String(200), unique=True)
    type: Mapped[str] = mapped_column(String(50), index=True)
    config: Mapped[dict[str, Any]]
    is_default: Mapped[bool]
    status: Mapped[StorageStatus]
    available_space_gb: Mapped[float | None]
    last_health_check_at: Mapped[datetime | None]
    consecutive_failures: Mapped[int] = mapped_column(Integer)
    outage_since: Mapped[datetime | None]


class BackupJob(Row, Base):
    __tablename__ = "backup_jobs"
    __table_args__ = (Index("ix_backup_jobs_due", "enabled", "next_execution_at", "id"),)

    datasource_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasources.id", ondelete="RESTRICT"), index=True)
    storage_location_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("storage_locations.id", ondelete="RESTRICT"), index=True
    )
    """None: the storage location that is the default when the backup runs."""
    name: Mapped[str] = mapped_column(String(200), unique=True)
    schedule_cron: Mapped[str | None] = mapped_column(String(200))
    """None: only when somebody starts it."""
    schedule_timezone: Mapped[str] = mapped_column(String(64))
    enabled: Mapped[bool]
    retention_policy: Mapped[dict[str, Any]]
    backup_options: Mapped[dict[str, Any]]
    next_execution_at: Mapped[datetime | None]


class BackupExecution(Row, Base):
    __tablename__ = "backup_executions"
    __table_args__ = (
        # Only active rows: what claims, the reconciler and the scheduler poll stays small beside a million ended ones.
        Index(
            "uq_backup_executions_active",
            "job_id",
            unique=True,
            sqlite_where=IS_ACTIVE,
            postgresql_where=IS_ACTIVE,
        ),
        Index(
            "ix_backup_executions_active",
            "status",
            "id",
            sqlite_where=IS_ACTIVE,
            postgresql_where=IS_ACTIVE,
        ),
        # One per filter of the list, in the list's order. What follows `id` lets a second filter, or the sum of what
        # is stored, be answered without a look at the rows.
        Index("ix_backup_executions_created", "created_at", "id"),
        Index("ix_backup_executions_status", "status", "created_at", "id"),
        Index("ix_backup_executions_job", "job_id", "created_at", "id"),
        Index("ix_backup_executions_job_status", "job_id", "status", "created_at", "id"),
        Index("ix_backup_executions_datasource", "datasource_id", "created_at", "id", "status"),
        Index(
            "ix_backup_executions_storage",
            "storage_location_id",
            "created_at",
            "id",
            "status",
            "compressed_size_bytes",
        ),
        # Cleanup asks of many directories whether a backup is there.
        Index("ix_backup_executions_path", "backup_path"),
    )

    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("backup_jobs.id", ondelete="RESTRICT"))
    datasource_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasources.id", ondelete="RESTRICT"))
    storage_location_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("storage_locations.id", ondelete="RESTRICT")
    )
    status: Mapped[ExecutionStatus]
    trigger: Mapped[Trigger]
    scheduled_for: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    duration_seconds: Mapped[float | None]
    size_bytes: Mapped[int | None]
    compressed_size_bytes: Mapped[int | None]
    backup_path: Mapped[str | None] = mapped_column(Text)
    """The winning attempt's directory."""
    attempt_path: Mapped[str | None] = mapped_column(Text)
    """The current attempt's directory, recorded before its first put."""
    backup_type: Mapped[str] = mapped_column(String(20))
    checksum: Mapped[str | None] = mapped_column(String(64))
    error_code: Mapped[str | None] = mapped_column(String(50))
    """The word of the error, as API and exit codes know it."""
    error_message: Mapped[str | None] = mapped_column(Text)
    error_stack: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")
    pinned: Mapped[bool]
    attempt: Mapped[int] = mapped_column(Integer)
    """Fencing token: counts claims; only the holder of the newest may write."""
    tries_left: Mapped[int] = mapped_column(Integer)
    enqueue_number: Mapped[int] = mapped_column(Integer)
    """Part of the queue job's id: an id that was used is dead for ever."""
    cancel_requested: Mapped[bool]
    worker: Mapped[str | None] = mapped_column(String(100))
    """`<boot id of the home>/<process>` of the holder."""
    lease_until: Mapped[datetime | None]
    """Has no index: it changes every few seconds, and only active rows are ever asked for it."""


class ExecutionTarget(Row, Base):
    """One of several storage locations of an execution. One that has a single storage location has no rows here."""

    __tablename__ = "execution_targets"
    __table_args__ = (
        UniqueConstraint("execution_id", "storage_location_id"),
        Index("ix_execution_targets_storage", "storage_location_id", "status", "size_bytes"),
        Index(
            "ix_execution_targets_behind",
            "next_repair_at",
            "id",
            sqlite_where=IS_BEHIND,
            postgresql_where=IS_BEHIND,
        ),
    )

    execution_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("backup_executions.id", ondelete="CASCADE"))
    storage_location_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("storage_locations.id", ondelete="RESTRICT"))
    position: Mapped[int] = mapped_column(Integer)
    """From 0, in the order of the job."""
    status: Mapped[TargetStatus]
    error: Mapped[str | None] = mapped_column(String(50))
    error_message: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int | None]
    """What the backup takes here, once it is stored."""
    failed_repairs: Mapped[int] = mapped_column(Integer)
    next_repair_at: Mapped[datetime | None]


class AbandonedDirectory(Row, Base):
    """Directories that failed or cancelled attempts may have left in a storage; only these does cleanup remove."""

    __tablename__ = "abandoned_directories"
    __table_args__ = (
        Index("ix_abandoned_directories_execution", "execution_id", "created_at", "id"),
        Index("ix_abandoned_directories_path", "path"),
    )

    execution_id: Mapped[uuid.UUID]
    """No foreign key: the row of an execution may go before its storage can be reached."""
    storage_location_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("storage_locations.id", ondelete="RESTRICT"), index=True
    )
    path: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(String(50))


class BackupChunk(Row, Base):
    __tablename__ = "backup_chunks"
    __table_args__ = (UniqueConstraint("execution_id", "chunk_number"),)

    execution_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("backup_executions.id", ondelete="CASCADE"))
    chunk_number: Mapped[int] = mapped_column(Integer)
    file_path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int]
    checksum: Mapped[str] = mapped_column(String(64))


def _work_indexes(table: str) -> tuple[Index, ...]:
    return (
        Index(f"ix_{table}_active", "status", "id", sqlite_where=IS_ACTIVE, postgresql_where=IS_ACTIVE),
        Index(f"ix_{table}_created", "created_at", "id"),
        Index(f"ix_{table}_status", "status", "created_at", "id"),
        Index(f"ix_{table}_execution", "execution_id", "created_at", "id"),
    )


class Work:
    """What restores, verifications and repairs share. While one is queued or running it is a lease on its backup."""

    execution_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("backup_executions.id", ondelete="RESTRICT"))
    status: Mapped[WorkStatus]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    duration_seconds: Mapped[float | None]
    size_bytes: Mapped[int | None]
    error_code: Mapped[str | None] = mapped_column(String(50))
    """The word of the error, as API and exit codes know it."""
    error_message: Mapped[str | None] = mapped_column(Text)
    error_stack: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")
    attempt: Mapped[int] = mapped_column(Integer)
    enqueue_number: Mapped[int] = mapped_column(Integer)
    cancel_requested: Mapped[bool]
    worker: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[datetime | None]


class Restore(Row, Work, Base):
    """A restore is never a backup: it has a table of its own and counts nowhere else."""

    __tablename__ = "restores"
    __table_args__ = (
        *_work_indexes("restores"),
        Index("ix_restores_target", "target_datasource_id", "created_at", "id"),
    )

    target_datasource_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasources.id", ondelete="RESTRICT"))
    drop_existing: Mapped[bool]
    streams: Mapped[list[str]]


class Verification(Row, Work, Base):
    __tablename__ = "verifications"
    __table_args__ = _work_indexes("verifications")

    deep: Mapped[bool]
    ok: Mapped[bool | None]
    errors: Mapped[list[str]]


class Repair(Row, Work, Base):
    """Copies a backup to a storage location that is behind, from one that holds it."""

    __tablename__ = "repairs"
    __table_args__ = (
        *_work_indexes("repairs"),
        Index(
            "uq_repairs_active",
            "execution_id",
            "storage_location_id",
            unique=True,
            sqlite_where=IS_ACTIVE,
            postgresql_where=IS_ACTIVE,
        ),
    )

    storage_location_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("storage_locations.id", ondelete="RESTRICT"), index=True
    )


class ExecutionLog(Row, Base):
    """One line of the log that is kept per execution, restore or verification. Its id tells its age."""

    __tablename__ = "execution_logs"
    __table_args__ = (UniqueConstraint("owner_id", "number"),)

    owner_id: Mapped[uuid.UUID]
    number: Mapped[int]
    level: Mapped[str] = mapped_column(String(10))
    message: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")


class HealthCheck(Row, Base):
    """A check of a datasource, or of a storage location: exactly one of the two is set."""

    __tablename__ = "health_checks"
    __table_args__ = (
        Index("ix_health_checks_datasource", "datasource_id", "checked_at", "id"),
        Index("ix_health_checks_storage", "storage_location_id", "checked_at", "id"),
        Index("ix_health_checks_checked", "checked_at", "id"),
        CheckConstraint("(datasource_id IS NULL) <> (storage_location_id IS NULL)", name="one_subject"),
    )

    datasource_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("datasources.id", ondelete="CASCADE"))
    storage_location_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("storage_locations.id", ondelete="CASCADE")
    )
    checked_at: Mapped[datetime]
    status: Mapped[CheckStatus]
    latency_ms: Mapped[float | None]
    error_message: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")


class NotificationRow(Row, Base):
    __tablename__ = "notifications"
    __table_args__ = (
        Index("ix_notifications_created", "created_at", "id"),
        Index(
            "ix_notifications_unread",
            "created_at",
            "id",
            sqlite_where=text("read_at IS NULL"),
            postgresql_where=text("read_at IS NULL"),
        ),
        Index(
            "ix_notifications_read",
            "read_at",
            sqlite_where=text("read_at IS NOT NULL"),
            postgresql_where=text("read_at IS NOT NULL"),
        ),
        Index("ix_notifications_entity", "entity_type", "entity_id", "created_at", "id"),
    )

    type: Mapped[NotificationType]
    severity: Mapped[Severity]
    entity_type: Mapped[EntityType]
    entity_id: Mapped[uuid.UUID | None]
    title: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")
    read_at: Mapped[datetime | None]


class NotificationDelivery(Row, Base):
    """One channel that a notification was routed to. Rows that are not `sent` are what the queue still owes."""

    __tablename__ = "notification_deliveries"
    __table_args__ = (
        UniqueConstraint("notification_id", "channel"),
        Index("ix_notification_deliveries_status", "status", "created_at", "id"),
        Index("ix_notification_deliveries_owed", "id", sqlite_where=IS_OWED, postgresql_where=IS_OWED),
        CheckConstraint("status IN ('pending', 'sending', 'sent', 'failed')", name="status"),
    )

    notification_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("notifications.id", ondelete="CASCADE"))
    channel: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int] = mapped_column(Integer)
    enqueue_number: Mapped[int] = mapped_column(Integer)
    error_message: Mapped[str | None] = mapped_column(Text)


class SystemSetting(Row, Base):
    __tablename__ = "system_settings"

    key: Mapped[str] = mapped_column(String(200), unique=True)
    value: Mapped[dict[str, Any]]
    description: Mapped[str] = mapped_column(Text)
