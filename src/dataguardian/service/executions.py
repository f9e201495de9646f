"""The life of a backup execution, from `queued` to its end. The row is the record; a queue job only says: look at it.

Every step that a worker takes is a compare-and-set on the row's `attempt`. Whoever finds that it no longer holds the
execution stops and writes nothing more: somebody else has taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.backup import attempt_directory
from dataguardian.db.models import BackupExecution, BackupJob, Datasource, StorageLocation
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.db.session import server_time
from dataguardian.domain.errors import ConflictError, NotFoundError, QueueUnavailableError
from dataguardian.domain.ids import new_id
from dataguardian.domain.sizes import format_size
from dataguardian.domain.states import (
    ACTIVE,
    EntityType,
    ExecutionStatus,
    NotificationType,
    Severity,
    Trigger,
)
from dataguardian.queues.definitions import SPECS, QueueName
from dataguardian.queues.producer import NewJob
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.events import Events, Pending
from dataguardian.service.home import note_backup
from dataguardian.service.spread import Spread
from dataguardian.settings import DEFAULT_LEASE_SECONDS

LEASE = timedelta(seconds=DEFAULT_LEASE_SECONDS)
MANUAL_PRIORITY = 1
MOST_COMMANDS = 200
SCHEDULED_PRIORITY = 10
TRIES = SPECS[QueueName.BACKUP].attempts
QUEUED_GRACE = timedelta(seconds=20)
"""A queued row is left alone for so long before the reconciler asks the queue about it."""
RECONCILE_BATCH = 100
LIVE_STATES = frozenset({"waiting", "active", "delayed", "prioritized", "paused", "waiting-children"})


@dataclass(frozen=True)
class Claim:
    """An execution that is ours to carry out, with everything that the runner must know."""

    execution_id: uuid.UUID
    attempt: int
    directory: str
    earlier: tuple[str, ...]
    job: BackupJob
    datasource: Datasource
    storages: tuple[StorageLocation, ...]
    """Where to, in the job's order: the targets of this attempt."""

    @property
    def storage(self) -> StorageLocation:
        return self.storages[0]


@dataclass(frozen=True)
class Failed:
    """How an attempt ended badly. `transient`: the same may work a little later."""

    message: str
    stack: str = ""
    code: str = "failed"
    transient: bool = False


def new_execution(job: BackupJob, storage_id: uuid.UUID | None, trigger: Trigger, now: datetime) -> BackupExecution:
    """Returns a queued execution of a job, not yet stored."""
    return BackupExecution(
        id=new_id(now),
        created_at=now,
        updated_at=now,
        job_id=job.id,
        datasource_id=job.datasource_id,
        storage_location_id=job.storage_location_id or storage_id,
        status=ExecutionStatus.QUEUED,
        trigger=trigger,
        backup_type="full",
        details={},
        pinned=False,
        attempt=0,
        tries_left=TRIES,
        enqueue_number=1,
        cancel_requested=False,
    )


