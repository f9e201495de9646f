"""The weekly sample: some backups of every storage are verified where they lie, before a restore needs them.

Week by week it takes those that were never verified, then those whose last verification is the longest ago. It feeds
the queue a few at a time, so that restores do not wait and no lease holds up retention for long, and it counts in the
catalogue what was verified since the week's moment: after a restart it goes on where the rows say that it was.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import StorageLocation
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.db.repositories.samples import SampleRepository, Tally
from dataguardian.domain.cron import parse_schedule
from dataguardian.domain.errors import ConflictError, NotFoundError, SecretUnreadableError
from dataguardian.domain.states import EntityType, NotificationType, Severity, StorageStatus
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.decryption import ENCRYPTION, keys_for
from dataguardian.service.events import Events, Pending
from dataguardian.service.work import Work

SETTING = "scrub"
STATE = "scrub_state"
AT_ONCE = 5
"""So many verifications are queued or running at most; each is a lease that keeps its backup from being deleted."""
FAILURES_AT_MOST = 20
"""A storage in which so many could not be checked is left alone until the next week."""
WEEK = timedelta(days=7)

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_STATE_TEXT = "Which weekly sample of verifications is being taken, and how many of each storage"

log = structlog.get_logger(__name__)


class ScrubSettings(BaseModel):
    """The setting `scrub`. Day and hour are in the instance's time zone.

    Of each storage location `percent` of its backups are verified every week, but at least one; with `backups` so many
    instead. `deep` also expands every part and has the engine read the whole dump.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    weekday: Weekday = "sunday"
    hour: Annotated[int, Field(ge=0, le=23)] = 1
    percent: Annotated[float, Field(gt=0, le=100)] = 5
    backups: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    deep: bool = False

    def share(self, count: int) -> int:
        """Returns how many of a storage's backups one week verifies."""
        return min(count, self.backups or max(1, math.ceil(count * self.percent / 100)))


@dataclass(frozen=True)
class Sample:
    """One week's sample: how many backups of each storage location are `planned`, and what became of them."""

    since: datetime
    done: bool
    planned: Mapping[uuid.UUID, int]
    tallies: Mapping[uuid.UUID, Tally]


