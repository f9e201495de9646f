"""Backup executions: every claim and every end is a compare-and-set on `attempt`, so that a worker that lost its lease
can never write over the one that took over.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError as BrokenRule

from dataguardian.db.models import (
    AbandonedDirectory,
    BackupChunk,
    BackupExecution,
    BackupJob,
    Restore,
    Verification,
)
from dataguardian.db.repositories.base import Repository
from dataguardian.domain.errors import ConflictError
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import ACTIVE, ExecutionStatus, WorkStatus

ACTIVE_WORK = (WorkStatus.QUEUED, WorkStatus.RUNNING)
CHUNK_BATCH = 500


class ExecutionRepository(Repository[BackupExecution]):
    model = BackupExecution
    noun = "execution"

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
        return {job_id: row_id for job_id, row_id in (await self.session.execute(statement)).tuples() if job_id}

    async def claim(
        self, execution_id: uuid.UUID, attempt: int, *, worker: str, now: datetime, lease: timedelta
    ) -> bool:
        """Takes a queued execution; False when somebody else did, or it is no longer queued."""
        return await self._set(
            execution_id,
            attempt,
            (ExecutionStatus.QUEUED,),
            status=ExecutionStatus.RUNNING,
            attempt=attempt + 1,
            worker=worker,
            lease_until=now + lease,
            started_at=func.coalesce(BackupExecution.started_at, now),
            attempt_path=None,
            updated_at=now,
        )

    async def renew(self, execution_id: uuid.UUID, attempt: int, *, now: datetime, lease: timedelta) -> bool | None:
        """Extends the lease; returns whether a cancel was asked for, None when the execution is no longer ours."""
        if not await self._set(
            execution_id, attempt, (ExecutionStatus.RUNNING,), lease_until=now + lease, updated_at=now
        ):
            return None
        statement = select(BackupExecution.cancel_requested).where(BackupExecution.id == execution_id)
        return (await self.session.execute(statement)).scalar_one()

    async def change(self, execution_id: uuid.UUID, attempt: int, now: datetime, **values: Any) -> bool:  # noqa: ANN401 -- columns
        """Writes to a running execution that is still ours; False means: stop, write nothing more."""
        return await self._set(execution_id, attempt, (ExecutionStatus.RUNNING,), updated_at=now, **values)

    async def change_queued(self, execution_id: uuid.UUID, attempt: int, now: datetime, **values: Any) -> bool:  # noqa: ANN401 -- columns
        """Writes to an execution that nobody has claimed since `attempt` was read."""
        return await self._set(execution_id, attempt, (ExecutionStatus.QUEUED,), updated_at=now, **values)

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
        """Moves an ended execution to `deleting` unless it is pinned or something reads it; returns whether it did."""
        leased = [
            select(work.id).where(work.execution_id == execution_id, work.status.in_(ACTIVE_WORK)).exists()
            for work in (Restore, Verification)
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
        """Records the directory of an attempt that ended badly, so that cleanup may remove it, and only it."""
        if row.attempt_path is None:
            return
        self.session.add(
            AbandonedDirectory(
                id=new_id(now),
                created_at=now,
                updated_at=now,
                execution_id=row.id,
                storage_location_id=row.storage_location_id,
                path=row.attempt_path,
                reason=reason,
            )
        )
        await self.session.flush()

    async def directories_of(self, execution_id: uuid.UUID) -> Sequence[str]:
        """Returns the directories that earlier attempts of an execution may have left, newest first."""
        statement = (
            select(AbandonedDirectory.path)
            .where(AbandonedDirectory.execution_id == execution_id)
            .order_by(AbandonedDirectory.created_at.desc(), AbandonedDirectory.id.desc())
        )
        return (await self.session.execute(statement)).scalars().all()

    async def forget_directory(self, execution_id: uuid.UUID, path: str) -> None:
        """Takes a directory off the list of what may be removed: it holds a backup."""
        await self.changed(
            delete(AbandonedDirectory).where(
                AbandonedDirectory.execution_id == execution_id, AbandonedDirectory.path == path
            )
        )

    async def requeue(self, row: BackupExecution, now: datetime, *, bump: bool = False, **values: Any) -> None:  # noqa: ANN401 -- columns
        """Puts a row that was locked in this transaction back into the queue; `bump` makes old queue jobs stale."""
        for name, value in values.items():
            setattr(row, name, value)
        row.status = ExecutionStatus.QUEUED
        row.lease_until = row.worker = row.attempt_path = None
        row.enqueue_number += int(bump)
        row.updated_at = now
        await self.session.flush()

    async def bump(self, row: BackupExecution, now: datetime) -> bool:
        """Gives a queued row that nobody touched since it was read a new queue job; False when somebody did."""
        statement = (
            update(BackupExecution)
            .where(
                BackupExecution.id == row.id,
                BackupExecution.status == ExecutionStatus.QUEUED,
                BackupExecution.enqueue_number == row.enqueue_number,
            )
            .values(enqueue_number=row.enqueue_number + 1, updated_at=now)
        )
        if not await self.changed(statement):
            return False
        row.enqueue_number += 1
        return True

    async def dead(self, home_id: str, boot_id: str, now: datetime, limit: int) -> Sequence[BackupExecution]:
        """Returns and locks running rows whose worker is dead: another boot of this home, or a lease that ran out."""
        other_boot = and_(
            BackupExecution.worker.startswith(f"{home_id}/", autoescape=True),
            BackupExecution.worker != f"{home_id}/{boot_id}",
        )
        statement = (
            select(BackupExecution)
            .where(
                BackupExecution.status == ExecutionStatus.RUNNING,
                or_(other_boot, BackupExecution.lease_until < now, BackupExecution.lease_until.is_(None)),
            )
            .order_by(BackupExecution.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return (await self.session.execute(statement)).scalars().all()

    async def waiting(self, before: datetime, after: uuid.UUID | None, limit: int) -> Sequence[BackupExecution]:
        """Returns queued rows that nothing touched since `before`, in the order of their ids, from after `after`."""
        statement = select(BackupExecution).where(
            BackupExecution.status == ExecutionStatus.QUEUED, BackupExecution.updated_at <= before
        )
        if after is not None:
            statement = statement.where(BackupExecution.id > after)
        return (await self.session.execute(statement.order_by(BackupExecution.id).limit(limit))).scalars().all()

    async def newest_good(self, job_id: uuid.UUID) -> BackupExecution | None:
        statement = (
            select(BackupExecution)
            .where(BackupExecution.job_id == job_id, BackupExecution.status == ExecutionStatus.COMPLETED)
            .order_by(BackupExecution.created_at.desc(), BackupExecution.id.desc())
            .limit(1)
        )
        return (await self.session.execute(statement)).scalars().first()

    async def _set(
        self,
        execution_id: uuid.UUID,
        held: int,
        states: Sequence[ExecutionStatus],
        **values: Any,  # noqa: ANN401 -- columns
    ) -> bool:
        statement = (
            update(BackupExecution)
            .where(
                BackupExecution.id == execution_id,
                BackupExecution.attempt == held,
                BackupExecution.status.in_(states),
            )
            .values(**values)
        )
        return bool(await self.changed(statement))


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
