"""Due runs, whatever happens to schedulers and clocks: each is accounted for, once."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

from dataguardian.service.work import Work
from dataguardian.service.workkinds import Kind
from tests.faults.service import Parts, Service
from tests.service.stage import START, Stage, stage

COMMITTED = "dataguardian.service.scheduling:Scheduler._tell"
"""The executions are committed, the next runs moved, and the queue does not know."""
NAMES = ("one", "two", "three")


def long_due(parts: Parts, service: Service) -> None:
    """Makes every job due, as if the machine had been off."""
    if parts.postgres is not None and parts.database is not None:
        parts.postgres.execute(parts.database, "UPDATE backup_jobs SET next_execution_at = now() - interval '3 hours'")
        return
    with contextlib.closing(sqlite3.connect(service.home / "catalogue.db")) as catalogue, catalogue:
        catalogue.execute("UPDATE backup_jobs SET next_execution_at = next_execution_at - 200000000000")


def test_the_service_is_killed_between_taking_due_jobs_and_telling_the_queue(
    parts: Parts, services: Callable[..., Service]
) -> None:
    """Runs missed while it was off are taken once, and carried out although their scheduler was killed; two schedulers
    that start at once afterwards (where there may be two) take nothing again.
    """
    service = services(parts)
    service.start()
    jobs = [service.job(name, schedule_cron="0 3 * * *") for name in NAMES]
    service.settled()
    assert service.stop() == 0
    long_due(parts, service)
    service.points = [COMMITTED]
    service.spawn()
    service.reached(COMMITTED)
    service.kill()
    service.points = []
    other = None if parts.embedded else services(parts, name="other", role="scheduler")
    if other is not None:
        other.spawn()
    service.start()
    rows = service.settled()
    scheduled = [row for row in rows if row["trigger"] == "scheduled"]
    assert {row["status"] for row in scheduled} == {"completed"}
    assert Counter(row["job_id"] for row in scheduled if row["job_id"] in {job["id"] for job in jobs}) == Counter(
        job["id"] for job in jobs
    )
    assert service.stop() == 0
    if other is not None:
        assert other.stop() == 0


def play(parts: Parts, story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        servers = {name.lower(): url for name, url in parts.servers.items()}
        async with stage(parts.folder, **servers) as here:
            await story(here)

    asyncio.run(run())


def test_many_schedulers_at_once_take_each_due_job_once(parts: Parts) -> None:
    """Whoever comes first takes it, in the transaction that moves its next run."""

    async def story(here: Stage) -> None:
        for number in range(20):
            await here.job(f"job {number}", schedule_cron="*/10 * * * *")
        here.clock.advance(minutes=11)
        others = [here, *(here.reboot(home_id=f"machine {number}") for number in range(4))]
        assert sum(await asyncio.gather(*(other.scheduler.tick() for other in others))) == 20
        assert sum(await asyncio.gather(*(other.scheduler.tick() for other in others))) == 0
        rows = await here.all_executions()
        assert len({row.job_id for row in rows}) == len(rows) == 20

    play(parts, story)


def test_the_clock_is_set(parts: Parts) -> None:
    """Forward by days: what was missed runs once. Back by days: nothing runs again, and running work is left alone."""

    async def story(here: Stage) -> None:
        job = await here.job(schedule_cron="0 * * * *")
        here.clock.advance(days=3, minutes=5)
        assert await here.scheduler.tick() == 1
        [row] = await here.all_executions()
        claim = await here.executions.claim(row.id, 1)
        assert claim is not None
        with here.context.holding.of(claim.execution_id, claim.attempt):
            here.clock.advance(hours=5)  # its lease is over by this clock, and yet it is ours and lives
            assert await here.executions.reconcile() == 0
            here.clock.advance(days=-2)
            assert await here.scheduler.tick() == 0
            assert await here.executions.reconcile() == 0
            assert await here.executions.renew(claim) is False
        assert (await here.execution(row.id)).attempt == 1
        assert (await here.jobs.get(job.id)).next_execution_at == START + timedelta(days=3, hours=1)

    play(parts, story)


def test_a_restore_that_lives_is_not_taken_for_dead(parts: Parts) -> None:
    """The machine slept for longer than a lease: on waking the restore is still ours, and goes on."""

    async def story(here: Stage) -> None:
        job = await here.job()
        row = await here.executions.start(job.id)
        async with here.working():
            await here.until(row.id, "completed")
        work = Work(here.context, here.events)
        restore = await work.start_restore(row.id, confirm="shop", drop_existing=True)
        claim = await work.claim(Kind.RESTORE, restore.id, 1)
        assert claim is not None
        with here.context.holding.of(claim.work_id, claim.attempt):
            here.clock.advance(hours=8)
            assert await work.reconcile() == 0
            assert await work.renew(claim) is False

    play(parts, story)
