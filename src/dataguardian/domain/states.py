"""The words that rows, API and metrics use for states. They are stored: renaming one needs a migration."""

from __future__ import annotations

from enum import StrEnum


class ExecutionStatus(StrEnum):
    """Of a backup execution. `partial`: held by some of the storages that the job requires."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    PARTIAL = "partial"
    DELETING = "deleting"


ACTIVE = (ExecutionStatus.QUEUED, ExecutionStatus.RUNNING)
"""A job has at most one execution in these states; a partial unique index holds it."""


HOLDS_A_BACKUP = (ExecutionStatus.COMPLETED, ExecutionStatus.PARTIAL)
"""What can be restored: the bytes of a partial one are whole wherever it is stored."""


class TargetStatus(StrEnum):
    """Of one storage location of an execution that has several. `behind`: it must hold the backup, and does not yet;
    `unused`: the backup went elsewhere, as its fallback strategy allows.
    """

    PENDING = "pending"
    STORED = "stored"
    BEHIND = "behind"
    UNUSED = "unused"


class Strategy(StrEnum):
    """What several storage locations of a job are for: `replicate` to all, or `fallback` to the first that works."""

    REPLICATE = "replicate"
    FALLBACK = "fallback"


class WorkStatus(StrEnum):
    """Of a restore, a verification or a repair."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE_WORK = (WorkStatus.QUEUED, WorkStatus.RUNNING)


class Trigger(StrEnum):
    MANUAL = "manual"
    SCHEDULED = "scheduled"


class DatasourceStatus(StrEnum):
    """`warning`: one or two failed checks, or a probe far slower than usual."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class StorageStatus(StrEnum):
    HEALTHY = "healthy"
    FULL = "full"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


class CheckStatus(StrEnum):
    """Of one health check."""

    OK = "ok"
    TIMEOUT = "timeout"
    AUTH_FAILED = "auth_failed"
    UNREACHABLE = "unreachable"
    ERROR = "error"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class EntityType(StrEnum):
    """What a notification is about."""

    DATASOURCE = "datasource"
    BACKUP_JOB = "backup_job"
    STORAGE_LOCATION = "storage_location"
    SYSTEM = "system"


class NotificationType(StrEnum):
    BACKUP_FAILED = "backup_failed"
    BACKUP_SUCCESS = "backup_success"
    CONNECTION_LOST = "connection_lost"
    CONNECTION_RESTORED = "connection_restored"
    CLEANUP_COMPLETED = "cleanup_completed"
    STORAGE_FULL = "storage_full"
    STORAGE_UNREACHABLE = "storage_unreachable"
    HEALTH_DEGRADED = "health_degraded"
    SYSTEM_ALARM = "system_alarm"
    DAILY_DIGEST = "daily_digest"
    TEST = "test"
