"""Every list and every poll is answered from an index, on both databases: EXPLAIN says so of the very statements.

PostgreSQL is told that whole tables and sorting are out of the question, because here the tables are small: what its
plans still sort or read whole has no index. SQLite is asked twice: as it is in a new catalogue, and after it has
looked at its tables.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    AbandonedDirectory,
    BackupExecution,
    BackupJob,
    ExecutionLog,
    HealthCheck,
    NotificationDelivery,
    NotificationRow,
    Restore,
    Verification,
)
from dataguardian.db.repositories.checks import CheckRepository
from dataguardian.db.repositories.cleanup import CleanupRepository
from dataguardian.db.repositories.deliveries import OutboxRepository
from dataguardian.db.repositories.executions import ExecutionFilter, ExecutionRepository, JobRepository
from dataguardian.db.repositories.lists import Filters, Lists, NotificationFilters
from dataguardian.db.repositories.notifications import LogRepository
from dataguardian.db.repositories.overview import OverviewRepository
from dataguardian.db.repositories.pruning import Pruning
from dataguardian.db.repositories.restores import RestoreRepository, VerificationRepository
from dataguardian.db.repositories.stored import AbandonedRepository
from dataguardian.db.session import Database
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import ExecutionStatus
from tests.db import rows
from tests.db.conftest import Play
from tests.db.rows import NOW

MINUTE = timedelta(minutes=1)
MANY, JOBS = 4000, 40
BIG: tuple[str, ...] = (
    "backup_executions",
    "health_checks",
    "notifications",
    "notification_deliveries",
    "restores",
    "verifications",
)
BIG += ("execution_logs", "abandoned_directories")
FULL = re.compile(rf"(?:Seq Scan on|SCAN) ({'|'.join(BIG)})(?: \w+)?(?! USING)(?=\n|$|\s+\()")
SORTED = re.compile(r"TEMP B-TREE FOR (?:RIGHT PART OF )?ORDER BY|^\s*(?:->\s+)?(?:Incremental )?Sort", re.MULTILINE)


def plain(row: Any) -> dict[str, Any]:
    """A row's columns and values, for a bulk insert."""
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}


async def fill(session: AsyncSession) -> None:
    """A catalogue that was in use for some time."""
    sources = [rows.datasource(f"source {number}") for number in range(8)]
    places = [rows.storage(f"place {number}") for number in range(3)]
    session.add_all([*sources, *places])
    await session.flush()
    jobs = [
        rows.job(sources[n % 8], places[n % 3], f"job {n}", next_execution_at=NOW + n * MINUTE) for n in range(JOBS)
    ]
    session.add_all(jobs)
    await session.flush()
    moments = [NOW - number * MINUTE for number in range(MANY)]
    made = [plain(made_of(jobs[n % JOBS], n, at)) for n, at in enumerate(moments)]
    made += [plain(rows.execution(job)) for job in jobs[:10]]
    await session.execute(insert(BackupExecution), made)
    backups = [rows.completed(jobs[n % JOBS], at=moments[n]) for n in range(100)]
    session.add_all(backups)
    await session.flush()
    for model, make in ((Restore, rows.restore), (Verification, rows.verification)):
        ended = [
            plain(make(backups[n % 100], at=at, status="completed")) | {"status": "completed"}
            for n, at in enumerate(moments)
        ]
        await session.execute(insert(model), ended)
    checks = [plain(rows.check(sources[n % 8], at=at)) for n, at in enumerate(moments)]
    await session.execute(insert(HealthCheck), checks)
    notes = [plain(rows.notification(at=at, read_at=NOW)) for at in moments[200:]]
    notes += [plain(rows.notification(at=at)) for at in moments[:20]]
    await session.execute(insert(NotificationRow), notes)
    common = {"channel": "mail", "attempts": 1, "enqueue_number": 1, "error_message": None, "updated_at": NOW}
    sent = [
        common | {"id": rows.some_id(), "created_at": NOW, "notification_id": note["id"], "status": "sent"}
        for note in notes
    ]
    sent[0]["status"] = "pending"
    await session.execute(insert(NotificationDelivery), sent)
    line = {"level": "info", "message": "m", "details": {}, "updated_at": NOW, "created_at": NOW}
    owners = [backup.id for backup in backups]
    lines = [line | {"id": new_id(at), "owner_id": owners[n % 100], "number": n} for n, at in enumerate(moments)]
    await session.execute(insert(ExecutionLog), lines)
    left = {"storage_location_id": places[0].id, "reason": "failed", "created_at": NOW, "updated_at": NOW}
    paths = [left | {"id": rows.some_id(), "execution_id": made[n]["id"], "path": f"nightly/{n}"} for n in range(MANY)]
    await session.execute(insert(AbandonedDirectory), paths)


