"""Sessions: snapshots, one writer at a time, errors that mean something, and connections that always come back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import IntegrityError as BrokenRule
from sqlalchemy.pool import QueuePool

from dataguardian.db import session as session_module
from dataguardian.db.migrate import upgrade
from dataguardian.db.models import BackupJob, Datasource, SystemSetting
from dataguardian.db.repositories.definitions import DatasourceRepository
from dataguardian.db.repositories.notifications import LogRepository, SettingRepository
from dataguardian.db.session import Database
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.errors import CatalogUnavailableError, DiskFullError, IntegrityError, UsageError
from tests.db.conftest import Play
from tests.db.rows import NOW, add_house, datasource, some_id
from tests.servers import PostgresServer

LIMIT = 4.5
"""Seconds: the two that an answer may take, and some for a machine that does other things too; drivers by themselves
wait for five and more.
"""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def test_fifty_tasks_read_and_write_at_once(play: Play) -> None:
    """Every task reads a number and writes it one higher, many times: none fails, and no step is lost."""

    async def step(database: Database) -> None:
        async with database.write() as session:
            row = (await session.execute(select(Datasource).with_for_update())).scalars().one()
            row.consecutive_failures += 1
        async with database.read() as session:
            assert await DatasourceRepository(session).count() == 1

    async def story(database: Database) -> None:
        async with database.write() as session:
            session.add(datasource())

        async def task() -> None:
            for _ in range(5):
                await step(database)

        await asyncio.gather(*[task() for _ in range(50)])
        async with database.read() as session:
            assert (await session.execute(select(Datasource.consecutive_failures))).scalar() == 250

    play(story)


def test_two_processes_write_to_one_sqlite_catalogue(tmp_path: Path) -> None:
    """`dataguardian db` beside the service: a writer of another process is waited for."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    upgrade(url)

    async def count(database: Database) -> None:
        for _ in range(100):
            async with database.write() as session:
                await session.execute(
                    update(Datasource).values(consecutive_failures=Datasource.consecutive_failures + 1)
                )

    async def story() -> None:
        first, second = Database(url), Database(url)  # two engines with a lock each: as far apart as two processes
        async with first.write() as session:
            session.add(datasource())
        await asyncio.gather(count(first), count(second))
        async with first.read() as session:
            assert (await session.execute(select(Datasource.consecutive_failures))).scalar() == 200
        await first.close()
        await second.close()

    asyncio.run(story())


def test_a_read_sees_one_moment(play: Play) -> None:
    """A list and its total agree, whatever is committed between the two statements."""

    async def story(database: Database) -> None:
        async with database.read() as reading:
            assert await DatasourceRepository(reading).count() == 0
            async with database.write() as session:
                session.add(datasource())
            assert await DatasourceRepository(reading).count() == 0
        async with database.read() as reading:
            assert await DatasourceRepository(reading).count() == 1

    play(story)


def test_a_read_cannot_write(play: Play) -> None:
    """A write in the wrong block is found at once, on both databases, and not only where it happens to matter."""

    async def write(database: Database) -> None:
        async with database.read() as session:
            session.add(datasource())
            await session.flush()

    async def story(database: Database) -> None:
        with pytest.raises((DBAPIError, CatalogUnavailableError)):
            await write(database)
        async with database.write() as session:
            session.add(datasource())
        async with database.read() as session:
            assert await DatasourceRepository(session).count() == 1

    play(story)


def test_an_error_in_a_write_takes_everything_back(play: Play) -> None:
    """All or nothing, and the lock is free again."""

    async def stumble(database: Database) -> None:
        async with database.write() as session:
            session.add(datasource())
            await session.flush()
            raise RuntimeError

    async def story(database: Database) -> None:
        with pytest.raises(RuntimeError):
            await stumble(database)
        async with database.write() as session:
            assert await DatasourceRepository(session).count() == 0

    play(story)


def test_broken_rules_and_our_own_mistakes_are_no_outage(play: Play) -> None:
    """Unique and foreign keys, words that are none, wrong SQL: they pass as what they are."""

    async def attempt(database: Database, error: type[Exception], *rows: Any) -> None:
        with pytest.raises(error):
            async with database.write() as session:
                session.add_all(rows)

    async def story(database: Database) -> None:
        await attempt(database, BrokenRule, datasource(), datasource())
        orphan = BackupJob(
            id=some_id(), created_at=NOW, updated_at=NOW, datasource_id=some_id(), name="n", enabled=True
        )
        orphan.schedule_timezone, orphan.retention_policy, orphan.backup_options = "UTC", {}, {}
        await attempt(database, BrokenRule, orphan)
        async with database.write() as session:
            await add_house(session)
        with pytest.raises(BrokenRule):
            async with database.write() as session:
                await session.execute(text("UPDATE datasources SET status = 'sleepy'"))
        with pytest.raises(DBAPIError) as caught:
            async with database.read() as session:
                await session.execute(text("SELECT * FROM nothing"))
        assert "nothing" in str(caught.value)

    play(story)


