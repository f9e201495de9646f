"""Health checks: every five minutes each enabled datasource and each storage location, through the health queue.

A check of one row at one time is one `health_checks` row whose id follows from both. It is written in the transaction
that counts it, so a check that two workers carry out counts once.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import Datasource, HealthCheck, StorageLocation
from dataguardian.db.repositories.checks import CheckRepository
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.domain.states import CheckStatus, EntityType
from dataguardian.engines.base import ProbeResult
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import NewJob
from dataguardian.service.context import Context
from dataguardian.service.definitions import probe_datasource, probe_storage
from dataguardian.service.events import Events, Pending
from dataguardian.service.outages import Checked, judge_datasource, judge_storage
from dataguardian.service.vault import Vault

EVERY_MINUTES = 5
TOO_LATE = timedelta(minutes=2 * EVERY_MINUTES)
"""A check that waited so long in the queue is dropped: newer ones of the same rows are queued behind it."""
BATCH_SECONDS = 0.2

log = structlog.get_logger(__name__)

DatasourceProbe = Callable[[Datasource, Vault], Awaitable[ProbeResult]]
StorageProbe = Callable[[StorageLocation, Vault], Awaitable[ProbeResult]]


class Kind(StrEnum):
    DATASOURCE = "datasource"
    STORAGE = "storage_location"


@dataclass(frozen=True)
class Outcome:
    """What a check found, and of which configuration."""

    kind: Kind
    row_id: uuid.UUID
    due_at: datetime
    config: dict[str, Any]
    checked: Checked


class Health:
    def __init__(
        self,
        context: Context,
        events: Events,
        *,
        datasource_probe: DatasourceProbe = probe_datasource,
        storage_probe: StorageProbe = probe_storage,
    ) -> None:
        self._context = context
        self._events = events
        self._probe_datasource = datasource_probe
        self._probe_storage = storage_probe
        self._waiting: list[Outcome] = []
        self._flush: asyncio.Task[None] | None = None

    async def enqueue(self) -> int:
        """Queues the checks that are due now; returns how many. Called twice, or by two schedulers, it changes nothing.

        Those whose last check is the longest ago come first, so that a queue too slow for all of them is fair.
        """
        minute = _slot(self._context.clock.now())
        async with self._context.db.read() as session:
            found = {
                Kind.DATASOURCE: await CheckRepository(session).datasources_to_check(),
                Kind.STORAGE: await CheckRepository(session).storages_to_check(),
            }
        jobs = [
            NewJob(f"{row_id}-{minute}", {"id": str(row_id), "kind": kind.value, "minute": minute})
            for kind, row_ids in found.items()
            for row_id in row_ids
        ]
        await self._context.queues.add_many(QueueName.HEALTH, jobs)
        return len(jobs)

    async def check(self, data: Mapping[str, Any], *, last_try: bool) -> bool:
        """Carries out a queued check; False: it failed and does not count yet, it should be tried once more."""
        due_at = datetime.fromtimestamp(int(data["minute"]) * 60, UTC)
        if self._context.clock.now() - due_at > TOO_LATE:
            return True
        outcome = await self._probe(Kind(data["kind"]), uuid.UUID(data["id"]), due_at)
        if outcome is None:
            return True
        if not outcome.checked.ok and not last_try:
            return False
        await self._record_soon(outcome)
        return True

    async def record(self, outcomes: Sequence[Outcome]) -> None:
        """Stores checks and what follows from them, all in one transaction."""
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            for outcome in sorted(outcomes, key=lambda entry: (entry.kind, entry.row_id)):  # one order of locking
                pending += await self._count(session, outcome)
        await self._events.dispatch(pending)

    async def _probe(self, kind: Kind, row_id: uuid.UUID, due_at: datetime) -> Outcome | None:
        async with self._context.db.read() as session:
            row = await _repository(session, kind).find(row_id)
        if row is None or (isinstance(row, Datasource) and not row.enabled):
            return None
        began = self._context.clock.monotonic()
        result = await self._ask(row)
        latency_ms = (self._context.clock.monotonic() - began) * 1000
        return Outcome(kind, row_id, due_at, _config(row), Checked(result, latency_ms, self._context.clock.now()))

    async def _ask(self, row: Datasource | StorageLocation) -> ProbeResult:
        """A probe that breaks is a failed check: an adapter's defect must not make its rows look unwatched."""
        try:
            if isinstance(row, Datasource):
                return await self._probe_datasource(row, self._context.vault)
            return await self._probe_storage(row, self._context.vault)
        except Exception as error:
            log.exception("a health check met a defect", id=str(row.id))
            return ProbeResult("error", f"the check itself failed ({type(error).__name__}); the log has more")

    async def _record_soon(self, outcome: Outcome) -> None:
        """Returns when the check is committed, together with those that end at about the same time."""
        self._waiting.append(outcome)
        if self._flush is None:
            self._flush = asyncio.create_task(self._write_waiting())
        await asyncio.shield(self._flush)

    async def _write_waiting(self) -> None:
        await asyncio.sleep(BATCH_SECONDS)
        batch, self._waiting, self._flush = self._waiting, [], None
        await self.record(batch)

    async def _count(self, session: AsyncSession, outcome: Outcome) -> list[Pending]:
        row = await _repository(session, outcome.kind).find_locked(outcome.row_id)
        check_id = _check_id(outcome.row_id, outcome.due_at)
        if row is None or _config(row) != outcome.config or await CheckRepository(session).find(check_id):
            return []  # deleted or changed while it was probed, or counted already
        await CheckRepository(session).add(_check_row(check_id, outcome))
        if isinstance(row, Datasource):
            kind, news = EntityType.DATASOURCE, judge_datasource(row, outcome.checked)
        else:
            kind, news = EntityType.STORAGE_LOCATION, judge_storage(row, outcome.checked)
        pending: list[Pending] = []
        for item in news:
            pending += await self._events.emit(
                session,
                type=item.type,
                severity=item.severity,
                entity_type=kind,
                entity_id=row.id,
                title=item.title,
                message=item.message,
                metadata=item.metadata,
            )
        await session.flush()
        return pending


