"""One pass of cleanup: what failed attempts left, then job by job what retention no longer holds, then old rows.

It touches nothing of a job whose newest good backup it cannot see in its storage: a storage that is not what it was,
such as an empty folder where a disk was mounted, must not look like one whose backups may go.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import islice

import structlog

from dataguardian.db.models import AbandonedDirectory, BackupJob
from dataguardian.db.repositories.cleanup import CleanupRepository
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.stored import AbandonedRepository
from dataguardian.domain.errors import DataGuardianError
from dataguardian.domain.retention import Decision, RetainedBackup, RetentionPlanner, RetentionPolicy, local_date
from dataguardian.domain.sizes import format_size
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.service.context import Context
from dataguardian.service.events import Events
from dataguardian.service.guards import CleanupSettings, plan_warning
from dataguardian.service.pruning import PruningSettings, prune
from dataguardian.service.removal import Outcome, Removed, Remover
from dataguardian.storage.base import Storage

PLAN_BATCH = 200
ID_BYTES = 16
NOTES = 100
PATHS = 500
TOLD_AT_MOST = 200
UNKNOWN_AT_MOST = 1000

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RetentionPreview:
    """What a pass would do now. `decisions` are newest first; `blocked` says why it would do nothing."""

    job_id: uuid.UUID
    today: date
    timezone: str
    decisions: list[Decision]
    blocked: str | None

    @property
    def doomed(self) -> list[Decision]:
        return [decision for decision in self.decisions if not decision.keep]


@dataclass
class PassReport:
    """What a pass did; stored for people to read. `problems` are the first of what it did not dare or could not do."""

    started_at: str
    removed: int = 0
    removed_bytes: int = 0
    directories: int = 0
    pruned: dict[str, int] = field(default_factory=dict)
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    unknown_directories: list[str] = field(default_factory=list)
    complete: bool = False

    def problem(self, text: str) -> None:
        self.problem_count += 1
        if len(self.problems) < TOLD_AT_MOST:
            self.problems.append(text)


@dataclass
class Tally:
    """What a pass did to one job."""

    name: str
    report: PassReport
    removed: int = 0
    size_bytes: int = 0

    def count(self, outcome: Outcome) -> None:
        if outcome.removed is Removed.GONE:
            self.removed += 1
            self.size_bytes += outcome.size_bytes
            self.report.removed += 1
            self.report.removed_bytes += outcome.size_bytes
        elif outcome.removed in (Removed.REPORTED, Removed.WAITING):
            self.problem(outcome.reason)

    def problem(self, text: str) -> None:
        self.report.problem(f"{self.name}: {text}")


@dataclass
class RetentionOutline:
    """A plan without its reasons, in memory that hardly grows: what a pass needs. `blocked` as in the preview."""

    total: int = 0
    blocked: str | None = None
    _doomed: bytearray = field(default_factory=bytearray)

    def count(self, decision: Decision) -> None:
        self.total += 1
        if not decision.keep:
            self._doomed += uuid.UUID(decision.id).bytes

    @property
    def removed(self) -> int:
        return len(self._doomed) // ID_BYTES

    def oldest_first(self) -> Iterator[uuid.UUID]:
        for end in range(len(self._doomed), 0, -ID_BYTES):
            yield uuid.UUID(bytes=bytes(self._doomed[end - ID_BYTES : end]))


async def plan_job(context: Context, job: BackupJob, settings: CleanupSettings) -> RetentionPreview:
    """Plans for people: every backup of the job with its reasons."""
    now = context.clock.now()
    decisions: list[Decision] = []
    outline = await outline_job(context, job, settings, seen=decisions.append)
    return RetentionPreview(
        job.id, local_date(now, job.schedule_timezone), job.schedule_timezone, decisions, outline.blocked
    )


async def outline_job(
    context: Context, job: BackupJob, settings: CleanupSettings, seen: Callable[[Decision], object] | None = None
) -> RetentionOutline:
    """Reads a job's backups as a stream and decides while they pass: 100,000 of them are no trouble."""
    now, timezone = context.clock.now(), job.schedule_timezone
    policy = RetentionPolicy.model_validate(job.retention_policy)
    planner = RetentionPlanner(policy, local_date(now, timezone), timezone)
    outline, newest = RetentionOutline(), None

    def take(decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            outline.count(decision)
            if seen is not None:
                seen(decision)

    async with context.db.read() as session:
        async for view in CleanupRepository(session).backups_of(job.id):
            newest = newest or view.created_at
            take(planner.add(RetainedBackup(str(view.id), view.created_at, view.pinned, view.stored_bytes)))
            if outline.total % PLAN_BATCH == 0:
                await asyncio.sleep(0)  # others want the processor, too
    take(planner.finish())
    outline.blocked = plan_warning(newest, outline.removed, outline.total, now, settings)
    return outline


class Sweep:
    """One pass. It ends early, and loses nothing, when `stopped` says so between two removals.

    `force`: a person has looked, and plans that seem too large are carried out.
    """

    def __init__(
        self,
        context: Context,
        events: Events,
        remover: Remover,
        settings: CleanupSettings,
        report: PassReport,
        *,
        force: bool,
        stopped: Callable[[], bool],
    ) -> None:
        self._context = context
        self._events = events
        self._remover = remover
        self._settings = settings
        self._report = report
        self._force = force
        self._stopped = stopped

    async def everything(self, pruning: PruningSettings) -> None:
        await self._remove_abandoned()
        async with self._context.db.read() as session:
            job_ids = await CleanupRepository(session).job_ids()
        for job_id in job_ids:
            if not self._stopped():
                await self.job(job_id)
        await self._look_for_unknown()
        self._report.pruned = await prune(self._context, pruning, stopped=self._stopped)

    async def job(self, job_id: uuid.UUID) -> None:
        """Cleans one job; whatever goes wrong with it is noted, so that others go on."""
        async with self._context.db.read() as session:
            job = await JobRepository(session).find(job_id)
        if job is None:
            return
        tally = Tally(job.name, self._report)
        try:
            if await self._newest_is_there(job, tally):
                await self._finish_begun(job, tally)
                await self._retain(job, tally)
        except DataGuardianError as error:
            tally.problem(error.message)
        if tally.removed:
            await self._tell(job, tally)

    async def _newest_is_there(self, job: BackupJob, tally: Tally) -> bool:
        async with self._context.db.read() as session:
            newest = await ExecutionRepository(session).newest_good(job.id)
        wrong = await self._remover.check(newest) if newest else None
        if wrong:
            tally.problem(f"its newest good backup is not there as recorded, so nothing was removed: {wrong}")
        return wrong is None

    async def _finish_begun(self, job: BackupJob, tally: Tally) -> None:
        async with self._context.db.read() as session:
            begun = await CleanupRepository(session).half_deleted(job.id)
        for execution_id in begun:
            if not self._stopped():
                tally.count(await self._remover.finish(execution_id))

    async def _retain(self, job: BackupJob, tally: Tally) -> None:
        plan = await outline_job(self._context, job, self._settings)
        if plan.blocked and not self._force:
            tally.problem(plan.blocked)
            return
        for execution_id in plan.oldest_first():
            if self._stopped():
                return
            tally.count(await self._remover.remove(execution_id))

    async def _remove_abandoned(self) -> None:
        after = None
        while not self._stopped():
            async with self._context.db.read() as session:
                notes = await AbandonedRepository(session).removable(after, NOTES)
            for note in notes:
                if not self._stopped():
                    await self._remove_note(note)
            if len(notes) < NOTES:
                return
            after = notes[-1].id

    async def _remove_note(self, note: AbandonedDirectory) -> None:
        try:
            outcome = await self._remover.remove_abandoned(note)
        except DataGuardianError as error:
            outcome = Outcome(Removed.REPORTED, reason=f"{note.path}: {error.message}")
        if outcome.removed is Removed.GONE:
            self._report.directories += 1
        elif outcome.removed is Removed.REPORTED:
            self._report.problem(outcome.reason)

    async def _look_for_unknown(self) -> None:
        """Lists directories that the catalogue does not know: of another instance, or of rows that it lost."""
        async with self._context.db.read() as session:
            storage_ids = [row.id for row in await StorageRepository(session).all()]
        for storage_id in storage_ids:
            try:
                await self._look_through(storage_id)
            except DataGuardianError as error:
                log.info("a storage could not be looked through", storage=str(storage_id), error=error.code)

    async def _look_through(self, storage_id: uuid.UUID) -> None:
        directories = _directories(await self._remover.storage(storage_id))
        while not self._stopped() and len(self._report.unknown_directories) < UNKNOWN_AT_MOST:
            paths = await self._remover.step(storage_id, lambda _: list(islice(directories, PATHS)))
            if not paths:
                return
            async with self._context.db.read() as session:
                known = await CleanupRepository(session).known_paths(storage_id, paths)
            self._report.unknown_directories += sorted(set(paths) - known)

    async def _tell(self, job: BackupJob, tally: Tally) -> None:
        async with self._context.db.write() as session:
            pending = await self._events.emit(
                session,
                type=NotificationType.CLEANUP_COMPLETED,
                severity=Severity.INFO,
                entity_type=EntityType.BACKUP_JOB,
                entity_id=job.id,
                title=f"Cleanup of {job.name} removed {tally.removed} backups",
                message=f"{format_size(tally.size_bytes)} are free again.",
                metadata={"removed": tally.removed, "size_bytes": tally.size_bytes},
            )
        await self._events.dispatch(pending)


def _directories(storage: Storage) -> Iterator[str]:
    for job in storage.folders():
        for run in storage.folders(job):
            yield f"{job}/{run}"
