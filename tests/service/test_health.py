"""Health checks: what counts, what is told, and that neither happens twice."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dataguardian.db.models import Datasource, HealthCheck, StorageLocation
from dataguardian.domain.errors import StorageFullError
from dataguardian.engines.base import ProbeResult
from dataguardian.queues.consumer import Consumer, TryAgain
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import QueueJob
from dataguardian.service.health import Health
from dataguardian.service.outages import FAILURES_TO_ALARM
from dataguardian.service.threads import in_thread
from dataguardian.service.vault import Vault
from dataguardian.workers.health import HealthWorker, health_loops
from tests.service.backups import play
from tests.service.stage import SettableClock, Stage

OK = ProbeResult("ok")
DOWN = ProbeResult("unreachable", "nothing answers there")


class Probe:
    """Answers as told; a probe takes as long, by the stage's clock, as its result says."""

    def __init__(self, clock: SettableClock) -> None:
        self.result, self.takes_ms, self.calls, self._clock = OK, 10.0, 0, clock

    async def __call__(self, row: Datasource | StorageLocation, vault: Vault) -> ProbeResult:
        self.calls += 1
        self._clock.advance(milliseconds=self.takes_ms)
        return self.result


class Doctor:
    """Checks everything on the stage, time after time, with scripted answers."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self.probe, self.storage_probe = Probe(here.clock), Probe(here.clock)
        self.health = Health(here.context, here.events, datasource_probe=self.probe, storage_probe=self.storage_probe)

    async def datasource(self, row_id: uuid.UUID, result: ProbeResult, *, takes_ms: float = 10) -> Datasource:
        self.probe.result, self.probe.takes_ms = result, takes_ms
        await self._check("datasource", row_id)
        return await self.here.datasources.get(row_id)

    async def storage(self, row_id: uuid.UUID, result: ProbeResult) -> StorageLocation:
        self.storage_probe.result = result
        await self._check("storage_location", row_id)
        return await self.here.storages.get(row_id)

    async def _check(self, kind: str, row_id: uuid.UUID) -> None:
        minute = int(self.here.clock.now().timestamp() // 60)
        assert await self.health.check({"id": str(row_id), "kind": kind, "minute": minute}, last_try=True)
        self.here.clock.advance(minutes=5)

    async def told(self) -> list[tuple[str, str]]:
        return [(note.type, note.severity) for note in await self.here.notifications()]


async def checks(here: Stage) -> Sequence[HealthCheck]:
    async with here.context.db.read() as session:
        return (await session.execute(select(HealthCheck).order_by(HealthCheck.checked_at))).scalars().all()


def room(size_bytes: int) -> ProbeResult:
    return ProbeResult("ok", metadata={"available_bytes": size_bytes})


def test_an_outage_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    """Three failures in a row are an outage, the fourth is no news, and the recovery is told."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        assert (await here.datasources.get(source)).status == "unknown"
        assert (await doctor.datasource(source, OK)).status == "healthy"
        states = [(await doctor.datasource(source, DOWN)).status for _ in range(5)]
        assert states == ["warning", "warning", "critical", "critical", "critical"]
        assert await doctor.told() == [("connection_lost", "critical")]
        row = await doctor.datasource(source, OK)
        assert (row.status, row.consecutive_failures, row.outage_since) == ("healthy", 0, None)
        assert await doctor.told() == [("connection_lost", "critical"), ("connection_restored", "info")]
        notes = await here.notifications()
        assert {note.entity_id for note in notes} == {source}
        assert "nothing answers there" in notes[0].message
        found = await checks(here)
        assert [row.status for row in found] == ["ok", *["unreachable"] * 5, "ok"]
        assert (found[0].latency_ms, found[1].error_message) == (10.0, "nothing answers there")

    play(tmp_path, story)


def test_two_failures_are_no_outage(tmp_path: Path) -> None:
    """A source that comes back after two failed checks bothers nobody."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        for result in (DOWN, DOWN, OK, DOWN, DOWN, OK):
            row = await doctor.datasource(source, result)
        assert row.status == "healthy"
        assert await doctor.told() == []

    play(tmp_path, story)


def test_far_slower_than_usual_is_a_warning_told_once(tmp_path: Path) -> None:
    """An answer that takes eight seconds instead of half a one is a warning, until it is quick again."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        for _ in range(5):
            await doctor.datasource(source, OK, takes_ms=500)
        slow = [(await doctor.datasource(source, OK, takes_ms=8000)).status for _ in range(3)]
        assert slow == ["warning"] * 3
        assert await doctor.told() == [("health_degraded", "warning")]
        assert (await doctor.datasource(source, OK, takes_ms=500)).status == "healthy"
        await doctor.datasource(source, OK, takes_ms=8000)
        assert len(await doctor.told()) == 2

    play(tmp_path, story)