class Sampling:
    def __init__(self, context: Context, events: Events, work: Work) -> None:
        self._context = context
        self._events = events
        self._work = work
        self._audit = Audit(context)

    async def tick(self) -> int:
        """Begins the sample that is due, and goes on with one that was begun; returns how many verifications it queued.

        Raises QueueUnavailableError; whatever was queued until then is counted the next time.
        """
        settings = await self.settings()
        if not settings.enabled:
            return 0
        await self._begin_due(settings)
        sample = await self.sample()
        return 0 if sample is None or sample.done else await self._go_on(sample, settings)

    async def run_now(self) -> Sample:
        """Begins a sample now, whatever the day; raises QueueUnavailableError."""
        await self._context.queues.ping()
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            await self._put(session, now, await self._plan(session, await self.settings()), done=False)
            await self._audit.record(session, "scrub.run", "system")
        sample = await self.sample()
        assert sample is not None  # noqa: S101 -- stored a moment ago
        await self._go_on(sample, await self.settings())
        return await self.sample() or sample

    async def sample(self) -> Sample | None:
        """Returns the sample that goes on or was the last; None before the first one."""
        async with self._context.db.read() as session:
            state = await SettingRepository(session).value(STATE)
            if state is None:
                return None
            since = datetime.fromisoformat(state["since"])
            tallies = await SampleRepository(session).tallies(since, self._context.clock.now())
        planned = {uuid.UUID(storage_id): count for storage_id, count in state["planned"].items()}
        return Sample(since, state["done"], planned, tallies)

    async def settings(self) -> ScrubSettings:
        """Returns the stored settings; the defaults, with a word in the log, when they cannot be read."""
        async with self._context.db.read() as session:
            stored = await SettingRepository(session).value(SETTING)
        try:
            return ScrubSettings.model_validate(stored or {})
        except ValidationError:
            log.warning("a setting cannot be read, its defaults are used", setting=SETTING)
            return ScrubSettings()

    async def _begin_due(self, settings: ScrubSettings) -> None:
        now = self._context.clock.now()
        cron = parse_schedule(f"0 {settings.hour} * * {settings.weekday[:3]}", self._context.settings.timezone)
        moment = cron.previous_before(now + timedelta(microseconds=1))
        async with self._context.db.read() as session:
            state = await SettingRepository(session).value(STATE)
        last = datetime.fromisoformat(state["since"]) if state else None
        if last is not None and moment <= last <= now:
            return
        async with self._context.db.write() as session:
            if last is None or last > now:  # nothing was missed in a new home, nor by a clock that was ahead
                await self._put(session, moment, {}, done=True)
            else:
                await self._put(session, moment, await self._plan(session, settings), done=False)

    async def _plan(self, session: AsyncSession, settings: ScrubSettings) -> dict[uuid.UUID, int]:
        counts = await SampleRepository(session).backups_by_storage()
        return {storage_id: settings.share(count) for storage_id, count in counts.items()}

    async def _go_on(self, sample: Sample, settings: ScrubSettings) -> int:
        """Queues what there is room for; closes the sample when nothing more is to be done."""
        async with self._context.db.read() as session:
            storages = {row.id: row for row in await StorageRepository(session).all()}
        room = AT_ONCE - sum(tally.active for tally in sample.tallies.values())
        queued, finished = 0, True
        for storage_id, planned in sample.planned.items():
            tally = sample.tallies.get(storage_id, Tally())
            left = planned - tally.completed - tally.active
            if left > 0 and tally.failed < FAILURES_AT_MOST and storage_id in storages:
                started, exhausted = await self._feed(storages[storage_id], sample, min(left, room - queued), settings)
                queued += started
                finished = finished and exhausted
            finished = finished and tally.active == 0
        if finished and queued == 0:
            await self._close(sample, storages)
        return queued

    async def _feed(
        self, storage: StorageLocation, sample: Sample, room: int, settings: ScrubSettings
    ) -> tuple[int, bool]:
        """Queues up to `room` verifications of a storage; returns how many, and whether nothing was left to choose.

        A storage that is away is waited for until the next week: it is no news that nothing of it can be read.
        """
        if storage.status is StorageStatus.UNREACHABLE or room <= 0:
            return 0, False
        now = self._context.clock.now()
        async with self._context.db.read() as session:
            chosen = await SampleRepository(session).longest_unverified(storage.id, sample.since, now, room)
        queued = 0
        for execution_id in chosen:
            try:
                deep = settings.deep and await self._can_open(execution_id)
                await self._work.start_verification(execution_id, deep=deep, scheduled=True)
            except (ConflictError, NotFoundError):  # deleted by now, or another scheduler was faster
                continue
            queued += 1
        return queued, not chosen

    async def _can_open(self, execution_id: uuid.UUID) -> bool:
        """Tells whether a backup is in clear, or this service has keys; the stored bytes of others can be checked."""
        async with self._context.db.read() as session:
            execution = await ExecutionRepository(session).get(execution_id)
        try:
            return not execution.details.get(ENCRYPTION) or bool(await keys_for(self._context, execution))
        except SecretUnreadableError:
            return False

    async def _close(self, sample: Sample, storages: Mapping[uuid.UUID, StorageLocation]) -> None:
        """Marks a sample as done, once; what could not be checked is told of then, because it is no rot."""
        failed = {
            storages[storage_id].name: tally.failed
            for storage_id, tally in sample.tallies.items()
            if tally.failed and storage_id in storages
        }
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            settings = SettingRepository(session)
            row = await settings.by_key(STATE)
            row = await settings.find_locked(row.id) if row else None
            if row is None or row.value["done"] or row.value["since"] != sample.since.isoformat():
                return
            await self._put(session, sample.since, dict(sample.planned), done=True)
            if failed:
                pending = await self._tell(session, failed)
        await self._events.dispatch(pending)
        log.info("weekly sample verified", storages=len(sample.planned), failed=sum(failed.values()))

    async def _tell(self, session: AsyncSession, failed: Mapping[str, int]) -> list[Pending]:
        count = sum(failed.values())
        return await self._events.emit(
            session,
            type=NotificationType.SYSTEM_ALARM,
            severity=Severity.WARNING,
            entity_type=EntityType.SYSTEM,
            entity_id=None,
            title=f"{count} backups could not be verified" if count > 1 else "A backup could not be verified",
            message="\n".join(f"{name}: {number}" for name, number in sorted(failed.items()))
            + "\nThey may be good: why they could not be read is in the list of verifications.",
            metadata={"failed": dict(failed)},
        )

    async def _put(
        self, session: AsyncSession, since: datetime, planned: Mapping[uuid.UUID, int], *, done: bool
    ) -> None:
        value: dict[str, Any] = {
            "since": since.isoformat(),
            "planned": {str(storage_id): count for storage_id, count in planned.items()},
            "done": done,
        }
        await SettingRepository(session).put(STATE, value, _STATE_TEXT, self._context.clock.now())
