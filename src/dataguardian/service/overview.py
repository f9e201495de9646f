"""How things stand, in numbers: for the overview and for metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dataguardian.db.models import BackupExecution, BackupJob, Datasource, StorageLocation
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.db.repositories.lists import Filters, Lists
from dataguardian.db.repositories.overview import JobNumbers, OverviewRepository, Stored
from dataguardian.domain.errors import QueueUnavailableError
from dataguardian.domain.states import DatasourceStatus, ExecutionStatus
from dataguardian.queues.definitions import QueueName
from dataguardian.service.context import Context

RECENT = timedelta(hours=24)
NEXT_RUNS = 10
ACTIVE_RUNS = 20
NOTHING = Stored(0, 0)
METRICS_SECONDS = 5.0


@dataclass(frozen=True)
class StorageNumbers:
    """A storage location and what it holds."""

    location: StorageLocation
    stored: Stored


@dataclass(frozen=True)
class Summary:
    """Numbers for one page. `recent` counts the executions of the last 24 hours by state."""

    datasources: Mapping[DatasourceStatus, int]
    storages: Sequence[StorageNumbers]
    jobs: int
    failing: Sequence[JobNumbers]
    recent: Mapping[ExecutionStatus, int]
    active: Sequence[BackupExecution]
    next_runs: Sequence[BackupJob]
    unread_notifications: int


@dataclass(frozen=True)
class Measured:
    """Numbers for metrics. `queues` is None while the queue server is away."""

    jobs: Sequence[JobNumbers]
    datasources: Sequence[Datasource]
    storages: Sequence[StorageNumbers]
    unread_notifications: int
    queues: Mapping[QueueName, Mapping[str, int]] | None


class Overview:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._measuring = asyncio.Lock()
        self._measured: tuple[float, Measured] | None = None

    async def summary(self) -> Summary:
        async with self._context.db.read() as session:
            numbers = OverviewRepository(session)
            lists = Lists(session)
            running = await lists.executions(Filters(status=ExecutionStatus.RUNNING), 1, ACTIVE_RUNS)
            queued = await lists.executions(Filters(status=ExecutionStatus.QUEUED), 1, ACTIVE_RUNS)
            return Summary(
                datasources=await lists.datasources_by_status(),
                storages=_with_stored(await StorageRepository(session).all(), await numbers.stored()),
                jobs=await JobRepository(session).count(),
                failing=await numbers.jobs(failing=True),
                recent=await numbers.counts(self._context.clock.now() - RECENT),
                active=[*running.data, *queued.data][:ACTIVE_RUNS],
                next_runs=await JobRepository(session).next_due(NEXT_RUNS),
                unread_notifications=await numbers.unread_notifications(),
            )

    async def measure(self) -> Measured:
        """Returns the numbers for metrics, at most METRICS_SECONDS old: scrapers that hurry cost nothing."""
        async with self._measuring:
            now = self._context.clock.monotonic()
            if self._measured is None or not 0 <= now - self._measured[0] < METRICS_SECONDS:
                self._measured = now, await self._measure()
            return self._measured[1]

    async def _measure(self) -> Measured:
        async with self._context.db.read() as session:
            numbers = OverviewRepository(session)
            jobs = await numbers.jobs()
            datasources = await DatasourceRepository(session).all()
            storages = _with_stored(await StorageRepository(session).all(), await numbers.stored())
            unread = await numbers.unread_notifications()
        return Measured(jobs, datasources, storages, unread, await self._queues())

    async def _queues(self) -> Mapping[QueueName, Mapping[str, int]] | None:
        try:
            await self._context.queues.ping()
            return await self._context.queues.counts()
        except QueueUnavailableError:
            return None


def _with_stored(rows: Sequence[StorageLocation], stored: Mapping[Any, Stored]) -> list[StorageNumbers]:
    return [StorageNumbers(row, stored.get(row.id, NOTHING)) for row in rows]