def test_quick_answers_may_vary_and_slow_ones_become_usual(tmp_path: Path) -> None:
    """Ten times slower is nothing when it is still quick; and what stays slow is usual one day."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        await doctor.datasource(source, OK, takes_ms=20)
        assert (await doctor.datasource(source, OK, takes_ms=900)).status == "healthy"
        for _ in range(60):
            row = await doctor.datasource(source, OK, takes_ms=2000)
        assert row.status == "healthy"
        assert await doctor.told() == [("health_degraded", "warning")]

    play(tmp_path, story)


def test_a_storage_that_cannot_be_reached_is_told_once(tmp_path: Path) -> None:
    """Unreachable at once, told the third time, restored when it is back."""

    async def story(here: Stage) -> None:
        storage = await here.storage("disk")
        doctor = Doctor(here)
        states = [(await doctor.storage(storage.id, DOWN)).status for _ in range(FAILURES_TO_ALARM + 2)]
        assert set(states) == {"unreachable"}
        assert await doctor.told() == [("storage_unreachable", "critical")]
        row = await doctor.storage(storage.id, room(50 * 10**9))
        assert (row.status, row.available_space_gb, row.outage_since) == ("healthy", 50.0, None)
        assert await doctor.told() == [("storage_unreachable", "critical"), ("connection_restored", "info")]
        assert {note.entity_type for note in await here.notifications()} == {"storage_location"}

    play(tmp_path, story)


def test_a_full_storage_is_told_at_once_and_once(tmp_path: Path) -> None:
    """Full by what it says or by what is left; a hiccup between is the same outage; a little more room is no end."""

    async def story(here: Stage) -> None:
        storage = await here.storage("disk")
        doctor = Doctor(here)
        said = ProbeResult("error", "no room", {"error": StorageFullError.code})
        assert (await doctor.storage(storage.id, said)).status == "full"
        assert (await doctor.storage(storage.id, room(10**9))).status == "full"
        assert (await doctor.storage(storage.id, DOWN)).status == "unreachable"
        assert (await doctor.storage(storage.id, room(10**9))).status == "full"
        assert (await doctor.storage(storage.id, room(int(1.1 * 2**30)))).status == "full"
        assert await doctor.told() == [("storage_full", "critical")]
        assert (await doctor.storage(storage.id, room(2 * 2**30))).status == "healthy"
        assert await doctor.told() == [("storage_full", "critical"), ("connection_restored", "info")]

    play(tmp_path, story)


def test_a_small_storage_is_not_full_for_being_small(tmp_path: Path) -> None:
    """A storage of half a gigabyte has room until less than a hundredth of it is left."""

    async def story(here: Stage) -> None:
        storage = await here.storages.create(
            {"name": "small", "type": "local", "config": {"path": str(tmp_path), "max_size_gb": 0.5}}
        )
        doctor = Doctor(here)
        assert (await doctor.storage(storage.id, room(400 * 10**6))).status == "healthy"
        assert (await doctor.storage(storage.id, room(4 * 10**6))).status == "full"

    play(tmp_path, story)


def test_one_check_counts_once_whoever_carries_it_out(tmp_path: Path) -> None:
    """Two workers carry out the same check: one row, one failure; the next one counts again."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        minute = int(here.clock.now().timestamp() // 60)
        job = {"id": str(source), "kind": "datasource", "minute": minute}
        doctors = [Doctor(here), Doctor(here)]
        for doctor in doctors:
            doctor.probe.result = DOWN
        await asyncio.gather(*(doctor.health.check(job, last_try=True) for doctor in doctors))
        assert [doctor.probe.calls for doctor in doctors] == [1, 1]
        assert len(await checks(here)) == 1
        assert (await here.datasources.get(source)).consecutive_failures == 1
        await doctors[0].health.check(job | {"minute": minute + 5}, last_try=True)
        assert (await here.datasources.get(source)).consecutive_failures == 2

    play(tmp_path, story)


