"""Cleanup as a service: passes by schedule or on demand, what retention would do, and the deletion of one execution.

A pass stops, and says so, when the clock is not what the last pass would expect. What it did not dare or could not do
is one alarm, repeated with every pass until somebody has looked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from dataguardian.db.models import BackupExecution
from dataguardian.db.repositories.cleanup import CleanupRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.cron import parse_schedule
from dataguardian.domain.errors import ConflictError, StorageUnreachableError
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import ACTIVE, HOLDS_A_BACKUP, EntityType, ExecutionStatus, NotificationType, Severity
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import NewJob
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.events import Events, Pending
from dataguardian.service.executions import LIVE_STATES
from dataguardian.service.guards import CleanupSettings, clock_warning, suspect_since
from dataguardian.service.pruning import PruningSettings
from dataguardian.service.removal import Opener, Outcome, Removed, Remover, open_storage, record_deletion
from dataguardian.service.sweep import PassReport, RetentionPreview, Sweep, plan_job

SETTING = "cleanup"
PRUNING_SETTING = "pruning"
CLOCK = "cleanup_clock"
SCHEDULE = "cleanup_schedule"
REPORT = "cleanup_report"
TIMES_BEGUN = 5
"""How often one day's pass is begun again after crashes and shutdowns."""
LISTED = 20
FORCE_HINT = "look at the storage; force it, and it goes without having been recognised"

Model = TypeVar("Model", bound=BaseModel)
log = structlog.get_logger(__name__)


def _never() -> bool:
    return False


