"""Bodies of /api/executions, /api/restores, /api/verifications and /api/repairs."""

from __future__ import annotations

import uuid
from typing import Annotated, Self

from pydantic import Field, StringConstraints

from dataguardian.api.schemas.common import Flag, Input, JsonObject, Moment, Output, example, shown
from dataguardian.db.models import BackupExecution, ExecutionLog, ExecutionTarget, Repair, Restore, Verification
from dataguardian.db.repositories.samples import LastVerification
from dataguardian.domain.states import ExecutionStatus, TargetStatus, Trigger, WorkStatus


class ExecutionOut(Output):
    """A backup: one run of a job. Sizes are bytes; `compressed_size_bytes` is what lies in the storage."""

    id: uuid.UUID
    job_id: uuid.UUID | None
    datasource_id: uuid.UUID
    storage_location_id: uuid.UUID | None
    status: ExecutionStatus
    trigger: Trigger
    scheduled_for: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    duration_seconds: float | None
    size_bytes: int | None
    compressed_size_bytes: int | None
    backup_path: str | None
    backup_type: str
    checksum: Annotated[str | None, Field(description="SHA-256 of the backup's SHA256SUMS: pins every stored byte")]
    error_code: Annotated[str | None, Field(description="What went wrong, for programs")]
    error_message: str | None
    error_stack: Annotated[str | None, Field(description="Of a defect in DataGuardian, which is to be reported")]
    metadata: JsonObject
    pinned: bool
    attempt: int
    cancel_requested: bool
    created_at: Moment
    updated_at: Moment
    last_verified_at: Annotated[Moment | None, Field(description="When it was last read again where it lies")]
    last_verification_ok: Annotated[bool | None, Field(description="What that found: false for damage")]

    @classmethod
    def of(cls, row: BackupExecution, last: LastVerification | None = None, **instead: object) -> Self:
        """`last` is the backup's last verification; work that is not completed has none."""
        at, ok = (last.at, last.ok) if last else (None, None)
        return shown(cls, row, last_verified_at=at, last_verification_ok=ok, **instead)


class TargetOut(Output):
    """What one storage location holds of a backup. `behind`: it must hold it, and a repair will copy it there."""

    storage_location_id: uuid.UUID
    status: TargetStatus
    error: Annotated[str | None, Field(description="What went wrong, for programs")]
    error_message: str | None
    size_bytes: Annotated[int | None, Field(description="What the backup takes there, once it is stored")]
    failed_repairs: int
    next_repair_at: Moment | None

    @classmethod
    def of(cls, row: ExecutionTarget) -> Self:
        return shown(cls, row)


class ExecutionDetail(ExecutionOut):
    targets: Annotated[list[TargetOut], Field(description="In the job's order; empty for one that never began")]
    progress: Annotated[JsonObject | None, Field(description="What running work says of itself; null when unknown")]


class Started(Output):
    """Taken into the queue."""

    execution_id: uuid.UUID


class RestoreStarted(Output):
    """Taken into the queue."""

    restore_id: uuid.UUID


class RepairsStarted(Output):
    """Taken into the queue: one repair for every storage location that is behind."""

    execution_id: uuid.UUID
    repair_ids: list[uuid.UUID]


class VerificationStarted(Output):
    """Taken into the queue."""

    verification_id: uuid.UUID


StreamName = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class RestoreIn(Input):
    """`confirm` is typed by a person: the name of the datasource that will be written to."""

    model_config = example({"confirm": "shop", "drop_existing": False})

    confirm: Annotated[str, Field(max_length=200, description="The target datasource's name, letter by letter")]
    target_datasource_id: Annotated[
        uuid.UUID | None, Field(description="null: the datasource that the backup was taken of")
    ] = None
    drop_existing: Annotated[Flag, Field(description="Replace what the target holds, atomically, at the end")] = False
    streams: tuple[StreamName, ...] = Field(default=(), max_length=1000, description="Which streams; empty means all")


class VerifyIn(Input):
    """Both levels check that every part is there and its stored hash; `deep` reads through every dump as well."""

    model_config = example({"deep": True})

    deep: Flag = False


class WorkOut(Output):
    """What restores, verifications and repairs have in common."""

    id: uuid.UUID
    execution_id: uuid.UUID
    status: WorkStatus
    started_at: Moment | None
    finished_at: Moment | None
    duration_seconds: float | None
    size_bytes: int | None
    error_code: Annotated[str | None, Field(description="What went wrong, for programs")]
    error_message: str | None
    error_stack: Annotated[str | None, Field(description="Of a defect in DataGuardian, which is to be reported")]
    metadata: JsonObject
    attempt: int
    cancel_requested: bool
    created_at: Moment
    updated_at: Moment


class RestoreOut(WorkOut):
    target_datasource_id: uuid.UUID
    drop_existing: bool
    streams: list[str]

    @classmethod
    def of(cls, row: Restore) -> Self:
        return shown(cls, row)


class VerificationOut(WorkOut):
    deep: bool
    ok: Annotated[bool | None, Field(description="null until it has ended, and when it could not be checked")]
    errors: list[str]

    @classmethod
    def of(cls, row: Verification) -> Self:
        return shown(cls, row)


class RepairOut(WorkOut):
    """`size_bytes` is what had to be copied; `metadata` counts parts."""

    storage_location_id: Annotated[uuid.UUID, Field(description="Where the backup is copied to")]

    @classmethod
    def of(cls, row: Repair) -> Self:
        return shown(cls, row)


class RepairDetail(RepairOut):
    progress: JsonObject | None


class RestoreDetail(RestoreOut):
    progress: JsonObject | None


class VerificationDetail(VerificationOut):
    progress: JsonObject | None


class LogOut(Output):
    number: Annotated[int, Field(description="Counts from 1; give the last one as `after` to read on")]
    level: str
    message: str
    metadata: JsonObject
    created_at: Moment

    @classmethod
    def of(cls, row: ExecutionLog) -> Self:
        return shown(cls, row)