def test_checks_are_enqueued_once_for_what_is_switched_on(tmp_path: Path) -> None:
    """Two schedulers in the same five minutes make one job each; a datasource that is off has none."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        off = (await here.job("off")).datasource_id
        await here.datasources.update(off, {"enabled": False})
        doctor = Doctor(here)
        (loop,) = health_loops(doctor.health)
        assert (loop.every_seconds, loop.on_the_minute) == (300, True)
        assert await doctor.health.enqueue() == 3
        here.clock.advance(minutes=4)
        await Doctor(here).health.enqueue()
        jobs = await here.context.queues.jobs(QueueName.HEALTH, "waiting")
        assert len(jobs) == 3
        assert {job.data["id"] for job in jobs} >= {str(source)}
        assert str(off) not in {job.data["id"] for job in jobs}
        here.clock.advance(minutes=1)
        await doctor.health.enqueue()
        assert len(await here.context.queues.jobs(QueueName.HEALTH, "waiting")) == 6

    play(tmp_path, story)


def test_the_first_failure_asks_for_another_try(tmp_path: Path) -> None:
    """A probe that fails is made once more, by the queue, before it counts."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        doctor.probe.result = DOWN
        minute = int(here.clock.now().timestamp() // 60)
        job = QueueJob("1", QueueName.HEALTH, {"id": str(source), "kind": "datasource", "minute": minute})
        worker = HealthWorker(doctor.health)
        with pytest.raises(TryAgain):
            await worker.process(job)
        assert await checks(here) == []
        await worker.process(QueueJob("1", QueueName.HEALTH, job.data, attempts_made=1))
        assert len(await checks(here)) == 1

    play(tmp_path, story)


def test_the_queue_makes_the_second_try_after_ten_seconds(tmp_path: Path) -> None:
    """Through the real queue: the first failure waits its ten seconds, the second one counts."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        doctor.probe.result = DOWN
        await doctor.health.enqueue()
        consumer = Consumer(here.context.queues.url, QueueName.HEALTH, HealthWorker(doctor.health).process)
        consumer.start()
        began = time.monotonic()
        try:
            async with asyncio.timeout(40):
                while (await here.datasources.get(source)).consecutive_failures == 0:
                    await asyncio.sleep(0.1)
        finally:
            await consumer.stop(5, hurry=asyncio.Event())
        assert time.monotonic() - began > 9
        assert doctor.probe.calls == 2

    play(tmp_path, story)


def test_a_row_that_changed_or_went_while_it_was_probed_is_not_judged(tmp_path: Path) -> None:
    """The outcome belongs to a configuration that is no more: it is dropped."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id

        async def edited(row: Datasource, vault: Vault) -> ProbeResult:
            await here.datasources.update(row.id, {"connection_config": {"file_path": "/elsewhere.db"}})
            return DOWN

        health = Health(here.context, here.events, datasource_probe=edited)
        minute = int(here.clock.now().timestamp() // 60)
        await health.check({"id": str(source), "kind": "datasource", "minute": minute}, last_try=True)
        await health.check({"id": str(uuid.uuid4()), "kind": "datasource", "minute": minute}, last_try=True)
        assert await checks(here) == []
        assert (await here.datasources.get(source)).status == "unknown"

    play(tmp_path, story)


def test_a_check_that_waited_too_long_is_dropped(tmp_path: Path) -> None:
    """After an hour without workers nobody wants twelve checks of everything."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id
        doctor = Doctor(here)
        minute = int(here.clock.now().timestamp() // 60)
        here.clock.advance(minutes=11)
        assert await doctor.health.check({"id": str(source), "kind": "datasource", "minute": minute}, last_try=False)
        assert doctor.probe.calls == 0

    play(tmp_path, story)


def test_a_probe_with_a_defect_is_a_failed_check(tmp_path: Path) -> None:
    """An adapter that breaks makes its rows critical, not unwatched."""

    async def story(here: Stage) -> None:
        source = (await here.job()).datasource_id

        async def broken(row: Datasource, vault: Vault) -> ProbeResult:
            raise ZeroDivisionError

        health = Health(here.context, here.events, datasource_probe=broken)
        minute = int(here.clock.now().timestamp() // 60)
        await health.check({"id": str(source), "kind": "datasource", "minute": minute}, last_try=True)
        (check,) = await checks(here)
        assert (check.status, check.error_message) == (
            "error",
            "the check itself failed (ZeroDivisionError); the log has more",
        )

    play(tmp_path, story)


def test_real_probes_of_a_database_and_a_folder(tmp_path: Path) -> None:
    """A SQLite file and a folder are healthy; without the file and the folder they are not."""

    async def story(here: Stage) -> None:
        job = await here.job()
        assert job.storage_location_id is not None
        health = Health(here.context, here.events)

        async def both(*, minutes: int) -> tuple[Any, Any]:
            here.clock.moment = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=minutes)
            minute = int(here.clock.now().timestamp() // 60)
            for kind, row_id in (("datasource", job.datasource_id), ("storage_location", job.storage_location_id)):
                await health.check({"id": str(row_id), "kind": kind, "minute": minute}, last_try=True)
            return await here.datasources.get(job.datasource_id), await here.storages.get(job.storage_location_id)

        source, storage = await both(minutes=0)
        assert (source.status, storage.status) == ("healthy", "healthy")
        assert storage.available_space_gb > 0
        (here.folder / "shop.db").unlink()
        (here.folder / "storage-of-shop").rmdir()
        source, storage = await both(minutes=5)
        assert (source.status, storage.status) == ("warning", "unreachable")

    play(tmp_path, story)


def test_what_hangs_for_ever_wastes_one_thread_and_blocks_nobody() -> None:
    """Many calls that hang do not delay one that does not, and a second call of the same key is refused at once."""
    release = threading.Event()

    async def story() -> None:
        hanging = [asyncio.create_task(in_thread(release.wait, seconds=0.3, key=f"disk {n}")) for n in range(40)]
        assert await in_thread(lambda: "quick", seconds=5) == "quick"
        outcomes = await asyncio.gather(*hanging, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {TimeoutError}
        before = threading.active_count()
        with pytest.raises(TimeoutError, match="still hangs"):
            await in_thread(release.wait, seconds=30, key="disk 1")
        assert threading.active_count() == before
        release.set()
        await asyncio.sleep(0.2)
        assert await in_thread(lambda: "back", seconds=5, key="disk 1") == "back"

    asyncio.run(story())
