"""Measures the service's own code in a process of its own, since peak memory is only told from a clean start.

`insides.py STEP HOME COUNT [JOBS]` prints one JSON object. The catalogue and the queue are those of the environment
(DATABASE_URL, REDIS_URL), as the service would find them; `fill-…` steps make rows, the others measure.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select, update

from dataguardian.db.migrate import upgrade
from dataguardian.db.models import BackupExecution, BackupJob, Datasource, NotificationRow, StorageLocation
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.db.session import Database
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import DatasourceStatus, ExecutionStatus, StorageStatus, Trigger
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.service.context import Context
from dataguardian.service.events import Events
from dataguardian.service.executions import TRIES, Executions
from dataguardian.service.guards import CleanupSettings
from dataguardian.service.scheduling import Scheduler
from dataguardian.service.sweep import outline_job
from dataguardian.service.vault import Key, Vault
from dataguardian.settings import Settings

BATCH = 2000
LAG_SECONDS = 0.005
HOME_ID = "bench"
HOPELESS_SHARE = 50
"""One in so many dead executions has no try left: it fails, with a notification; the others are queued again."""
Row = dict[str, Any]


async def fill_due(context: Context, count: int, _: int) -> Row:
    """Jobs that are all due in this minute, each with a schedule of its own."""
    now = context.clock.now()
    due_at = now.replace(second=0, microsecond=0)
    await _insert_jobs(context, count, due_at)
    return {"jobs": count}


async def tick(context: Context, count: int, _: int) -> Row:
    """Two schedulers look at the same minute at once."""
    schedulers = [_scheduler(context) for _ in range(2)]
    async with measured() as figures:
        queued = await asyncio.gather(*(scheduler.tick() for scheduler in schedulers))
    again = await schedulers[0].tick()
    async with context.db.read() as session:
        rows = (await session.execute(select(func.count()).select_from(BackupExecution))).scalar_one()
        jobs = (await session.execute(select(func.count(BackupExecution.job_id.distinct())))).scalar_one()
    waiting = (await context.queues.counts())[QueueName.BACKUP]["prioritized"]
    once = sum(queued) == count
    assert once, queued
    assert (rows, jobs, waiting, again) == (count, count, count, 0), (rows, jobs, waiting, again)
    return figures.row() | {"rows": rows, "queue_jobs": waiting, "by_scheduler": list(queued), "second_tick": again}


async def fill_dead(context: Context, count: int, _: int) -> Row:
    """Running executions of an earlier boot of this home, one per job; none of them is known to the queue."""
    jobs = await _insert_jobs(context, count, None)
    now = context.clock.now()
    held: Row = {
        "status": ExecutionStatus.RUNNING,
        "started_at": now,
        "attempt": 1,
        "worker": f"{HOME_ID}/dead",
        "lease_until": now + timedelta(hours=1),
    }
    rows = (
        _execution(job, now)
        | held
        | {"attempt_path": f"job/{number}", "tries_left": 0 if number % HOPELESS_SHARE == 0 else TRIES - 1}
        for number, job in enumerate(jobs)
    )
    await _insert(context, BackupExecution, rows)
    return {"executions": count}


async def recover(context: Context, count: int, _: int) -> Row:
    """The reconciler's first look after a crash."""
    executions = _executions(context)
    async with measured() as figures:
        mended = await executions.reconcile()
    waiting = (await context.queues.counts())[QueueName.BACKUP]["prioritized"]
    async with context.db.read() as session:
        told = (await session.execute(select(func.count()).select_from(NotificationRow))).scalar_one()
    hopeless = -(-count // HOPELESS_SHARE)
    assert (mended, waiting, told) == (count, count - hopeless, hopeless), (mended, waiting, told)
    return figures.row() | {"mended": mended, "enqueued": waiting, "failed": told}


async def look_again(context: Context, count: int, _: int) -> Row:
    """The reconciler's look, every 15 seconds, while so many executions wait that the queue all knows."""
    async with context.db.write() as session:
        await session.execute(update(BackupExecution).values(updated_at=context.clock.now() - timedelta(minutes=5)))
    executions = _executions(context)
    async with measured() as figures:
        mended = await executions.reconcile()
    assert mended == 0, mended
    return figures.row() | {"executions": count}


async def fill_completed(context: Context, count: int, jobs: int) -> Row:
    """Completed executions, an hour apart within a job, the newest an hour ago."""
    made = await _insert_jobs(context, jobs, None)
    now = context.clock.now()
    rows = (
        _execution(job, now - timedelta(hours=1 + number))
        | {
            "status": ExecutionStatus.COMPLETED,
            "attempt": 1,
            "size_bytes": 5_000_000,
            "compressed_size_bytes": 1_000_000,
            "backup_path": f"job/{number}",
        }
        for job in made
        for number in range(count // jobs)
    )
    await _insert(context, BackupExecution, rows)
    return {"executions": count}


async def plan(context: Context, count: int, jobs: int) -> Row:
    """What cleanup decides before it removes anything, job by job as a pass does it."""
    async with context.db.read() as session:
        found = await JobRepository(session).all()
    kept = doomed = 0
    async with measured() as figures:
        for job in found:
            outline = await outline_job(context, job, CleanupSettings())
            doomed += outline.removed
            kept += outline.total - outline.removed
    assert kept + doomed == count, (kept, doomed)
    assert kept >= jobs, kept
    return figures.row() | {"kept": kept, "doomed": doomed}


@dataclass
class Figures:
    """What a measured block cost: seconds, this process's peak memory over its memory at the start, loop lags."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    before_bytes: int = 0
    peak_bytes: int = 0
    lags: list[float] = field(default_factory=list)

    def row(self) -> Row:
        worst = sorted(self.lags) or [0.0]
        return {
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "before_bytes": self.before_bytes,
            "growth_bytes": self.peak_bytes - self.before_bytes,
            "lag_median_ms": round(statistics.median(worst) * 1000, 2),
            "lag_p99_ms": round(worst[int(len(worst) * 0.99)] * 1000, 2),
            "lag_max_ms": round(worst[-1] * 1000, 2),
        }


@asynccontextmanager
async def measured() -> AsyncIterator[Figures]:
    """Measures the block, and how late the event loop wakes a task that sleeps 5 ms again and again meanwhile."""
    figures = Figures()
    lagging = asyncio.create_task(_watch_lag(figures.lags))
    await asyncio.sleep(0.1)
    figures.lags.clear()
    _forget_peak()
    figures.before_bytes = _memory("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    yield figures
    figures.seconds, figures.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    figures.peak_bytes = _memory("VmHWM")
    lagging.cancel()


async def _watch_lag(lags: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(LAG_SECONDS)
        lags.append(time.perf_counter() - before - LAG_SECONDS)


def _forget_peak() -> None:
    """The peak starts again at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:"))


def _executions(context: Context) -> Executions:
    return Executions(context, Events(context))


def _scheduler(context: Context) -> Scheduler:
    return Scheduler(context, _executions(context), Events(context))


async def _insert_jobs(context: Context, count: int, due_at: datetime | None) -> Sequence[Row]:
    """Jobs that share a datasource and a storage location, with schedules all over the day."""
    now = context.clock.now()
    stamps = {"created_at": now, "updated_at": now}
    source: Row = {"id": new_id(now), "name": "shop", "type": "sqlite", "status": DatasourceStatus.HEALTHY} | stamps
    source |= {"connection_config": {"file_path": "/shop.db"}, "enabled": True, "production": True}
    source |= {"tags": [], "consecutive_failures": 0}
    place: Row = {"id": new_id(now), "name": "disk", "type": "local", "status": StorageStatus.HEALTHY} | stamps
    place |= {"config": {"path": "/backups"}, "is_default": True, "consecutive_failures": 0}
    await _insert(context, Datasource, [source])
    await _insert(context, StorageLocation, [place])
    chooser = random.Random(3)
    jobs = [
        stamps
        | {
            "id": new_id(now),
            "datasource_id": source["id"],
            "storage_location_id": place["id"],
            "name": f"job {number}",
            "schedule_cron": f"{chooser.randrange(60)} {chooser.randrange(24)} * * *",
            "schedule_timezone": "Europe/Lisbon",
            "enabled": True,
            "retention_policy": {},
            "backup_options": {},
            "next_execution_at": due_at,
        }
        for number in range(count)
    ]
    await _insert(context, BackupJob, jobs)
    return jobs


def _execution(job: Row, created_at: datetime) -> Row:
    return {
        "id": new_id(created_at),
        "created_at": created_at,
        "updated_at": created_at,
        "job_id": job["id"],
        "datasource_id": job["datasource_id"],
        "storage_location_id": job["storage_location_id"],
        "trigger": Trigger.SCHEDULED,
        "backup_type": "full",
        "details": {"compression": "zstd", "parts": 3, "streams": [], "warnings": []},
        "pinned": False,
        "tries_left": TRIES - 1,
        "enqueue_number": 1,
        "cancel_requested": False,
    }


async def _insert(context: Context, table: Any, rows: Sequence[Row] | Iterator[Row]) -> None:
    batch: list[Row] = []
    for row in [*rows] if isinstance(rows, Sequence) else rows:
        batch.append(row)
        if len(batch) == BATCH:
            await _insert_batch(context, table, batch)
            batch = []
    await _insert_batch(context, table, batch)


async def _insert_batch(context: Context, table: Any, batch: Sequence[Row]) -> None:
    if batch:
        async with context.db.write() as session:
            await session.execute(insert(table), list(batch))


STEPS: dict[str, Callable[[Context, int, int], Awaitable[Row]]] = {
    "fill-due": fill_due,
    "tick": tick,
    "fill-dead": fill_dead,
    "recover": recover,
    "look-again": look_again,
    "fill-completed": fill_completed,
    "plan": plan,
}


async def main(step: str, count: int, jobs: int) -> Row:
    gc.freeze()  # as the service does when it has read the program
    settings = Settings.from_environment()
    if step.startswith("fill"):
        await asyncio.to_thread(upgrade, settings.catalogue_url)
    database, url = Database(settings.catalogue_url), settings.redis_url or ""
    queues, live = Queues(url), Live(url)
    context = Context(
        settings, SystemClock(), database, queues, live, HOME_ID, uuid.uuid4().hex, Vault([Key.generate()])
    )
    try:
        return await STEPS[step](context, count, jobs)
    finally:
        await live.close()
        await queues.close()
        await database.close()


if __name__ == "__main__":
    name, folder, *numbers = sys.argv[1:]
    counts = [int(number) for number in numbers]
    Path(folder).mkdir(parents=True, exist_ok=True)
    print(json.dumps(asyncio.run(main(name, counts[0], counts[1] if len(counts) > 1 else 1))))