def made_of(job: BackupJob, number: int, at: Any) -> BackupExecution:
    if number % 20 == 0:
        return rows.execution(job, at=at, status=ExecutionStatus.FAILED)
    return rows.completed(job, at=at)


class Plans:
    """Records the statements of a call, and explains each of them."""

    def __init__(self, database: Database, session: AsyncSession) -> None:
        self.database, self.session = database, session
        self.statements: list[tuple[str, Any]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        engine = self.database.engine.sync_engine

        def record(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            if not many:
                self.statements.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", record)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", record)

    async def of(self, call: Callable[[AsyncSession], Awaitable[Any]]) -> list[str]:
        self.statements = []
        with self.recorded():
            await call(self.session)
        assert self.statements
        return [await self._explained(statement, parameters) for statement, parameters in self.statements]

    async def _explained(self, statement: str, parameters: Any) -> str:
        verb = "EXPLAIN QUERY PLAN" if self.database.is_sqlite else "EXPLAIN"
        connection = await self.session.connection()
        if statement.startswith(("PRAGMA", "SELECT pg_advisory")):
            return ""
        result = await connection.exec_driver_sql(f"{verb} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in result)


@asynccontextmanager
async def explaining(database: Database) -> AsyncIterator[Plans]:
    async with database.write() as session:
        if not database.is_sqlite:
            for method in ("seqscan", "sort", "hashjoin", "mergejoin", "bitmapscan"):
                await session.execute(text(f"SET LOCAL enable_{method} = off"))
        yield Plans(database, session)


def every(executions: ExecutionRepository, **chosen: Any) -> Awaitable[Any]:
    return executions.listed(ExecutionFilter(**chosen), page=1, limit=20)


HOUR_AGO = NOW - timedelta(hours=1)
SOME = uuid.UUID(int=7)

LISTS: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "all": lambda session: every(ExecutionRepository(session)),
    "the last page": lambda session: ExecutionRepository(session).listed(ExecutionFilter(), page=200, limit=20),
    "oldest first": lambda s: ExecutionRepository(s).listed(ExecutionFilter(), page=1, limit=20, oldest_first=True),
    "job": lambda session: every(ExecutionRepository(session), job_id=SOME),
    "datasource": lambda session: every(ExecutionRepository(session), datasource_id=SOME),
    "storage": lambda session: every(ExecutionRepository(session), storage_location_id=SOME),
    "status": lambda session: every(ExecutionRepository(session), status=ExecutionStatus.FAILED),
    "from and to": lambda session: every(ExecutionRepository(session), created_from=HOUR_AGO, created_to=NOW),
    "job, status": lambda s: every(ExecutionRepository(s), job_id=SOME, status=ExecutionStatus.COMPLETED),
    "job, from": lambda session: every(ExecutionRepository(session), job_id=SOME, created_from=HOUR_AGO),
    "status, from": lambda s: every(ExecutionRepository(s), status=ExecutionStatus.FAILED, created_from=HOUR_AGO),
    "datasource, from": lambda s: every(ExecutionRepository(s), datasource_id=SOME, created_from=HOUR_AGO),
    "storage, from": lambda s: every(ExecutionRepository(s), storage_location_id=SOME, created_from=HOUR_AGO),
    "retention": lambda session: consume(CleanupRepository(session).backups_of(SOME)),
    "newest good": lambda session: ExecutionRepository(session).newest_good(SOME),
    "unread": lambda session: Lists(session).notifications(NotificationFilters(unread=True), 1, 20),
    "notifications": lambda session: Lists(session).notifications(NotificationFilters(), 1, 20),
    "checks of a datasource": lambda session: CheckRepository(session).of_datasource(SOME, page=1, limit=20),
    "checks of a storage": lambda session: CheckRepository(session).of_storage(SOME, page=1, limit=20),
    "all checks": lambda session: Lists(session).checks(Filters(), 1, 20),
    "restores": lambda session: Lists(session).works(RestoreRepository(session), Filters(), 1, 20),
    "verifications of a backup": lambda s: VerificationRepository(s).of_execution(SOME, page=1, limit=20),
    "a log": lambda session: LogRepository(session).after(SOME, 5, 20),
    "abandoned directories of an execution": lambda session: ExecutionRepository(session).directories_of(SOME),
    "next runs": lambda session: JobRepository(session).next_due(10),
}
"""In the order of an index: no plan may sort. The rows of a page, found by id, may be."""

POLLS: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "due jobs": lambda session: JobRepository(session).due(NOW, 500),
    "dead executions": lambda session: ExecutionRepository(session).dead("home", "boot", NOW, 500),
    "dead restores": lambda session: RestoreRepository(session).dead("home", "boot", NOW, 500),
    "dead verifications": lambda session: VerificationRepository(session).dead("home", "boot", NOW, 500),
    "waiting executions": lambda session: ExecutionRepository(session).waiting(NOW, SOME, 500),
    "waiting restores": lambda session: RestoreRepository(session).waiting(NOW, SOME, 500),
    "owed deliveries": lambda session: OutboxRepository(session).owed(NOW, NOW, NOW, SOME, 500),
    "active of a job": lambda session: ExecutionRepository(session).active_of(SOME),
    "active of jobs": lambda session: ExecutionRepository(session).active_jobs([SOME, uuid.uuid4()]),
    "a backup's leases": lambda session: RestoreRepository(session).active_of(SOME),
    "into a target": lambda session: RestoreRepository(session).active_into(SOME),
    "deleting": lambda session: ExecutionRepository(session).mark_deleting(SOME, NOW),
    "half deleted": lambda session: CleanupRepository(session).half_deleted(SOME),
    "known paths": lambda session: CleanupRepository(session).known_paths(SOME, ["a", "b"]),
    "removable directories": lambda session: AbandonedRepository(session).removable(SOME, 100),
    "old health checks": lambda session: Pruning(session).health_checks(NOW - 3 * timedelta(days=1)),
    "read notifications": lambda session: Pruning(session).read_notifications(NOW - timedelta(days=365)),
    "failed executions": lambda session: Pruning(session).executions(NOW - timedelta(days=365)),
    "old logs": lambda session: Pruning(session).logs(NOW - timedelta(days=365)),
    "counts of a day": lambda session: OverviewRepository(session).counts(HOUR_AGO),
    "numbers of jobs": lambda session: OverviewRepository(session).jobs(),
    "latest checks": lambda session: CheckRepository(session).latest(),
}


async def consume(stream: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in stream]


async def check(database: Database) -> list[str]:
    wrong = []
    async with explaining(database) as plans:
        for name, call in (LISTS | POLLS).items():
            for plan in await plans.of(call):
                wrong += [f"{name}: {found}\n{plan}" for found in FULL.findall(plan)]
        for name, call in LISTS.items():
            for plan, (statement, _) in zip(await plans.of(call), plans.statements, strict=True):
                if " IN (" not in statement:
                    wrong += [f"{name} sorts\n{statement}\n{plan}" for _ in SORTED.findall(plan)]
    return wrong


def test_every_list_and_poll_uses_an_index(play: Play) -> None:
    """No statement reads a whole table, and no list is sorted when it is read."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            await fill(session)
        if not database.is_sqlite:
            async with database.engine.connect() as connection:
                await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))
        wrong = await check(database)
        if database.is_sqlite:
            async with database.write() as session:
                await session.execute(text("ANALYZE"))
            await database.close()  # connections read what ANALYZE found when they open
            wrong += await check(database)
        assert not wrong, "\n\n".join(wrong)

    play(story)
