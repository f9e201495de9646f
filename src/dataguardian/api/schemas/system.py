"""Bodies of /api/system."""

from __future__ import annotations

import uuid
from typing import Annotated, Self

from pydantic import Field

from dataguardian.api.schemas.common import Flag, Input, JsonObject, Moment, Output, example, shown
from dataguardian.api.schemas.executions import ExecutionOut
from dataguardian.db.models import BackupJob
from dataguardian.db.repositories.overview import JobNumbers
from dataguardian.db.repositories.samples import Tally
from dataguardian.domain.states import DatasourceStatus, ExecutionStatus, StorageStatus
from dataguardian.queues.definitions import QueueName
from dataguardian.service.overview import StorageNumbers, Summary
from dataguardian.service.queueboard import QueueNumbers, WatchedJob
from dataguardian.service.sampling import Sample
from dataguardian.service.systemsettings import Setting


class QueueOut(Output):
    name: QueueName
    concurrency: int
    attempts: int
    paused: bool
    counts: Annotated[dict[str, int], Field(description="How many jobs are in each state")]

    @classmethod
    def of(cls, queue: QueueNumbers) -> Self:
        return shown(cls, queue)


class QueueJobOut(Output):
    """A queue job says which row to look at; the row is the record."""

    id: str
    queue: QueueName
    state: str | None
    data: JsonObject
    priority: int
    attempts_made: int
    failed_reason: str | None
    created_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    progress: Annotated[JsonObject | None, Field(description="Of active jobs: what the work says of itself")]

    @classmethod
    def of(cls, watched: WatchedJob) -> Self:
        return shown(cls, watched.job, progress=watched.progress)


class SettingOut(Output):
    key: str
    value: Annotated[JsonObject, Field(description="Secrets are masked; sending a mask back keeps what is stored")]
    description: str
    updated_at: Annotated[Moment | None, Field(description="null: never set, the defaults hold")]

    @classmethod
    def of(cls, setting: Setting) -> Self:
        return shown(cls, setting)


class SettingIn(Input):
    """Changes those keys of the setting that are sent; null brings a key's default back."""

    model_config = example(
        {
            "value": {
                "channels": {"ops": {"type": "webhook", "url": "https://hooks.example.org/backup"}},
                "routes": [{"min_severity": "warning", "channels": ["ops"]}],
            }
        }
    )

    value: JsonObject


class LostSecretOut(Output):
    thing: Annotated[str, Field(description="What it belongs to: `datasource`, `storage location`, `setting` …")]
    name: str
    field: Annotated[str, Field(description="Where it stands in the configuration")]
    key_id: Annotated[str, Field(description="The key that opens it; empty when the stored text is damaged")]


class ExposedBackupOut(Output):
    storage: str
    path: str
    started_at: str
    execution_id: Annotated[str | None, Field(description="null: no execution knows this backup")]


class SecretsOut(Output):
    key_id: Annotated[str, Field(description="The key that stored secrets are sealed with")]
    lost: Annotated[list[LostSecretOut], Field(description="Secrets that no key here opens: enter them again")]
    exposed_backups: Annotated[
        list[ExposedBackupOut],
        Field(description="Backups of the catalogue from before secrets were sealed, which hold them in clear"),
    ]


class InfoOut(Output):
    version: str
    home: str
    catalogue: Annotated[str, Field(description="`sqlite` or `postgresql`")]
    queue: Annotated[str, Field(description="`embedded` or `redis`")]
    timezone: str
    now: Moment
    secrets: SecretsOut


class StorageNumbersOut(Output):
    id: uuid.UUID
    name: str
    status: StorageStatus
    available_space_gb: float | None
    backups: int
    size_bytes: Annotated[int, Field(description="What its backups take, as the catalogue knows it")]

    @classmethod
    def of(cls, storage: StorageNumbers) -> Self:
        stored = storage.stored
        return shown(cls, storage.location, backups=stored.backups, size_bytes=stored.size_bytes)


class FailingJobOut(Output):
    """A job whose newest runs failed."""

    job_id: uuid.UUID
    name: str
    failures_in_row: int
    last_success_at: Moment | None

    @classmethod
    def of(cls, numbers: JobNumbers) -> Self:
        return shown(cls, numbers)


class NextRunOut(Output):
    job_id: uuid.UUID
    name: str
    next_execution_at: Moment | None

    @classmethod
    def of(cls, job: BackupJob) -> Self:
        return shown(cls, job, job_id=job.id)


class OverviewOut(Output):
    datasources: Annotated[dict[DatasourceStatus, int], Field(description="How many are in each state")]
    storage_locations: list[StorageNumbersOut]
    backup_jobs: int
    failing_jobs: list[FailingJobOut]
    last_24_hours: Annotated[dict[ExecutionStatus, int], Field(description="Executions by state")]
    active_executions: list[ExecutionOut]
    next_runs: list[NextRunOut]
    unread_notifications: int

    @classmethod
    def of(cls, summary: Summary) -> Self:
        return cls(
            datasources=dict(summary.datasources),
            storage_locations=[StorageNumbersOut.of(storage) for storage in summary.storages],
            backup_jobs=summary.jobs,
            failing_jobs=[FailingJobOut.of(job) for job in summary.failing],
            last_24_hours=dict(summary.recent),
            active_executions=[ExecutionOut.of(row) for row in summary.active],
            next_runs=[NextRunOut.of(job) for job in summary.next_runs],
            unread_notifications=summary.unread_notifications,
        )


class CleanupIn(Input):
    """`force` lets a pass through that the guards would stop: somebody has looked at what it would remove."""

    model_config = example({"force": False})

    job_id: Annotated[uuid.UUID | None, Field(description="null: everything")] = None
    force: Flag = False


class CleanupStarted(Output):
    """Taken into the queue."""

    queue_job_id: str


class CleanupReportOut(Output):
    report: Annotated[JsonObject | None, Field(description="What the last whole pass did; null before the first one")]


class StorageSampleOut(Output):
    """What one week's sample plans for a storage location, and what became of it."""

    storage_location_id: uuid.UUID
    planned: Annotated[int, Field(description="How many of its backups are verified")]
    verified: Annotated[int, Field(description="How many came to a result, good or damaged")]
    active: Annotated[int, Field(description="How many are queued or running")]
    failed: Annotated[int, Field(description="How many could not be checked; that is no damage")]


class SampleOut(Output):
    """The weekly sample of verifications that goes on, or was the last."""

    since: Moment
    done: bool
    storage_locations: list[StorageSampleOut]

    @classmethod
    def of(cls, sample: Sample) -> Self:
        none = Tally()
        entries = [(key, planned, sample.tallies.get(key, none)) for key, planned in sample.planned.items()]
        storages = [
            StorageSampleOut(
                storage_location_id=key,
                planned=planned,
                verified=tally.completed,
                active=tally.active,
                failed=tally.failed,
            )
            for key, planned, tally in entries
        ]
        return cls(since=sample.since, done=sample.done, storage_locations=storages)


class SampleReportOut(Output):
    sample: Annotated[SampleOut | None, Field(description="null before the first one")]
