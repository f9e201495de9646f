"""The first catalogue: the tables of SPEC M11, and what fences, queues and notifications need beside them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

ID = sa.Uuid().with_variant(sa.LargeBinary(16), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
WORD = sa.String(32)
ACTIVE = sa.text("status IN ('queued', 'running')")

EXECUTION_STATUS = ("queued", "running", "completed", "failed", "cancelled", "skipped", "partial", "deleting")
WORK_STATUS = ("queued", "running", "completed", "failed", "cancelled")
NOTIFICATION_TYPE = (
    "backup_failed",
    "backup_success",
    "connection_lost",
    "connection_restored",
    "cleanup_completed",
    "storage_full",
    "storage_unreachable",
    "health_degraded",
    "system_alarm",
    "daily_digest",
    "test",
)


def upgrade() -> None:
    _create_datasources()
    _create_storage_locations()
    _create_backup_jobs()
    _create_backup_executions()
    _create_abandoned_directories()
    _create_backup_chunks()
    _create_restores()
    _create_verifications()
    _create_execution_logs()
    _create_health_checks()
    _create_notifications()
    _create_notification_deliveries()
    _create_system_settings()


def downgrade() -> None:
    for table in (
        "system_settings",
        "notification_deliveries",
        "notifications",
        "health_checks",
        "execution_logs",
        "verifications",
        "restores",
        "backup_chunks",
        "abandoned_directories",
        "backup_executions",
        "backup_jobs",
        "storage_locations",
        "datasources",
    ):
        op.drop_table(table)


def _create_datasources() -> None:
    _create(
        "datasources",
        _needed("name", sa.String(200)),
        _needed("type", sa.String(50)),
        _needed("connection_config", JSON),
        _needed("status", WORD),
        _needed("enabled", sa.Boolean()),
        _needed("tags", JSON),
        _maybe("last_health_check_at", TIME),
        _needed("consecutive_failures", sa.Integer()),
        _maybe("usual_latency_ms", sa.Double()),
        _maybe("outage_since", TIME),
        _unique("datasources", "name"),
        _words("datasources", "datasource_status", "status", ("healthy", "warning", "critical", "unknown")),
    )
    op.create_index("ix_datasources_type", "datasources", ["type"])
    op.create_index("ix_datasources_status", "datasources", ["status"])


def _create_storage_locations() -> None:
    _create(
        "storage_locations",
        _needed("name", sa.String(200)),
        _needed("type", sa.String(50)),
        _needed("config", JSON),
        _needed("is_default", sa.Boolean()),
        _needed("status", WORD),
        _maybe("available_space_gb", sa.Double()),
        _maybe("last_health_check_at", TIME),
        _needed("consecutive_failures", sa.Integer()),
        _maybe("outage_since", TIME),
        _unique("storage_locations", "name"),
        _words("storage_locations", "storage_status", "status", ("healthy", "full", "unreachable", "unknown")),
    )
    op.create_index("ix_storage_locations_type", "storage_locations", ["type"])
    _partial_index(
        "uq_storage_locations_default", "storage_locations", ["is_default"], sa.text("is_default"), unique=True
    )


def _create_backup_jobs() -> None:
    _create(
        "backup_jobs",
        _needed("datasource_id", ID),
        _maybe("storage_location_id", ID),
        _needed("name", sa.String(200)),
        _maybe("schedule_cron", sa.String(200)),
        _needed("schedule_timezone", sa.String(64)),
        _needed("enabled", sa.Boolean()),
        _needed("retention_policy", JSON),
        _needed("backup_options", JSON),
        _maybe("next_execution_at", TIME),
        _refers("backup_jobs", "datasource_id", "datasources"),
        _refers("backup_jobs", "storage_location_id", "storage_locations"),
        _unique("backup_jobs", "name"),
    )
    op.create_index("ix_backup_jobs_datasource_id", "backup_jobs", ["datasource_id"])
    op.create_index("ix_backup_jobs_storage_location_id", "backup_jobs", ["storage_location_id"])
    op.create_index("ix_backup_jobs_due", "backup_jobs", ["enabled", "next_execution_at", "id"])


def _create_backup_executions() -> None:
    table = "backup_executions"
    _create(
        table,
        _maybe("job_id", ID),
        _needed("datasource_id", ID),
        _maybe("storage_location_id", ID),
        _needed("status", WORD),
        _needed("trigger", WORD),
        _maybe("scheduled_for", TIME),
        _maybe("started_at", TIME),
        _maybe("finished_at", TIME),
        _maybe("duration_seconds", sa.Double()),
        _maybe("size_bytes", sa.BigInteger()),
        _maybe("compressed_size_bytes", sa.BigInteger()),
        _maybe("backup_path", sa.Text()),
        _maybe("attempt_path", sa.Text()),
        _needed("backup_type", sa.String(20)),
        _maybe("checksum", sa.String(64)),
        _maybe("error_message", sa.Text()),
        _maybe("error_stack", sa.Text()),
        _needed("metadata", JSON),
        _needed("pinned", sa.Boolean()),
        _needed("attempt", sa.Integer()),
        _needed("tries_left", sa.Integer()),
        _needed("enqueue_number", sa.Integer()),
        _needed("cancel_requested", sa.Boolean()),
        _maybe("worker", sa.String(100)),
        _maybe("lease_until", TIME),
        _refers(table, "job_id", "backup_jobs"),
        _refers(table, "datasource_id", "datasources"),
        _refers(table, "storage_location_id", "storage_locations"),
        _words(table, "execution_status", "status", EXECUTION_STATUS),
        _words(table, "trigger", "trigger", ("manual", "scheduled")),
    )
    _partial_index("uq_backup_executions_active", table, ["job_id"], ACTIVE, unique=True)
    _partial_index("ix_backup_executions_active", table, ["status", "id"], ACTIVE)
    op.create_index("ix_backup_executions_created", table, ["created_at", "id"])
    op.create_index("ix_backup_executions_status", table, ["status", "created_at", "id"])
    op.create_index("ix_backup_executions_job", table, ["job_id", "created_at", "id"])
    op.create_index("ix_backup_executions_job_status", table, ["job_id", "status", "created_at", "id"])
    op.create_index("ix_backup_executions_datasource", table, ["datasource_id", "created_at", "id", "status"])
    stored = ["storage_location_id", "created_at", "id", "status", "compressed_size_bytes"]
    op.create_index("ix_backup_executions_storage", table, stored)
    op.create_index("ix_backup_executions_path", table, ["backup_path"])


def _create_abandoned_directories() -> None:
    _create(
        "abandoned_directories",
        _needed("execution_id", ID),
        _needed("storage_location_id", ID),
        _needed("path", sa.Text()),
        _needed("reason", sa.String(50)),
        _refers("abandoned_directories", "storage_location_id", "storage_locations"),
    )
    columns = ["execution_id", "created_at", "id"]
    op.create_index("ix_abandoned_directories_execution", "abandoned_directories", columns)
    op.create_index("ix_abandoned_directories_path", "abandoned_directories", ["path"])
    op.create_index("ix_abandoned_directories_storage_location_id", "abandoned_directories", ["storage_location_id"])


def _create_backup_chunks() -> None:
    _create(
        "backup_chunks",
        _needed("execution_id", ID),
        _needed("chunk_number", sa.Integer()),
        _needed("file_path", sa.Text()),
        _needed("size_bytes", sa.BigInteger()),
        _needed("checksum", sa.String(64)),
        _refers("backup_chunks", "execution_id", "backup_executions", "CASCADE"),
        _unique("backup_chunks", "execution_id", "chunk_number"),
    )


def _create_restores() -> None:
    _create(
        "restores",
        _needed("target_datasource_id", ID),
        _needed("drop_existing", sa.Boolean()),
        _needed("streams", JSON),
        *_work("restores"),
        _refers("restores", "target_datasource_id", "datasources"),
    )
    _create_work_indexes("restores")
    op.create_index("ix_restores_target", "restores", ["target_datasource_id", "created_at", "id"])


def _create_verifications() -> None:
    _create(
        "verifications",
        _needed("deep", sa.Boolean()),
        _maybe("ok", sa.Boolean()),
        _needed("errors", JSON),
        *_work("verifications"),
    )
    _create_work_indexes("verifications")


def _create_execution_logs() -> None:
    _create(
        "execution_logs",
        _needed("owner_id", ID),
        _needed("number", sa.BigInteger()),
        _needed("level", sa.String(10)),
        _needed("message", sa.Text()),
        _needed("metadata", JSON),
        _unique("execution_logs", "owner_id", "number"),
    )


def _create_health_checks() -> None:
    _create(
        "health_checks",
        _maybe("datasource_id", ID),
        _maybe("storage_location_id", ID),
        _needed("checked_at", TIME),
        _needed("status", WORD),
        _maybe("latency_ms", sa.Double()),
        _maybe("error_message", sa.Text()),
        _needed("metadata", JSON),
        _refers("health_checks", "datasource_id", "datasources", "CASCADE"),
        _refers("health_checks", "storage_location_id", "storage_locations", "CASCADE"),
        _words("health_checks", "check_status", "status", ("ok", "timeout", "auth_failed", "unreachable", "error")),
        sa.CheckConstraint(
            "(datasource_id IS NULL) <> (storage_location_id IS NULL)", name=op.f("ck_health_checks_one_subject")
        ),
    )
    op.create_index("ix_health_checks_datasource", "health_checks", ["datasource_id", "checked_at", "id"])
    op.create_index("ix_health_checks_storage", "health_checks", ["storage_location_id", "checked_at", "id"])
    op.create_index("ix_health_checks_checked", "health_checks", ["checked_at", "id"])


def _create_notifications() -> None:
    _create(
        "notifications",
        _needed("type", WORD),
        _needed("severity", WORD),
        _needed("entity_type", WORD),
        _maybe("entity_id", ID),
        _needed("title", sa.Text()),
        _needed("message", sa.Text()),
        _needed("metadata", JSON),
        _maybe("read_at", TIME),
        _words("notifications", "notification_type", "type", NOTIFICATION_TYPE),
        _words("notifications", "severity", "severity", ("info", "warning", "critical")),
        _words(
            "notifications",
            "entity_type",
            "entity_type",
            ("datasource", "backup_job", "storage_location", "system"),
        ),
    )
    op.create_index("ix_notifications_created", "notifications", ["created_at", "id"])
    unread = sa.text("read_at IS NULL")
    _partial_index("ix_notifications_unread", "notifications", ["created_at", "id"], unread)
    _partial_index("ix_notifications_read", "notifications", ["read_at"], sa.text("read_at IS NOT NULL"))
    entity = ["entity_type", "entity_id", "created_at", "id"]
    op.create_index("ix_notifications_entity", "notifications", entity)


def _create_notification_deliveries() -> None:
    _create(
        "notification_deliveries",
        _needed("notification_id", ID),
        _needed("channel", sa.String(100)),
        _needed("status", sa.String(20)),
        _needed("attempts", sa.Integer()),
        _needed("enqueue_number", sa.Integer()),
        _maybe("error_message", sa.Text()),
        _refers("notification_deliveries", "notification_id", "notifications", "CASCADE"),
        _unique("notification_deliveries", "notification_id", "channel"),
        _words("notification_deliveries", "status", "status", ("pending", "sending", "sent", "failed")),
    )
    columns = ["status", "created_at", "id"]
    op.create_index("ix_notification_deliveries_status", "notification_deliveries", columns)
    owed = sa.text("status IN ('pending', 'sending')")
    _partial_index("ix_notification_deliveries_owed", "notification_deliveries", ["id"], owed)


def _create_system_settings() -> None:
    _create(
        "system_settings",
        _needed("key", sa.String(200)),
        _needed("value", JSON),
        _needed("description", sa.Text()),
        _unique("system_settings", "key"),
    )


def _create(table: str, *items: sa.Column[Any] | sa.Constraint) -> None:
    """Creates a table of these columns and constraints, and what every table has."""
    op.create_table(
        table,
        _needed("id", ID),
        _needed("created_at", TIME),
        _needed("updated_at", TIME),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        *items,
    )


def _work(table: str) -> tuple[sa.Column[Any] | sa.Constraint, ...]:
    return (
        _needed("execution_id", ID),
        _needed("status", WORD),
        _maybe("started_at", TIME),
        _maybe("finished_at", TIME),
        _maybe("duration_seconds", sa.Double()),
        _maybe("size_bytes", sa.BigInteger()),
        _maybe("error_message", sa.Text()),
        _maybe("error_stack", sa.Text()),
        _needed("metadata", JSON),
        _needed("attempt", sa.Integer()),
        _needed("enqueue_number", sa.Integer()),
        _needed("cancel_requested", sa.Boolean()),
        _maybe("worker", sa.String(100)),
        _maybe("lease_until", TIME),
        _refers(table, "execution_id", "backup_executions"),
        _words(table, "work_status", "status", WORK_STATUS),
    )


def _create_work_indexes(table: str) -> None:
    _partial_index(f"ix_{table}_active", table, ["status", "id"], ACTIVE)
    op.create_index(f"ix_{table}_created", table, ["created_at", "id"])
    op.create_index(f"ix_{table}_status", table, ["status", "created_at", "id"])
    op.create_index(f"ix_{table}_execution", table, ["execution_id", "created_at", "id"])


def _needed(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _maybe(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _refers(table: str, column: str, target: str, ondelete: str = "RESTRICT") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete=ondelete)


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def _words(table: str, name: str, column: str, words: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{name}"))


def _partial_index(name: str, table: str, columns: list[str], where: sa.TextClause, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
