"""Bodies of /api/backup-jobs."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints

from dataguardian.api.schemas.common import Flag, Input, JsonObject, Moment, Name, Output, example, shown, unsent
from dataguardian.db.models import BackupJob
from dataguardian.domain.retention import Decision, RetentionPolicy, describe
from dataguardian.service.definitions import shown_options
from dataguardian.service.options import BackupOptions
from dataguardian.service.sweep import RetentionPreview

Cron = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    Field(description="Five fields, or @daily and its like; null for a job that only people start"),
]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64), Field(description="IANA name: Europe/Lisbon")]

_ID = "0199e0a2-0000-7000-8000-000000000000"


class JobIn(Input):
    model_config = example(
        {
            "name": "shop, nightly",
            "datasource_id": _ID,
            "schedule_cron": "30 2 * * *",
            "schedule_timezone": "Europe/Lisbon",
            "retention_policy": {"keep_daily": 7, "keep_weekly": 4, "keep_monthly": 12},
            "backup_options": {"compression": "zstd"},
        }
    )

    name: Name
    datasource_id: uuid.UUID
    storage_location_id: Annotated[
        uuid.UUID | None, Field(description="null: the one that is the default when the backup runs")
    ] = None
    schedule_cron: Cron | None = None
    schedule_timezone: Annotated[Zone | None, Field(description="null: the time zone of this DataGuardian")] = None
    enabled: Flag = True
    retention_policy: RetentionPolicy = RetentionPolicy()
    backup_options: BackupOptions = BackupOptions()

    def fields(self) -> dict[str, Any]:
        """Returns what core takes."""
        documents = {
            "retention_policy": self.retention_policy.model_dump(mode="json"),
            "backup_options": self.backup_options.document(),
        }
        return self.sent() | documents


class JobChange(Input):
    """Only what is sent changes; policy and options one by one, and null brings an option's default back."""

    model_config = example({"schedule_cron": "0 */6 * * *", "retention_policy": {"keep_daily": 14}})

    name: Name = unsent()
    datasource_id: uuid.UUID = unsent()
    storage_location_id: uuid.UUID | None = unsent()
    schedule_cron: Cron | None = unsent()
    schedule_timezone: Zone = unsent()
    enabled: Flag = unsent()
    retention_policy: JsonObject = unsent()
    backup_options: JsonObject = unsent()


class JobOut(Output):
    id: uuid.UUID
    name: str
    datasource_id: uuid.UUID
    storage_location_id: uuid.UUID | None
    schedule_cron: str | None
    schedule_timezone: str
    enabled: bool
    retention_policy: JsonObject
    backup_options: JsonObject
    next_execution_at: Moment | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, row: BackupJob) -> Self:
        return shown(cls, row, backup_options=shown_options(row))


class RetainedOut(Output):
    """What retention would do with one backup if it ran now."""

    execution_id: uuid.UUID
    local_date: Annotated[date, Field(description="The backup's date in the job's time zone")]
    size_bytes: Annotated[int, Field(description="What it takes in the storage")]
    keep: bool
    reasons: Annotated[list[str], Field(description="The rules that hold it: daily, weekly, monthly, last, pinned, …")]
    expires_on: Annotated[date | None, Field(description="When it goes if nothing else happens; null: never")]
    explanation: str

    @classmethod
    def of(cls, decision: Decision) -> Self:
        return shown(cls, decision, execution_id=decision.id, explanation=describe(decision))


class PreviewOut(Output):
    """What a cleanup would do with a job's backups now; they are listed newest first."""

    job_id: uuid.UUID
    today: date
    timezone: str
    blocked: Annotated[str | None, Field(description="Why a cleanup would remove nothing, whatever the rules say")]
    removed: Annotated[int, Field(ge=0, description="How many would go now")]
    removed_bytes: Annotated[int, Field(ge=0)]
    backups: list[RetainedOut]

    @classmethod
    def of(cls, preview: RetentionPreview) -> Self:
        return shown(
            cls,
            preview,
            removed=len(preview.doomed),
            removed_bytes=sum(decision.size_bytes for decision in preview.doomed),
            backups=[RetainedOut.of(decision) for decision in preview.decisions],
        )