def test_values_come_back_as_they_went_in(play: Play) -> None:
    """Times are aware UTC to the microsecond, whatever zone they came in; a naive one is refused."""

    async def story(database: Database) -> None:
        moment = NOW.replace(microsecond=123456)
        row = datasource(at=moment, tags=["a", "ü"], connection_config={"a": {"b": [1, None]}})
        async with database.write() as session:
            session.add(row)
        async with database.read() as session:
            again = await DatasourceRepository(session).get(row.id)
            assert (again.created_at, again.id, again.tags) == (moment, row.id, ["a", "ü"])
            assert again.created_at.utcoffset() is not None
            assert again.connection_config == {"a": {"b": [1, None]}}
        with pytest.raises(Exception, match="zone"):
            async with database.write() as session:
                session.add(datasource("other", at=NOW, last_health_check_at=NOW.replace(tzinfo=None)))

    play(story)


def test_cancelled_tasks_leave_no_connection_behind(play: Play) -> None:
    """Two hundred requests that end at any point: every connection is back, and nobody holds the write lock."""

    async def work(database: Database, *, writing: bool) -> None:
        async with database.write() if writing else database.read() as session:
            await session.execute(select(func.count()).select_from(Datasource))
            await asyncio.sleep(random.random() / 200)
            await session.execute(select(func.count()).select_from(Datasource))

    async def story(database: Database) -> None:
        for _ in range(10):
            tasks = [asyncio.create_task(work(database, writing=bool(number % 2))) for number in range(20)]
            for task in tasks:
                await asyncio.sleep(random.random() / 200)
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(error) for error in ended} <= {asyncio.CancelledError, type(None)}
        async with database.write() as session:
            session.add(datasource())
        await asyncio.sleep(0.2)
        for pool in (database.engine.sync_engine.pool, database._reader.sync_engine.pool):
            assert isinstance(pool, QueuePool)
            assert pool.checkedout() == 0

    play(story)


def test_a_stopped_server_is_told_quickly_and_its_return_is_noticed(
    fresh_postgres: Callable[[int], PostgresServer],
) -> None:
    """PostgreSQL goes away under open connections and comes back: errors within two seconds, then work as before."""
    server = fresh_postgres(16)
    url = server.url(server.database())
    upgrade(url)

    async def story() -> None:
        database = Database(url)
        async with database.write() as session:
            await session.execute(text("SELECT 1"))
        server.execute("postgres", "CHECKPOINT")  # it runs without fsync, and is about to crash
        server.stop()
        for _ in range(2):
            for verb in (database.read, database.write):
                with within(LIMIT), pytest.raises(CatalogUnavailableError):
                    async with verb() as session:
                        await session.execute(text("SELECT 1"))
            with within(LIMIT), pytest.raises(CatalogUnavailableError):
                await database.ping()
        server.start()
        await database.ping()
        async with database.write() as session:
            session.add(datasource())
        await database.close()

    asyncio.run(story())


def test_a_server_that_goes_away_in_the_middle_is_the_same_error(
    fresh_postgres: Callable[[int], PostgresServer],
) -> None:
    """The transaction is lost as a whole, and says so in our words."""
    server = fresh_postgres(16)
    url = server.url(server.database())
    upgrade(url)

    async def interrupted(database: Database) -> None:
        async with database.write() as session:
            session.add(datasource())
            await session.flush()
            server.stop()

    async def story() -> None:
        database = Database(url)
        server.execute("postgres", "CHECKPOINT")  # it runs without fsync, and is about to crash
        with pytest.raises(CatalogUnavailableError):
            await interrupted(database)
        server.start()
        async with database.read() as session:
            assert await DatasourceRepository(session).count() == 0
        await database.close()

    asyncio.run(story())


def test_a_server_that_hangs_is_found_out(fresh_postgres: Callable[[int], PostgresServer]) -> None:
    """A frozen server accepts connections and answers none: nobody waits for it longer than for a stopped one."""
    server = fresh_postgres(16)
    url = server.url(server.database())
    upgrade(url)

    async def story() -> None:
        database = Database(url)
        await database.ping()
        backends = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        frozen = [int(row[0]) for row in server.execute("postgres", backends)]
        frozen.append(int((server.folder / "data" / "postmaster.pid").read_text().split()[0]))
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        try:
            for _ in range(3):
                with within(LIMIT + 1), pytest.raises(CatalogUnavailableError):
                    await database.ping()
            with within(LIMIT + 1), pytest.raises(CatalogUnavailableError):
                async with database.write() as session:
                    await session.execute(text("SELECT 1"))
        finally:
            for process in frozen:
                os.kill(process, signal.SIGCONT)
        async with asyncio.timeout(30):
            while True:
                try:
                    await database.ping()
                    break
                except CatalogUnavailableError:
                    await asyncio.sleep(0.1)
        async with database.write() as session:
            session.add(datasource())
        await database.close()

    asyncio.run(story())


