"""Backups with rows and real artifacts, of any date, for stories about what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from dataguardian.core.backup import BackupPlan, attempt_directory, run_backup
from dataguardian.db.models import AbandonedDirectory, BackupExecution, BackupJob
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import ExecutionStatus, Trigger
from dataguardian.engines.files import FilesConfig, FilesEngine
from dataguardian.service.executions import new_execution
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.service.stage import Stage, stage

Story = Callable[[Stage], Awaitable[None]]


def play(folder: Path, story: Story) -> None:
    async def run() -> None:
        async with stage(folder) as here:
            await story(here)

    asyncio.run(run())


def storage_of(here: Stage, name: str = "shop") -> LocalStorage:
    return LocalStorage(LocalConfig(path=str(here.folder / f"storage-of-{name}")))


def take(here: Stage, job: BackupJob, row: BackupExecution, *, attempt: int = 1) -> dict[str, Any]:
    """Stores a real backup of a small folder; returns what its row records of it."""
    source = here.folder / "source"
    source.mkdir(exist_ok=True)
    (source / "note.txt").write_text("hello")
    directory = attempt_directory(job.name, row.created_at, str(row.id), attempt)
    plan = BackupPlan(
        execution_id=str(row.id), attempt=attempt, name=job.name, engine="files", source="here", directory=directory
    )
    engine = FilesEngine(FilesConfig(type="files", source_path=str(source)))
    manifest = run_backup(plan, engine, storage_of(here, job.name)).manifest
    return {
        "backup_path": directory,
        "checksum": manifest.checksum,
        "size_bytes": manifest.size_bytes,
        "compressed_size_bytes": manifest.compressed_size_bytes,
    }


async def completed(here: Stage, job: BackupJob, created_at: datetime, **changes: Any) -> BackupExecution:
    """A backup of that time, with its row and its directory."""
    row = new_execution(job, None, Trigger.SCHEDULED, created_at)
    row.status, row.started_at, row.finished_at = ExecutionStatus.COMPLETED, created_at, created_at
    for name, value in (take(here, job, row) | changes).items():
        setattr(row, name, value)
    async with here.context.db.write() as session:
        await ExecutionRepository(session).add(row)
    return row


async def failed(here: Stage, job: BackupJob, created_at: datetime, *, whole: bool = False) -> BackupExecution:
    """An execution that failed and left a directory: a part without a manifest, or a `whole` backup."""
    row = new_execution(job, None, Trigger.SCHEDULED, created_at)
    row.status, row.finished_at, row.attempt = ExecutionStatus.FAILED, created_at, 1
    directory = attempt_directory(job.name, created_at, str(row.id), 1)
    if whole:
        take(here, job, row)
    else:
        storage_of(here, job.name).put(f"{directory}/01-source.tar/000001.zst", b"half a part")
    note = AbandonedDirectory(
        id=new_id(created_at),
        created_at=created_at,
        updated_at=created_at,
        execution_id=row.id,
        storage_location_id=job.storage_location_id,
        path=directory,
        reason="failed",
    )
    async with here.context.db.write() as session:
        session.add_all([row, note])
    return row
