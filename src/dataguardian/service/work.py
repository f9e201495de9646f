"""Restores, verifications and repairs: what is done with a backup after it was taken.

Their rows are leases on the backup: inserted in the transaction that checks, under the execution's lock, that it is
completed. While one is queued or running, nothing deletes that backup. As with backups, the row is the record, every
step of a worker is a compare-and-set on `attempt`, and a queue job only says which row to look at.

A restore is begun once and never by itself again: whoever restarts a machine must not find that a database was
replaced by a restore that had been interrupted the day before. A verification changes nothing and is begun anew, and so
is a repair, which goes on where it was.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    IS_ACTIVE,
    BackupExecution,
    Repair,
    Restore,
    StorageLocation,
    Verification,
)
from dataguardian.db.repositories.definitions import DatasourceRepository
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.restores import (
    LeaseRepository,
    RepairRepository,
    RestoreRepository,
    VerificationRepository,
)
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.db.session import server_time
from dataguardian.domain.access import SYSTEM, ActorKind
from dataguardian.domain.errors import (
    ConflictError,
    NotFoundError,
    QueueUnavailableError,
)
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import (
    EntityType,
    NotificationType,
    Severity,
    TargetStatus,
    Trigger,
    WorkStatus,
)
from dataguardian.queues.producer import NewJob
from dataguardian.service.acting import acting, current_actor
from dataguardian.service.audit import Audit
from dataguardian.service.behind import note_damage, note_repaired, note_unrepaired
from dataguardian.service.context import Context
from dataguardian.service.events import Events, Pending
from dataguardian.service.executions import (
    LIVE_STATES,
    QUEUED_GRACE,
    RECONCILE_BATCH,
    SCHEDULED_PRIORITY,
    Failed,
    expired_before,
)
from dataguardian.service.restorable import check_restore, locked_backup
from dataguardian.service.workkinds import (
    TRIGGER,
    Kind,
    Row,
    WorkClaim,
    is_scheduled,
    kind_of,
    queue_job_id,
    repository,
    storages_of,
)

MAX_ATTEMPTS = 3
"""How often a verification is begun when its workers die."""
MADE_WAY = "made_way"
"""In `metadata`: it was stopped for a restore, and is to be queued again."""
ACTIVE_WORK = (WorkStatus.QUEUED, WorkStatus.RUNNING)


class Work:
    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events
        self._audit = Audit(context)

    async def start_restore(
        self,
        execution_id: uuid.UUID,
        *,
        confirm: str,
        target_datasource_id: uuid.UUID | None = None,
        drop_existing: bool = False,
        streams: Sequence[str] = (),
    ) -> Restore:
        """Queues the restore of a backup into its own or another datasource of the same type.

        Raises NotFoundError, ConflictError (not completed, or something else restores into that target),
        UsageError (`confirm` is not the target's name, other type, unknown stream), QueueUnavailableError.
        """
        await self._context.queues.ping()
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            execution = await locked_backup(session, execution_id)
            target_id = target_datasource_id or execution.datasource_id
            # Locked, so that of two restores into one target the second sees the first.
            target = await DatasourceRepository(session).locked(target_id)
            await check_restore(session, execution, target, confirm, streams)
            row = Restore(
                **_new(execution, now),
                target_datasource_id=target.id,
                drop_existing=drop_existing,
                streams=list(streams),
            )
            await RestoreRepository(session).add(row)
            await self._told(session, "create", row)
        await self._enqueue_or_take_back(row)
        with acting(SYSTEM):  # of everybody's verifications, whoever restores
            await self._make_way()
        return row

    async def start_verification(self, execution_id: uuid.UUID, *, deep: bool, scheduled: bool = False) -> Verification:
        """Queues a verification; a scheduled one lets everything else in its queue go first.

        Raises NotFoundError, ConflictError (not completed; scheduled, and being verified), QueueUnavailableError.
        """
        await self._context.queues.ping()
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            execution = await locked_backup(session, execution_id)
            if scheduled and await VerificationRepository(session).active_of(execution_id):
                raise ConflictError("this backup is being verified", hint="wait for it to end")
            row = Verification(**_new(execution, now), deep=deep, errors=[])
            row.details = {TRIGGER: Trigger.SCHEDULED.value} if scheduled else {}
            await VerificationRepository(session).add(row)
            await self._told(session, "create", row)
        await self._enqueue_or_take_back(row)
        return row

    async def start_repairs(self, execution_id: uuid.UUID) -> list[Repair]:
        """Queues a repair for every storage location that is behind and has none.

        Raises NotFoundError, ConflictError (no backup, nothing behind, all being repaired), QueueUnavailableError.
        """
        await self._context.queues.ping()
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            execution = await locked_backup(session, execution_id)
            rows = await _new_repairs(session, execution, now)
            for row in rows:
                await self._told(session, "create", row)
        await self._enqueue_all(rows)
        return rows

    async def repair_due(self) -> int:
        """Queues the repairs that are due; returns how many."""
        started = 0
        async with self._context.db.read() as session:
            due = await TargetRepository(session).to_repair(self._context.clock.now(), RECONCILE_BATCH)
        for execution_id in dict.fromkeys(target.execution_id for target in due):
            with contextlib.suppress(ConflictError, NotFoundError):  # by now it is gone, or somebody repairs it
                started += len(await self.start_repairs(execution_id))
        return started

    async def _told(self, session: AsyncSession, verb: str, row: Row) -> None:
        """Puts into the audit log what people do; what the service does by itself all day is in its own lists."""
        if current_actor().kind is ActorKind.SYSTEM or is_scheduled(row):
            return
        names = ("execution_id", "target_datasource_id", "storage_location_id", "deep", "drop_existing", "streams")
        told = {name: getattr(row, name) for name in names if hasattr(row, name)}
        changes = {name: [None, str(value) if name.endswith("_id") else value] for name, value in told.items() if value}
        kind = kind_of(row)
        await self._audit.record(session, f"{kind}.{verb}", str(kind), row.id, changes=changes)

    async def _enqueue_all(self, rows: Sequence[Row]) -> None:
        for row in rows:
            await self._enqueue_or_take_back(row)

    async def enqueue(self, rows: Sequence[Row]) -> None:
        """Tells the queue of rows that were committed; all are of one kind."""
        jobs = [
            NewJob(
                queue_job_id(row),
                {"id": str(row.id), "number": row.enqueue_number, "kind": kind_of(row).value},
                priority=SCHEDULED_PRIORITY if is_scheduled(row) else 0,
            )
            for row in rows
        ]
        if rows:
            await self._context.queues.add_many(kind_of(rows[0]).queue, jobs)

    async def claim(self, kind: Kind, work_id: uuid.UUID, number: int) -> WorkClaim | None:
        """Takes what the queue pointed at; None when there is nothing to do (stale, ended, cancelled)."""
        async with self._context.db.write() as session:
            works = repository(session, kind)
            row = await works.find_locked(work_id)
            if row is None or row.enqueue_number != number or row.status is not WorkStatus.QUEUED:
                return None
            now = await server_time(session, self._context.clock)
            if row.cancel_requested:
                await _end(session, row, WorkStatus.CANCELLED, now)
                return None
            execution = await ExecutionRepository(session).get(row.execution_id)
            if execution.storage_location_id is None or execution.backup_path is None:
                await _end(session, row, WorkStatus.FAILED, now, Failed("the backup's storage location is gone"))
                return None
            storages = await storages_of(session, row, execution)
            target = None
            if isinstance(row, Restore):
                target = await DatasourceRepository(session).get(row.target_datasource_id)
            attempt = row.attempt + 1
            lease = self._context.settings.lease
            await works.claim(row.id, row.attempt, worker=self._context.worker, now=now, lease=lease)
            return WorkClaim(kind, row.id, attempt, row, execution, storages, target)

    async def renew(self, claim: WorkClaim) -> bool | None:
        """Extends the lease; returns whether a cancel was asked for, None when the work is no longer ours."""
        async with self._context.db.write() as session:
            now = await server_time(session, self._context.clock)
            works = repository(session, claim.kind)
            return await works.renew(claim.work_id, claim.attempt, now=now, lease=self._context.settings.lease)

    async def complete(self, claim: WorkClaim, result: dict[str, Any]) -> bool:
        """Records the outcome; False when the work is no longer ours, and then nothing was written."""
        now = self._context.clock.now()
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            row = await repository(session, claim.kind).locked(claim.work_id)
            if not _is_ours(row, claim):
                return False
            if isinstance(row, Verification):
                row.ok, row.errors = result["ok"], list(result["errors"])
                told = {key: result[key] for key in ("level", "parts", "not_checked") if key in result}
                row.details = row.details | told
                news = row.ok is False and not await _is_known(session, row)
                pending = await self._alarm(session, claim, row.errors) if news else []
                if "targets" in result:
                    row.details = row.details | {"copies": _copies(claim.storages, result["targets"])}
                await note_damage(session, claim.execution.id, claim.storages, result.get("targets", ()), now)
            else:
                row.size_bytes = result["size_bytes"]
            if isinstance(row, Repair):
                row.details = {"parts": result["parts"], "copied": result["copied"]}
                pending = await note_repaired(session, self._events, row, now)
            await _end(session, row, WorkStatus.COMPLETED, now)
        await self._events.dispatch(pending)
        return True

    async def fail(self, claim: WorkClaim, failed: Failed) -> None:
        """Records that it did not work. Nothing is tried again: the queue's only try is over."""
        await self._finish(claim, WorkStatus.FAILED, failed)

    async def cancelled(self, claim: WorkClaim) -> None:
        """Records that the runner ended on request. What made way for a restore is queued again, behind it."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            works = repository(session, claim.kind)
            row = await works.locked(claim.work_id)
            if not _is_ours(row, claim):
                return
            if not row.details.get(MADE_WAY):
                await _end(session, row, WorkStatus.CANCELLED, now)
                if isinstance(row, Repair):
                    await note_unrepaired(session, row, now)
                return
            await _requeue(works, row, now)
        with contextlib.suppress(QueueUnavailableError):  # the reconciler finds it
            await self.enqueue([row])

    async def hand_back(self, claim: WorkClaim) -> None:
        """At a shutdown: a verification is queued again, a restore has failed, and its words say what to do."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await repository(session, claim.kind).locked(claim.work_id)
            if not _is_ours(row, claim):
                return
            if isinstance(row, Verification | Repair):
                await _requeue(repository(session, claim.kind), row, now)
            else:
                await _end(session, row, WorkStatus.FAILED, now, Failed(_INTERRUPTED.format("the service was stopped")))

    async def cancel(self, kind: Kind, work_id: uuid.UUID) -> Row:
        """Cancels what is queued at once, and asks the worker of what runs to stop. Raises ConflictError."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row: Row = await repository(session, kind).locked(work_id)
            if row.status not in ACTIVE_WORK:
                raise ConflictError(f"this {kind} is {row.status} already", hint="only active ones can be cancelled")
            if row.status is WorkStatus.QUEUED:
                await _end(session, row, WorkStatus.CANCELLED, now)
                if isinstance(row, Repair):
                    await note_unrepaired(session, row, now)
            else:
                row.cancel_requested, row.updated_at = True, now
                row.details = _without_way(row)
            await self._told(session, "cancel", row)
        await self._context.live.nudge(str(work_id))
        return row

    async def _make_way(self) -> None:
        """Has scheduled verifications that run stop for a restore: somebody waits for that, and nobody for them."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            running = await VerificationRepository(session).all(IS_ACTIVE, Verification.status == WorkStatus.RUNNING)
            stopped = [row for row in running if is_scheduled(row) and not row.cancel_requested]
            for row in stopped:
                row.cancel_requested, row.updated_at = True, now
                row.details = row.details | {MADE_WAY: True}
        for row in stopped:
            await self._context.live.nudge(str(row.id))

    async def reconcile(self) -> int:
        """Mends what crashes left: rows of dead workers, rows that the queue does not know. Returns how many."""
        mended = 0
        with self._context.holding.noticing():
            for kind in Kind:
                mended += await self._bury_dead(kind) + await self._enqueue_lost(kind)
        return mended

    async def _bury_dead(self, kind: Kind) -> int:
        async with self._context.db.write() as session:
            now = await server_time(session, self._context.clock)
            works = repository(session, kind)
            found = await works.dead(
                self._context.home_id, self._context.boot_id, expired_before(self._context, now), RECONCILE_BATCH
            )
            rows = [row for row in found if not self._context.holding.holds(row.id, row.attempt)]
            for row in rows:
                if row.cancel_requested and not row.details.get(MADE_WAY):
                    await _end(session, row, WorkStatus.CANCELLED, now)
                elif kind is not Kind.RESTORE and row.attempt < MAX_ATTEMPTS:
                    await _requeue(works, row, now)
                else:
                    text = _INTERRUPTED if kind is Kind.RESTORE else "{}, " + f"{row.attempt} times"
                    await _end(session, row, WorkStatus.FAILED, now, Failed(text.format("its worker died")))
                    if isinstance(row, Repair):
                        await note_unrepaired(session, row, now)
        return len(rows)

    async def _enqueue_lost(self, kind: Kind) -> int:
        """Asks the queue about every row that waits for long enough; re-enqueues, under a new number, what it lost."""
        mended, after = 0, None
        while True:
            async with self._context.db.read() as session:
                before = await server_time(session, self._context.clock) - QUEUED_GRACE
                rows = await repository(session, kind).waiting(before, after, RECONCILE_BATCH)
            known = await self._context.queues.states(kind.queue, [queue_job_id(row) for row in rows])
            lost = [row for row, state in zip(rows, known, strict=True) if state not in LIVE_STATES]
            again = await self._bump(kind, lost) if lost else []
            await self.enqueue(again)
            mended += len(again)
            if len(rows) < RECONCILE_BATCH:
                return mended
            after = rows[-1].id

    async def _bump(self, kind: Kind, rows: Sequence[Row]) -> list[Row]:
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            works = repository(session, kind)
            return [row for row in rows if await works.bump(row, now)]

    async def _enqueue_or_take_back(self, row: Row) -> None:
        try:
            await self.enqueue([row])
        except QueueUnavailableError:
            async with self._context.db.write() as session:
                works = repository(session, kind_of(row))
                current = await works.find_locked(row.id)
                if current is not None and current.status is WorkStatus.QUEUED:
                    await works.delete(row.id)
                    await self._told(session, "withdraw", row)
            raise

    async def _finish(self, claim: WorkClaim, status: WorkStatus, failed: Failed | None = None) -> None:
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await repository(session, claim.kind).locked(claim.work_id)
            if _is_ours(row, claim):
                await _end(session, row, status, now, failed)
                if isinstance(row, Repair):
                    await note_unrepaired(session, row, now)

    async def _alarm(self, session: AsyncSession, claim: WorkClaim, errors: Sequence[str]) -> list[Pending]:
        """A backup that is not what was written is the worst of news."""
        return await self._events.emit(
            session,
            type=NotificationType.SYSTEM_ALARM,
            severity=Severity.CRITICAL,
            entity_type=EntityType.BACKUP_JOB if claim.execution.job_id else EntityType.STORAGE_LOCATION,
            entity_id=claim.execution.job_id or claim.storage.id,
            title=f"A backup in {' or '.join(row.name for row in claim.storages)} is damaged",
            message=f"{claim.execution.backup_path}: {'; '.join(errors[:5])} ({len(errors)} in all)",
            metadata={"execution_id": str(claim.execution.id), "verification_id": str(claim.work_id)},
        )


_INTERRUPTED = "{} before the restore had ended: look at the target, which is as it was or restored, then start anew"


def _copies(storages: Sequence[StorageLocation], told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns what was found in each copy; `ok` is None where it could not be read."""
    return [{"storage_location_id": str(storage.id), **copy} for storage, copy in zip(storages, told, strict=True)]


async def _new_repairs(session: AsyncSession, execution: BackupExecution, now: datetime) -> list[Repair]:
    """Inserts a repair for every target that is behind and has none. Raises ConflictError when there is none."""
    behind = await TargetRepository(session).of(execution.id, TargetStatus.BEHIND)
    if not behind:
        raise ConflictError("no storage location of this backup is behind", hint="there is nothing to repair")
    rows = []
    for target in behind:
        if await RepairRepository(session).active_on(execution.id, target.storage_location_id) is None:
            row = Repair(**_new(execution, now), storage_location_id=target.storage_location_id)
            rows.append(await RepairRepository(session).add(row))
    if not rows:
        raise ConflictError("this backup is being repaired", hint="wait for it to end")
    return rows


def _new(execution: BackupExecution, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id(now),
        "created_at": now,
        "updated_at": now,
        "execution_id": execution.id,
        "status": WorkStatus.QUEUED,
        "details": {},
        "attempt": 0,
        "enqueue_number": 1,
        "cancel_requested": False,
    }


def _is_ours(row: Row, claim: WorkClaim) -> bool:
    return row.attempt == claim.attempt and row.status is WorkStatus.RUNNING


async def _is_known(session: AsyncSession, row: Verification) -> bool:
    """Tells whether the last verification found the same damage, and no repair has ended since."""
    last = await VerificationRepository(session).newest_of(row.execution_id)
    if last is None or last.ok is not False or not set(row.errors) <= set(last.errors):
        return False
    repairs = (await RepairRepository(session).of_execution(row.execution_id, page=1, limit=1)).data
    repaired = [repair.finished_at for repair in repairs if repair.status is WorkStatus.COMPLETED]
    return not any(at and last.finished_at and at > last.finished_at for at in repaired)


async def _requeue(works: LeaseRepository[Any], row: Row, now: datetime) -> None:
    """Queues a verification again; the cancel that made it stop for a restore is over."""
    cancelled = row.cancel_requested and not row.details.get(MADE_WAY)
    await works.requeue(row, now, bump=True, cancel_requested=cancelled, details=_without_way(row))


def _without_way(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.details.items() if key != MADE_WAY}


async def _end(
    session: AsyncSession, row: Row, status: WorkStatus, now: datetime, failed: Failed | None = None
) -> None:
    row.status = status
    row.finished_at = row.updated_at = now
    row.duration_seconds = round((now - row.started_at).total_seconds(), 3) if row.started_at else None
    row.lease_until = row.worker = None
    if failed is not None:
        row.error_code, row.error_message, row.error_stack = failed.code[:50], failed.message, failed.stack or None
    await session.flush()