class Executions:
    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events
        self._audit = Audit(context)
        self._began_at = context.clock.now()

    async def start(self, job_id: uuid.UUID) -> BackupExecution:
        """Starts a job now. Raises NotFoundError, ConflictError naming the active execution, QueueUnavailableError."""
        await self._context.queues.ping()
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            job = await JobRepository(session).get(job_id)
            default = await StorageRepository(session).default()
            if job.storage_location_id is None and default is None:
                raise ConflictError(
                    f"the job {job.name} has no storage location, and none is the default",
                    hint="give the job a storage location, or make one the default",
                )
            row = new_execution(job, default.id if default else None, Trigger.MANUAL, now)
            await ExecutionRepository(session).insert(row)
            await self._audit.record(session, "execution.run", "execution", row.id, entity_name=job.name)
        try:
            await self.enqueue([row])
        except QueueUnavailableError:
            await self._take_back(row)
            raise
        return row

    async def enqueue(self, rows: Sequence[BackupExecution]) -> None:
        """Tells the queue of rows that were committed. The reconciler does it again for those that were lost here."""
        jobs = [
            NewJob(
                queue_job_id(row),
                {"id": str(row.id), "number": row.enqueue_number},
                priority=MANUAL_PRIORITY if row.trigger is Trigger.MANUAL else SCHEDULED_PRIORITY,
            )
            for row in rows
        ]
        await self._context.queues.add_many(QueueName.BACKUP, jobs)

    async def claim(self, execution_id: uuid.UUID, number: int) -> Claim | None:
        """Takes an execution that the queue pointed at; None when there is nothing to do (stale, ended, cancelled)."""
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await executions.find_locked(execution_id)
            if row is None or row.enqueue_number != number or row.status is not ExecutionStatus.QUEUED:
                return None
            now = await server_time(session, self._context.clock)
            if row.cancel_requested:
                await self._end(session, row, ExecutionStatus.CANCELLED, now)
                return None
            try:
                job, datasource, storages = await self._parties(session, row)
            except NotFoundError as error:
                await self._end(session, row, ExecutionStatus.FAILED, now, Failed(error.message, code=error.code))
                return None
            attempt = row.attempt + 1
            directory = attempt_directory(job.name, now, str(row.id), attempt)
            earlier = await executions.directories_of(row.id)
            await executions.claim(row.id, row.attempt, worker=self._context.worker, now=now, lease=self._lease)
            await executions.change(row.id, attempt, now, attempt_path=directory, tries_left=row.tries_left - 1)
            await TargetRepository(session).replace(row.id, [storage.id for storage in storages], now)
            return Claim(row.id, attempt, directory, tuple(earlier), job, datasource, storages)

    async def renew(self, claim: Claim) -> bool | None:
        """Extends the lease; returns whether a cancel was asked for, None when the execution is no longer ours."""
        async with self._context.db.write() as session:
            now = await server_time(session, self._context.clock)
            return await ExecutionRepository(session).renew(
                claim.execution_id, claim.attempt, now=now, lease=self._lease
            )

    async def still_ours(self, claim: Claim) -> bool:
        """Asked before the manifest is written; renews the lease, so that nobody takes over while it is."""
        return await self.renew(claim) is False

    async def complete(self, claim: Claim, result: dict[str, Any]) -> bool:
        """Records a finished backup; False when the execution is no longer ours, and then nothing was written."""
        manifest = result["manifest"]
        spread = Spread.of(claim.storages, result)
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await executions.locked(claim.execution_id)
            ours = await executions.change(
                claim.execution_id,
                claim.attempt,
                now,
                status=spread.status,
                storage_location_id=spread.first.id,
                finished_at=now,
                duration_seconds=round((now - (row.started_at or now)).total_seconds(), 3),
                size_bytes=manifest["size_bytes"],
                compressed_size_bytes=manifest["compressed_size_bytes"],
                backup_path=result["directory"],
                attempt_path=None,
                checksum=manifest["checksum"],
                details=details_of(manifest, adopted=result["adopted"]),
                error_code="partial" if spread.error_message else None,
                error_message=spread.error_message,
                error_stack=None,
                lease_until=None,
                worker=None,
            )
            if not ours:
                return False
            await executions.add_chunks(claim.execution_id, result["chunks"], now)
            await executions.forget_directory(claim.execution_id, result["directory"], spread.holding)
            if result["adopted"]:
                await executions.abandon(row, "adopted an earlier attempt", now)
            await spread.record(session, row, manifest["compressed_size_bytes"], now)
            pending = await self._tell_success(session, claim, manifest, spread)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(note_backup, self._context.settings.home, claim.execution_id)
        await self._events.dispatch(pending)
        return True

    async def fail(self, claim: Claim, failed: Failed) -> bool:
        """Records an attempt that failed; returns whether the queue should try again."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await executions.locked(claim.execution_id)
            if row.attempt != claim.attempt or row.status is not ExecutionStatus.RUNNING:
                return False
            await executions.abandon(row, failed.code, now)
            if failed.transient and row.tries_left > 0:
                await executions.requeue(
                    row,
                    now,
                    error_code=failed.code[:50],
                    error_message=failed.message,
                    error_stack=failed.stack or None,
                )
                return True
            await self._end(session, row, ExecutionStatus.FAILED, now, failed)
            pending = await self._tell_failure(session, row, claim.job.name, failed)
        await self._events.dispatch(pending)
        return False

    async def cancelled(self, claim: Claim) -> None:
        """Records that the runner ended on request."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await ExecutionRepository(session).locked(claim.execution_id)
            if row.attempt == claim.attempt and row.status is ExecutionStatus.RUNNING:
                await ExecutionRepository(session).abandon(row, "cancelled", now)
                await self._end(session, row, ExecutionStatus.CANCELLED, now)

    async def hand_back(self, claim: Claim) -> None:
        """Gives an execution back at a shutdown: it is queued again, with the try that it did not get to use."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await executions.locked(claim.execution_id)
            if row.attempt != claim.attempt or row.status is not ExecutionStatus.RUNNING:
                return
            await executions.abandon(row, "handed back at shutdown", now)
            await executions.requeue(row, now, tries_left=row.tries_left + 1, bump=True)
        with contextlib.suppress(QueueUnavailableError):  # the reconciler finds it
            await self.enqueue([row])

    async def cancel(self, execution_id: uuid.UUID) -> BackupExecution:
        """Cancels a queued execution at once, and asks the worker of a running one to stop. Raises ConflictError."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await executions.locked(execution_id)
            if row.status not in ACTIVE:
                raise ConflictError(f"this execution is {row.status} already", hint="only active ones can be cancelled")
            if row.status is ExecutionStatus.QUEUED:
                await self._end(session, row, ExecutionStatus.CANCELLED, now)
            else:
                await executions.change(row.id, row.attempt, now, cancel_requested=True)
            await self._record(session, "execution.cancel", row)
        await self._context.live.nudge(str(execution_id))
        async with self._context.db.read() as session:
            return await ExecutionRepository(session).get(execution_id)

    async def pin(self, execution_id: uuid.UUID, *, pinned: bool) -> BackupExecution:
        """Protects a backup from retention, or ends that."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await ExecutionRepository(session).locked(execution_id)
            if row.pinned != pinned:
                await self._record(session, "execution.pin" if pinned else "execution.unpin", row)
            row.pinned, row.updated_at = pinned, now
        return row

    async def _record(self, session: AsyncSession, action: str, row: BackupExecution) -> None:
        job = await JobRepository(session).find(row.job_id) if row.job_id else None
        await self._audit.record(session, action, "execution", row.id, entity_name=job.name if job else None)

    async def reconcile(self) -> int:
        """Mends what crashes left: rows of dead workers, rows that the queue does not know. Returns how many."""
        with self._context.holding.noticing():
            return await self._requeue_dead() + await self._enqueue_lost()

    async def _requeue_dead(self) -> int:
        mended = 0
        while True:
            pending: list[Pending] = []
            async with self._context.db.write() as session:
                now = await server_time(session, self._context.clock)
                executions = ExecutionRepository(session)
                found = await executions.dead(
                    self._context.home_id, self._context.boot_id, expired_before(self._context, now), RECONCILE_BATCH
                )
                rows = [row for row in found if not self._context.holding.holds(row.id, row.attempt)]
                for row in rows:
                    await executions.abandon(row, "its worker died", now)
                    pending += await self._bury(session, row, now)
            await self._events.dispatch(pending)
            await self.enqueue([row for row in rows if row.status is ExecutionStatus.QUEUED])
            mended += len(rows)
            if len(found) < RECONCILE_BATCH:
                return mended

    async def _bury(self, session: AsyncSession, row: BackupExecution, now: datetime) -> list[Pending]:
        if row.cancel_requested:
            await self._end(session, row, ExecutionStatus.CANCELLED, now)
            return []
        if row.tries_left > 0:
            await ExecutionRepository(session).requeue(row, now, bump=True)
            return []
        failed = Failed(f"its worker died, {row.attempt} times", code="worker_died")
        await self._end(session, row, ExecutionStatus.FAILED, now, failed)
        job = await JobRepository(session).find(row.job_id) if row.job_id else None
        return await self._tell_failure(session, row, job.name if job else "a deleted job", failed)

    async def _enqueue_lost(self) -> int:
        """Asks the queue about every row that waits for long enough; re-enqueues, under a new number, what it lost."""
        mended, after = 0, None
        while True:
            async with self._context.db.read() as session:
                before = await server_time(session, self._context.clock) - QUEUED_GRACE
                if self._context.db.is_sqlite:  # whoever was about to enqueue a row of an earlier boot is dead
                    before = max(before, self._began_at - timedelta(microseconds=1))
                rows = await ExecutionRepository(session).waiting(before, after, RECONCILE_BATCH)
            known = await self._context.queues.states(QueueName.BACKUP, [queue_job_id(row) for row in rows])
            lost = [row for row, state in zip(rows, known, strict=True) if state not in LIVE_STATES]
            bumped = await self._bump(lost) if lost else []
            await self.enqueue(bumped)
            mended += len(bumped)
            if len(rows) < RECONCILE_BATCH:
                return mended
            after = rows[-1].id

    async def _bump(self, rows: Sequence[BackupExecution]) -> list[BackupExecution]:
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            return [row for row in rows if await executions.bump(row, now)]

    @property
    def _lease(self) -> timedelta:
        return self._context.settings.lease

    async def _take_back(self, row: BackupExecution) -> None:
        async with self._context.db.write() as session:
            if (
                current := await ExecutionRepository(session).find(row.id)
            ) and current.status is ExecutionStatus.QUEUED:
                await ExecutionRepository(session).delete(row.id)
                await self._record(session, "execution.withdraw", row)

    async def _parties(
        self, session: AsyncSession, row: BackupExecution
    ) -> tuple[BackupJob, Datasource, tuple[StorageLocation, ...]]:
        if row.job_id is None or row.storage_location_id is None:
            raise NotFoundError("the job or the storage location of this execution is gone")
        job = await JobRepository(session).get(row.job_id)
        further = [uuid.UUID(target) for target in job.backup_options.get("storage_targets", ())]
        places = dict.fromkeys([row.storage_location_id, *further])  # the default may have become one of them
        return (
            job,
            await DatasourceRepository(session).get(row.datasource_id),
            tuple([await StorageRepository(session).get(place) for place in places]),
        )

    @staticmethod
    async def _end(
        session: AsyncSession,
        row: BackupExecution,
        status: ExecutionStatus,
        now: datetime,
        failed: Failed | None = None,
    ) -> None:
        row.status = status
        row.finished_at = row.updated_at = now
        row.duration_seconds = round((now - row.started_at).total_seconds(), 3) if row.started_at else None
        row.lease_until = row.worker = row.attempt_path = None
        if failed is not None:
            row.error_code, row.error_message, row.error_stack = failed.code[:50], failed.message, failed.stack or None
        await TargetRepository(session).release(row.id, now)
        await session.flush()

    async def _tell_failure(
        self, session: AsyncSession, row: BackupExecution, job_name: str, failed: Failed
    ) -> list[Pending]:
        return await self._events.emit(
            session,
            type=NotificationType.BACKUP_FAILED,
            severity=Severity.CRITICAL,
            entity_type=EntityType.BACKUP_JOB,
            entity_id=row.job_id,
            title=f"Backup of {job_name} failed",
            message=failed.message,
            metadata={"execution_id": str(row.id), "error": failed.code, "attempts": row.attempt},
        )

    async def _tell_success(
        self, session: AsyncSession, claim: Claim, manifest: dict[str, Any], spread: Spread
    ) -> list[Pending]:
        """A partial backup is told as a failure that is no emergency: something must hold it that does not."""
        size, stored = format_size(manifest["size_bytes"]), format_size(manifest["compressed_size_bytes"])
        partial = spread.status is ExecutionStatus.PARTIAL
        words = f"{size} of {claim.datasource.name} became {stored} in {spread.where}."
        return await self._events.emit(
            session,
            type=NotificationType.BACKUP_FAILED if partial else NotificationType.BACKUP_SUCCESS,
            severity=Severity.WARNING if spread.troubles else Severity.INFO,
            entity_type=EntityType.BACKUP_JOB,
            entity_id=claim.job.id,
            title=f"Backup of {claim.job.name} is {'partial' if partial else 'complete'}",
            message="\n".join([words, *spread.troubles]),
            metadata={
                "execution_id": str(claim.execution_id),
                "warnings": len(manifest["warnings"]),
                "status": spread.status.value,
            },
        )


def expired_before(context: Context, now: datetime) -> datetime:
    """Returns which leases count as run out: after an outage of the catalogue their holders get time to renew."""
    lease = context.settings.lease
    return now - lease if context.holding.was_away(lease.total_seconds()) else now


def queue_job_id(row: BackupExecution) -> str:
    """An id that the queue has seen is dead for ever, so every enqueueing has its own."""
    return f"{row.id}-{row.enqueue_number}"


def details_of(manifest: dict[str, Any], *, adopted: bool) -> dict[str, Any]:
    """Returns what the row's `metadata` keeps of a manifest."""
    stored = manifest["compressed_size_bytes"]
    return {
        "compression": manifest["compression"],
        "compression_ratio": round(manifest["size_bytes"] / stored, 3) if stored else None,
        "parts": manifest["parts"],
        "server_version": manifest["server_version"],
        "tools": manifest["tools"],
        "streams": [
            {key: stream[key] for key in ("directory", "name", "kind", "parts", "size_bytes", "stored_size_bytes")}
            for stream in manifest["streams"]
        ],
        "warnings": manifest["warnings"],
        "dataguardian_version": manifest["dataguardian_version"],
        **_commands_of(manifest),
        "adopted": adopted,
        **_encryption_of(manifest),
    }


def _commands_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns how a backup is restored by hand, for the recovery kit: what lies in a storage others may change. Nothing
    for one of so many streams that its own manifest must tell.
    """
    lines = manifest["how_to_restore"]
    return {"how_to_restore": lines} if len(lines) <= MOST_COMMANDS else {}


def _encryption_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns for whom a backup is encrypted; nothing for one in clear."""
    encryption = manifest.get("encryption")
    if encryption is None:
        return {}
    told = {"format": encryption["format"], "recipients": encryption["recipients"]}
    return {"encryption": told | {"passphrase": encryption["key"] is not None}}
