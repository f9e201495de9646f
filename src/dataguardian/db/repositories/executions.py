"""Backup executions, and the jobs that they are of."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError as BrokenRule

from dataguardian.db.models import (
    AbandonedDirectory,
    BackupChunk,
    BackupExecution,
    BackupJob,
    Repair,
    Restore,
    Verification,
)
from dataguardian.db.repositories.base import Page, Repository, count_of
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.db.repositories.work import WorkRepository
from dataguardian.domain.errors import ConflictError
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import ACTIVE, ACTIVE_WORK, HOLDS_A_BACKUP, ExecutionStatus

LEASES = (Restore, Verification, Repair)
"""What keeps a backup from being deleted while it is queued or running."""
CHUNK_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class ExecutionFilter:
    """What a list of executions is narrowed to. `created_from` belongs to the list, `created_to` no longer."""

    job_id: uuid.UUID | None = None
    datasource_id: uuid.UUID | None = None
    storage_location_id: uuid.UUID | None = None
    status: ExecutionStatus | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        equal = {
            BackupExecution.job_id: self.job_id,
            BackupExecution.datasource_id: self.datasource_id,
            BackupExecution.storage_location_id: self.storage_location_id,
            BackupExecution.status: self.status,
        }
        conditions = [column == value for column, value in equal.items() if value is not None]
        if self.created_from is not None:
            conditions.append(BackupExecution.created_at >= self.created_from)
        if self.created_to is not None:
            conditions.append(BackupExecution.created_at < self.created_to)
        return conditions


class ExecutionRepository(WorkRepository[BackupExecution]):
    model = BackupExecution
    noun = "execution"
    words = ExecutionStatus
    fresh: ClassVar[Mapping[str, Any]] = {"attempt_path": None}

    async def listed(
        self, chosen: ExecutionFilter, *, page: int, limit: int, oldest_first: bool = False
    ) -> Page[BackupExecution]:
        """Returns a page of the list, by `created_at`."""
        return await self.page(*chosen.conditions(), page=page, limit=limit, oldest_first=oldest_first)

    async def stored_before(self, datasource_ids: Sequence[uuid.UUID], moment: datetime) -> Sequence[BackupExecution]:
        """Returns the executions of these datasources that hold a backup which began before a moment."""
        began = func.coalesce(BackupExecution.started_at, BackupExecution.created_at)
        held = BackupExecution.status.in_((*HOLDS_A_BACKUP, ExecutionStatus.DELETING))
        return await self.all(BackupExecution.datasource_id.in_(datasource_ids), held, began < moment)

    async def known_paths(self, paths: Sequence[str]) -> set[str]:
        """Returns those of `paths` that executions name as their backup."""
        statement = select(BackupExecution.backup_path).where(BackupExecution.backup_path.in_(paths))
        return {path for path in (await self.session.execute(statement)).scalars() if path}

    async def insert(self, row: BackupExecution) -> BackupExecution:
        """Raises ConflictError, naming the other one, when the job has an execution that is queued or running."""
        try:
            async with self.session.begin_nested():
                return await self.add(row)
        except BrokenRule as error:
            active = await self.active_of(row.job_id) if row.job_id else None
            if active is None:
                raise
            raise ConflictError(
                f"this job has an execution that is {active.status}",
                hint="wait for it to end, or cancel it",
                execution_id=str(active.id),
            ) from error

    async def active_of(self, job_id: uuid.UUID) -> BackupExecution | None:
        statement = select(BackupExecution).where(BackupExecution.job_id == job_id, BackupExecution.status.in_(ACTIVE))
        return (await self.session.execute(statement)).scalars().first()

    async def active_jobs(self, job_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
        """Returns, of these jobs, those with an active execution, and which."""
        statement = select(BackupExecution.job_id, BackupExecution.id).where(
            BackupExecution.job_id.in_(job_ids), BackupExecution.status.in_(ACTIVE)
        )
        return {job_id: row_id for job_id, row_id in (await self.session.execute(statement)).all() if job_id}

    async def add_chunks(self, execution_id: uuid.UUID, chunks: Sequence[tuple[str, int, str]], now: datetime) -> None:
        """Inserts (path, stored size, stored SHA-256) in order, in batches; chunk numbers begin at 1."""
        for start in range(0, len(chunks), CHUNK_BATCH):
            await self.session.execute(
                insert(BackupChunk),
                [
                    {
                        "id": new_id(now),
                        "created_at": now,
                        "updated_at": now,
                        "execution_id": execution_id,
                        "chunk_number": number,
                        "file_path": path,
                        "size_bytes": size_bytes,
                        "checksum": checksum,
                    }
                    for number, (path, size_bytes, checksum) in enumerate(
                        chunks[start : start + CHUNK_BATCH], start=start + 1
                    )
                ],
            )

    async def mark_deleting(self, execution_id: uuid.UUID, now: datetime) -> bool:
        """Moves an ended execution to `deleting` unless it is pinned or something reads it; returns whether it did.

        Locks the row first: a restore that begins at this moment holds it too, and is seen only by a later statement.
        """
        if await self.find_locked(execution_id) is None:
            return False
        leased = [
            select(work.id).where(work.execution_id == execution_id, work.status.in_(ACTIVE_WORK)).exists()
            for work in LEASES
        ]
        statement = (
            update(BackupExecution)
            .where(
                BackupExecution.id == execution_id,
                BackupExecution.status.not_in(ACTIVE),
                BackupExecution.pinned.is_(False),
                ~or_(*leased),
            )
            .values(status=ExecutionStatus.DELETING, updated_at=now)
        )
        return bool(await self.changed(statement))

    async def abandon(self, row: BackupExecution, reason: str, now: datetime) -> None:
        """Records, by the end of the transaction, the directory of an attempt that ended badly, so that cleanup may
        remove it from every target, and only it.
        """
        if row.attempt_path is None:
            return
        places: list[uuid.UUID | None] = [
            target.storage_location_id for target in await TargetRepository(self.session).of(row.id)
        ]
        for place in places or [row.storage_location_id]:
            self.note_leftover(row.id, place, row.attempt_path, reason, now)

    def note_leftover(
        self, execution_id: uuid.UUID, storage_location_id: uuid.UUID | None, path: str, reason: str, now: datetime
    ) -> None:
        """Puts a directory on the list of what cleanup may remove."""
        self.session.add(
            AbandonedDirectory(
                id=new_id(now),
                created_at=now,
                updated_at=now,
                execution_id=execution_id,
                storage_location_id=storage_location_id,
                path=path,
                reason=reason,
            )
        )

    async def directories_of(self, execution_id: uuid.UUID) -> Sequence[str]:
        """Returns the directories that earlier attempts of an execution may have left, newest first."""
        statement = (
            select(AbandonedDirectory.path)
            .where(AbandonedDirectory.execution_id == execution_id)
            .order_by(AbandonedDirectory.created_at.desc(), AbandonedDirectory.id.desc())
        )
        return list(dict.fromkeys((await self.session.execute(statement)).scalars()))  # each of several targets has one

    async def forget_directory(
        self, execution_id: uuid.UUID, path: str, places: Collection[uuid.UUID | None] = ()
    ) -> None:
        """Takes a directory off the list of what may be removed, everywhere or in these storage locations: there it
        holds a backup, or is to hold it.
        """
        where = [AbandonedDirectory.execution_id == execution_id, AbandonedDirectory.path == path]
        if places:
            where.append(AbandonedDirectory.storage_location_id.in_(places))
        await self.changed(delete(AbandonedDirectory).where(*where))

    async def newest_good(self, job_id: uuid.UUID) -> BackupExecution | None:
        """Returns the newest backup that can be restored; a partial one can, from wherever it is stored."""
        newest = [await self._newest(job_id, status) for status in HOLDS_A_BACKUP]  # each from the end of an index
        found = [row for row in newest if row is not None]
        return max(found, key=lambda row: (row.created_at, row.id), default=None)

    async def _newest(self, job_id: uuid.UUID, status: ExecutionStatus) -> BackupExecution | None:
        statement = (
            select(BackupExecution)
            .where(BackupExecution.job_id == job_id, BackupExecution.status == status)
            .order_by(BackupExecution.created_at.desc(), BackupExecution.id.desc())
            .limit(1)
        )
        return (await self.session.execute(statement)).scalars().first()


class JobRepository(Repository[BackupJob]):
    model = BackupJob
    noun = "backup job"

    async def by_name(self, name: str) -> BackupJob | None:
        statement = select(BackupJob).where(BackupJob.name == name)
        return (await self.session.execute(statement)).scalars().first()

    async def due(self, now: datetime, limit: int) -> Sequence[BackupJob]:
        """Returns enabled jobs whose next run is due, the longest overdue first; locked on PostgreSQL."""
        statement = (
            select(BackupJob)
            .where(BackupJob.enabled.is_(True), BackupJob.next_execution_at <= now)
            .order_by(BackupJob.next_execution_at, BackupJob.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return (await self.session.execute(statement)).scalars().all()

    async def next_due(self, limit: int) -> Sequence[BackupJob]:
        """Returns the enabled jobs that run next, the soonest first."""
        statement = (
            select(BackupJob)
            .where(BackupJob.enabled.is_(True), BackupJob.next_execution_at.is_not(None))
            .order_by(BackupJob.next_execution_at, BackupJob.id)
            .limit(limit)
        )
        return (await self.session.execute(statement)).scalars().all()

    async def uses_of(self, job_id: uuid.UUID) -> dict[str, int | list[str]]:
        """Returns what keeps a job from being deleted: {"executions": how many}."""
        return {"executions": await count_of(self.session, BackupExecution, BackupExecution.job_id == job_id)}