def test_a_sqlite_file_that_another_process_locks_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers get our error after the busy timeout, readers go on, and all is well when the lock is gone."""
    monkeypatch.setattr(session_module, "BUSY_TIMEOUT_MS", 300)
    url = f"sqlite:///{tmp_path}/catalogue.db"
    upgrade(url)

    async def story() -> None:
        database = Database(url)
        other = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with within(LIMIT), pytest.raises(CatalogUnavailableError, match="locked"):
            async with database.write() as session:
                session.add(datasource())
        async with database.read() as session:
            assert await DatasourceRepository(session).count() == 0
        other.execute("ROLLBACK")
        other.close()
        async with database.write() as session:
            session.add(datasource())
        await database.close()

    asyncio.run(story())


def test_writers_do_not_queue_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a writer that does not end, the others are told, all at about the same time."""
    monkeypatch.setattr(session_module, "TURN_SECONDS", 0.3)
    url = f"sqlite:///{tmp_path}/catalogue.db"
    upgrade(url)

    async def write(database: Database) -> None:
        async with database.write():
            pass

    async def story() -> None:
        database = Database(url)
        async with database.write():
            with within(LIMIT):
                ended = await asyncio.gather(*[write(database) for _ in range(20)], return_exceptions=True)
            assert {type(error) for error in ended} == {CatalogUnavailableError}
        await write(database)
        await database.close()

    asyncio.run(story())


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    """SQLite runs out of pages: a DiskFullError, and what was there stays."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    upgrade(url)

    async def overflow(database: Database) -> None:
        async with database.write() as session:
            await session.execute(text("PRAGMA max_page_count = 1"))
            session.add(datasource(connection_config={"much": "x" * 1_000_000}))

    async def story() -> None:
        database = Database(url)
        with pytest.raises(DiskFullError):
            await overflow(database)
        async with database.read() as session:
            assert await DatasourceRepository(session).count() == 0
        await database.close()

    asyncio.run(story())


def test_a_damaged_file_is_called_so(tmp_path: Path) -> None:
    """Pages of garbage: an integrity error that names the way out."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    upgrade(url)
    path = tmp_path / "catalogue.db"
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:4096] + b"\xaa" * (size - 4096))

    async def story() -> None:
        database = Database(url)
        with pytest.raises(IntegrityError, match="damaged"):
            async with database.read() as session:
                await DatasourceRepository(session).all()
        await database.close()

    asyncio.run(story())


def test_leases_are_measured_by_the_servers_clock(play: Play) -> None:
    """Where several machines share a database, its clock is the one that they share."""

    async def story(database: Database) -> None:
        async with database.read() as session:
            moment = await session_module.server_time(session, SystemClock())
        assert moment.utcoffset() is not None
        assert abs((moment - SystemClock().now()).total_seconds()) < 30

    play(story)


def test_two_writers_of_a_setting_do_not_collide(play: Play) -> None:
    """Both put the same key at once; the last one wins and none fails."""

    async def put(database: Database, value: int) -> None:
        async with database.write() as session:
            row = await SettingRepository(session).put("k", {"v": value}, "d", NOW)
            assert row.value == {"v": value}

    async def story(database: Database) -> None:
        await asyncio.gather(*[put(database, value) for value in range(10)])
        async with database.read() as session:
            assert (await session.execute(select(func.count()).select_from(SystemSetting))).scalar() == 1

    play(story)


def test_two_writers_of_a_log_give_no_number_twice(play: Play) -> None:
    """A worker that was taken over may still write a last line beside the new one."""
    owner = some_id()

    async def write(database: Database, text: str) -> None:
        line = {"created_at": NOW, "level": "info", "message": text, "details": {}}
        async with database.write() as session:
            await LogRepository(session).append(owner, [line, line])

    async def story(database: Database) -> None:
        await asyncio.gather(*[write(database, str(number)) for number in range(10)])
        async with database.read() as session:
            lines = await LogRepository(session).after(owner, 0, 100)
        assert [line.number for line in lines] == list(range(1, 21))

    play(story)


def test_a_database_without_address_is_refused_without_its_password() -> None:
    """The service says what is wrong with DATABASE_URL, and never what is in it."""
    for url in ("postgresql://u:s3cret@s3cret@h/x", "postgresql://u:p@h:s3cret/x", "oracle://u:s3cret@h/x"):
        with pytest.raises(UsageError) as caught:
            Database(url)
        assert "s3cret" not in str(caught.value)