class Cleanup:
    """`opener` builds the storage of a location; every pass opens its own."""

    def __init__(self, context: Context, events: Events, *, opener: Opener = open_storage) -> None:
        self._context = context
        self._events = events
        self._opener = opener
        self._audit = Audit(context)

    async def enqueue_due(self) -> bool:
        """Queues the pass that is due, or the one that a crash or shutdown cut short; returns whether it did."""
        now = self._context.clock.now()
        cron = parse_schedule((await self.settings()).cron, self._context.settings.timezone)
        slot = cron.previous_before(now + timedelta(microseconds=1))
        async with self._context.db.read() as session:
            state = await SettingRepository(session).value(SCHEDULE)
        if state is None:  # a new home has nothing to clean
            await self._put_schedule(slot, 1, now, done=True)
            return False
        last, number = datetime.fromisoformat(state["slot"]), int(state["number"])
        if slot > last or last > now + timedelta(days=1):  # due, or planned by a clock that was ahead
            number = 1
        elif state["done"] or number >= TIMES_BEGUN or await self._is_queued(slot, number):
            return False
        else:
            number += 1
        # The row first: a number that the queue has seen is dead, and two schedulers write the same.
        await self._put_schedule(slot, number, now, done=False)
        data = {"slot": slot.isoformat(), "number": number}
        await self._context.queues.add(QueueName.CLEANUP, NewJob(_pass_id(slot, number), data))
        return True

    async def run_now(self, job_id: uuid.UUID | None = None, *, force: bool = False) -> str:
        """Queues a pass over one job or everything; returns the queue job's id.

        `force`: a person has looked, and the guards let it through. Raises NotFoundError, QueueUnavailableError.
        """
        await self._context.queues.ping()
        name = None
        if job_id is not None:
            async with self._context.db.read() as session:
                name = (await JobRepository(session).get(job_id)).name
        queue_job_id = f"cleanup-{new_id(self._context.clock.now())}"
        data = {"job_id": str(job_id) if job_id else None, "force": force}
        about: dict[str, Any] = {"entity_type": "backup_job", "entity_id": job_id, "entity_name": name} if name else {}
        about["changes"] = {"queue_job_id": [None, queue_job_id], "force": [None, force]}
        async with self._audit.telling("cleanup.run", **about):
            await self._context.queues.add(QueueName.CLEANUP, NewJob(queue_job_id, data))
        return queue_job_id

    async def carry_out(self, data: Mapping[str, Any], *, stopped: Callable[[], bool] = _never) -> PassReport | None:
        """Makes the pass that a queue job asks for; None when it is stale."""
        if "slot" not in data:
            job_id = uuid.UUID(data["job_id"]) if data.get("job_id") else None
            return await self.run(job_id, force=bool(data.get("force")), stopped=stopped)
        slot, number = datetime.fromisoformat(data["slot"]), int(data["number"])
        wanted = {"slot": data["slot"], "number": number, "done": False}
        async with self._context.db.read() as session:
            state = await SettingRepository(session).value(SCHEDULE)
        if state != wanted:
            return None
        report = await self.run(stopped=stopped)
        if report.complete:
            await self._put_schedule(slot, number, self._context.clock.now(), done=True)
        return report

    async def run(
        self, job_id: uuid.UUID | None = None, *, force: bool = False, stopped: Callable[[], bool] = _never
    ) -> PassReport:
        """Makes a pass over one job or over everything, and reports it.

        It ends early, and loses nothing, when `stopped` says so between two removals.
        """
        report = PassReport(self._context.clock.now().isoformat())
        settings = await self.settings()
        warning = await self._look_at_clock(settings, force=force)
        if warning:
            report.problem(warning)
        else:
            remover = Remover(self._context, self._opener)
            sweep = Sweep(self._context, self._events, remover, settings, report, force=force, stopped=stopped)
            if job_id is None:
                await sweep.everything(await self._setting(PRUNING_SETTING, PruningSettings))
            else:
                await sweep.job(job_id)
        report.complete = not stopped()
        await self._close(report, whole=job_id is None)
        return report

    async def retention_preview(self, job_id: uuid.UUID) -> RetentionPreview:
        """Returns what would go now, when each kept backup dies, and why it stays. Raises NotFoundError."""
        async with self._context.db.read() as session:
            job = await JobRepository(session).get(job_id)
        return await plan_job(self._context, job, await self.settings())

    async def last_report(self) -> dict[str, Any] | None:
        """Returns what the last pass over everything did, as plain JSON; None before the first one."""
        async with self._context.db.read() as session:
            return await SettingRepository(session).value(REPORT)

    async def settings(self) -> CleanupSettings:
        """Returns the stored settings; the defaults, with a word in the log, when they cannot be read."""
        return await self._setting(SETTING, CleanupSettings)

    async def delete_execution(self, execution_id: uuid.UUID, *, force: bool = False) -> None:
        """Deletes an execution and what it stored, now.

        Raises NotFoundError; ConflictError when it is active, pinned or being read, and, unless `force`, when it is
        the newest good backup of its job or is not in its storage as recorded; StorageError, after which the next
        cleanup goes on with it.
        """
        row = await self._deletable(execution_id, force=force)
        remover = Remover(self._context, self._opener)
        async with self._context.db.read() as session:
            notes = await CleanupRepository(session).notes_of(execution_id)
        for note in notes:
            _demand(await remover.remove_abandoned(note, unchecked=force))
        if row.status in HOLDS_A_BACKUP:
            _demand(await remover.remove(execution_id, even_newest=force, unchecked=force))
        elif row.status is ExecutionStatus.DELETING:
            _demand(await remover.finish(execution_id, unchecked=force))
        else:
            await self._delete_row(execution_id)

    async def _deletable(self, execution_id: uuid.UUID, *, force: bool) -> BackupExecution:
        async with self._context.db.read() as session:
            row = await ExecutionRepository(session).get(execution_id)
            leased = await CleanupRepository(session).is_leased(execution_id)
            newest = await ExecutionRepository(session).newest_good(row.job_id) if row.job_id else None
        if row.status in ACTIVE:
            raise ConflictError(f"this execution is {row.status}", hint="cancel it first")
        if row.pinned:
            raise ConflictError("this backup is pinned", hint="unpin it first")
        if leased:
            raise ConflictError("a restore or verification reads this backup", hint="wait for it to end, or cancel it")
        if newest is not None and newest.id == execution_id and not force:
            raise ConflictError(
                "this is the newest good backup of its job",
                hint="take another backup first; or force it, and the job is left with older ones or none",
            )
        return row

    async def _delete_row(self, execution_id: uuid.UUID) -> None:
        """An execution that failed, was skipped or cancelled stores nothing, once its leftovers are gone."""
        async with self._context.db.write() as session:
            executions = ExecutionRepository(session)
            row = await executions.find_locked(execution_id)
            if row is None or not await executions.mark_deleting(execution_id, self._context.clock.now()):
                raise ConflictError("this execution is in use by now", hint="look at it again")
            await record_deletion(self._audit, session, row)
            await CleanupRepository(session).forget(execution_id)

    async def _look_at_clock(self, settings: CleanupSettings, *, force: bool) -> str | None:
        """Compares the clock with the last pass's; returns why nothing may be removed now."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            state = await SettingRepository(session).value(CLOCK) or {}
            since = None if force else suspect_since(state, now, settings.max_gap_days)
            value = {"passed_at": now.isoformat()} | ({"suspect_since": since.isoformat()} if since else {})
            await SettingRepository(session).put(CLOCK, value, "When cleanup last looked at the clock", now)
        return clock_warning(state, now) if since else None

    async def _close(self, report: PassReport, *, whole: bool) -> None:
        pending: list[Pending] = []
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            if whole:
                await SettingRepository(session).put(REPORT, asdict(report), "What the last cleanup did", now)
            if report.problem_count:
                pending = await self._events.emit(
                    session,
                    type=NotificationType.SYSTEM_ALARM,
                    severity=Severity.CRITICAL,
                    entity_type=EntityType.SYSTEM,
                    entity_id=None,
                    title=f"Cleanup left {report.problem_count} things undone that need a look",
                    message="\n".join(report.problems[:LISTED]),
                    metadata={"problems": report.problem_count, "removed": report.removed},
                )
        await self._events.dispatch(pending)
        log.info("cleanup", removed=report.removed, directories=report.directories, problems=report.problem_count)

    async def _is_queued(self, slot: datetime, number: int) -> bool:
        states = await self._context.queues.states(QueueName.CLEANUP, [_pass_id(slot, number)])
        return states[0] in LIVE_STATES

    async def _put_schedule(self, slot: datetime, number: int, now: datetime, *, done: bool) -> None:
        value = {"slot": slot.isoformat(), "number": number, "done": done}
        async with self._context.db.write() as session:
            await SettingRepository(session).put(SCHEDULE, value, "The pass of cleanup that was queued last", now)

    async def _setting(self, key: str, model: type[Model]) -> Model:
        async with self._context.db.read() as session:
            stored = await SettingRepository(session).value(key)
        try:
            return model.model_validate(stored or {})
        except ValidationError:
            log.warning("a setting cannot be read, its defaults are used", setting=key)
            return model()


def _pass_id(slot: datetime, number: int) -> str:
    return f"cleanup-{slot:%Y%m%dT%H%M}-{number}"


def _demand(outcome: Outcome) -> None:
    if outcome.removed is Removed.REPORTED:
        raise ConflictError(outcome.reason, hint=FORCE_HINT)
    if outcome.removed is Removed.WAITING:
        raise StorageUnreachableError(outcome.reason, hint="the next cleanup goes on with it")
    if outcome.removed is Removed.HELD and outcome.reason:
        raise ConflictError(outcome.reason, hint="look at it again")