def _slot(now: datetime) -> int:
    """Returns the last full five minutes, in minutes since 1970: the same for every scheduler."""
    minutes = int(now.timestamp() // 60)
    return minutes - minutes % EVERY_MINUTES


def _repository(session: AsyncSession, kind: Kind) -> DatasourceRepository | StorageRepository:
    return DatasourceRepository(session) if kind is Kind.DATASOURCE else StorageRepository(session)


def _config(row: Datasource | StorageLocation) -> dict[str, Any]:
    return row.connection_config if isinstance(row, Datasource) else row.config


def _check_row(check_id: uuid.UUID, outcome: Outcome) -> HealthCheck:
    checked = outcome.checked
    return HealthCheck(
        id=check_id,
        created_at=checked.at,
        updated_at=checked.at,
        datasource_id=outcome.row_id if outcome.kind is Kind.DATASOURCE else None,
        storage_location_id=outcome.row_id if outcome.kind is Kind.STORAGE else None,
        checked_at=checked.at,
        status=CheckStatus(checked.result.status),
        latency_ms=round(checked.latency_ms, 3),
        error_message=None if checked.ok else checked.result.message,
        details=checked.result.metadata,
    )


def _check_id(row_id: uuid.UUID, due_at: datetime) -> uuid.UUID:
    """Returns a UUIDv7 of the time at which the check was due, with the row's hash for its random bits."""
    digest = int.from_bytes(hashlib.sha256(row_id.bytes).digest()[:10], "big")
    milliseconds = int(due_at.timestamp() * 1000) & ((1 << 48) - 1)
    bits = milliseconds << 80 | 0x7 << 76 | (digest >> 68) << 64 | 0b10 << 62 | digest & ((1 << 62) - 1)
    return uuid.UUID(int=bits)
