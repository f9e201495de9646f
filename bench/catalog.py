"""Measures the catalogue with a million executions, on SQLite and on PostgreSQL; writes `bench/results_catalog.md`.

    .venv/bin/python bench/catalog.py [--rows 1000000] [--rounds 9]

Every figure is one call of the repository that the API uses, in a session of its own, from its first statement to its
last row. The data are made anew in `bench/work/catalog` and stay there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.migrate import upgrade
from dataguardian.db.models import BackupExecution, BackupJob, Datasource, StorageLocation
from dataguardian.db.repositories.executions import ExecutionFilter, ExecutionRepository, JobRepository
from dataguardian.db.repositories.overview import OverviewRepository
from dataguardian.db.session import Database
from dataguardian.domain.ids import new_id
from dataguardian.domain.states import DatasourceStatus, ExecutionStatus, StorageStatus
from report import machine
from servers import PostgresServer

HERE = Path(__file__).resolve().parent
NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SPACING = timedelta(seconds=63)
JOBS, DATASOURCES, STORAGES = 1000, 50, 5
LIMIT = 20
TARGET_MS = 100
DETAILS = {
    "compression": "zstd",
    "compression_ratio": 4.123,
    "parts": 12,
    "server_version": "17.2",
    "tools": {"pg_dump": "17.2"},
    "streams": [
        {"directory": "01-shop.pgdump", "name": "shop", "kind": "pgdump", "parts": 12, "size_bytes": 123456789}
    ],
    "warnings": [],
    "adopted": False,
}
PATH = "job-{0}/20260301T040000Z-{1}-1"

Call = Callable[[AsyncSession], Awaitable[Any]]


def main() -> None:
    options = _options()
    work = HERE / "work" / "catalog"
    work.mkdir(parents=True, exist_ok=True)
    found = {"SQLite": _measure_sqlite(work, options), "PostgreSQL": _measure_postgres(work, options)}
    target = HERE / "results_catalog.md"
    target.write_text(_report(found, machine(work), options), encoding="utf-8")
    print(f"written: {target}")


def _measure_sqlite(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    path = work / "catalogue.db"
    for old in work.glob("catalogue.db*"):
        old.unlink()
    url = f"sqlite:///{path}"
    asyncio.run(_prepare(url))
    connection = sqlite3.connect(path)
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'backup_executions' AND sql NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    names, places = _columns()
    rows = ([_lite(value) for value in row] for row in _executions(_known(connection), options.rows))
    connection.executemany(f"INSERT INTO backup_executions ({names}) VALUES ({','.join('?' * places)})", rows)
    for _, statement in indexes:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return asyncio.run(_measure(url, options.rounds)) | {"size": _sqlite_size(path)}


def _measure_postgres(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    with PostgresServer(work, fresh=True) as server:
        server.sql("CREATE DATABASE catalogue")
        url = server.url("catalogue")
        asyncio.run(_prepare(url))
        names, _ = _columns()
        with psycopg.connect(url) as connection:
            known = _known(connection)
            with connection.cursor().copy(f"COPY backup_executions ({names}) FROM STDIN") as copy:
                for row in _executions(known, options.rows):
                    copy.write_row(row)
        server.sql("VACUUM ANALYZE", database="catalogue")
        size = server.sql("SELECT pg_size_pretty(pg_database_size('catalogue'))", database="catalogue")
        return asyncio.run(_measure(url, options.rounds)) | {"size": size}


async def _prepare(url: str) -> None:
    """Makes a catalogue with the datasources, storage locations and jobs that the executions are of."""
    await asyncio.to_thread(upgrade, url)
    common = {"created_at": NOW, "updated_at": NOW}
    database = Database(url)
    async with database.write() as session:
        sources = [
            Datasource(id=new_id(NOW), name=f"source {n}", type="postgres", connection_config={}, tags=[], enabled=True,
                       production=True, status=DatasourceStatus.HEALTHY, consecutive_failures=0, **common)
            for n in range(DATASOURCES)
        ]  # fmt: skip
        places = [
            StorageLocation(id=new_id(NOW), name=f"place {n}", type="local", config={}, is_default=False,
                            status=StorageStatus.HEALTHY, consecutive_failures=0, **common)
            for n in range(STORAGES)
        ]  # fmt: skip
        session.add_all([*sources, *places])
        await session.flush()
        session.add_all(
            BackupJob(id=new_id(NOW), name=f"job {n:04}", datasource_id=sources[n % DATASOURCES].id, enabled=True,
                      storage_location_id=places[n % STORAGES].id, schedule_cron="0 4 * * *", schedule_timezone="UTC",
                      retention_policy={}, backup_options={}, next_execution_at=NOW + n * SPACING, **common)
            for n in range(JOBS)
        )  # fmt: skip
    await database.close()


def _known(connection: Any) -> list[tuple[Any, Any, Any]]:
    statement = "SELECT id, datasource_id, storage_location_id FROM backup_jobs ORDER BY name"
    return list(connection.execute(statement).fetchall())


def _columns() -> tuple[str, int]:
    names = [column.name for column in BackupExecution.__table__.columns]
    return ",".join(f'"{name}"' for name in names), len(names)


def _executions(jobs: list[tuple[Any, Any, Any]], count: int) -> Iterator[list[Any]]:
    """Yields rows in the order of the table's columns; the oldest first, as a service would have written them."""
    chance, details = random.Random(1), json.dumps(DETAILS)
    for number in range(count):
        at = NOW - (count - number) * SPACING
        row_id, (job, source, place) = new_id(at), jobs[number % len(jobs)]
        status = chance.choices(("completed", "failed", "skipped", "cancelled"), (95, 3, 1, 1))[0]
        done, size = status == "completed", chance.randrange(10**6, 10**10)
        row = {
            "id": row_id, "created_at": at, "updated_at": at, "job_id": job, "datasource_id": source,
            "storage_location_id": place, "status": status, "trigger": "scheduled", "scheduled_for": at,
            "started_at": at, "finished_at": at, "duration_seconds": 12.5, "backup_type": "full",
            "size_bytes": size * 4 if done else None, "compressed_size_bytes": size if done else None,
            "backup_path": PATH.format(number % len(jobs), row_id) if done else None,
            "checksum": "0" * 64 if done else None,
            "error_message": None if done else "pg_dump: error: connection to server failed", "metadata": details,
            "pinned": False, "attempt": 1, "tries_left": 2, "enqueue_number": 1, "cancel_requested": False,
        }  # fmt: skip
        yield [row.get(column.name) for column in BackupExecution.__table__.columns]


def _lite(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return value.bytes if hasattr(value, "bytes") else value


async def _measure(url: str, rounds: int) -> dict[str, Any]:
    database = Database(url)
    async with database.read() as session:
        total = await ExecutionRepository(session).count()
        job = (await JobRepository(session).all(BackupJob.name == "job 0007"))[0]
    figures = {}
    for name, call in _calls(job, total).items():
        figures[name] = await _timed(database, call, rounds)
        print(f"  {name:45} {figures[name][0]:8.1f} {figures[name][1]:8.1f}", flush=True)
    await database.close()
    return {"figures": figures, "rows": total}


def _calls(job: BackupJob, total: int) -> dict[str, Call]:
    filters = {
        "all": (ExecutionFilter(), total),
        "job": (ExecutionFilter(job_id=job.id), total // JOBS),
        "datasource": (ExecutionFilter(datasource_id=job.datasource_id), total // DATASOURCES),
        "storage location": (ExecutionFilter(storage_location_id=job.storage_location_id), total // STORAGES),
        "status = completed": (ExecutionFilter(status=ExecutionStatus.COMPLETED), total * 95 // 100),
        "status = failed": (ExecutionFilter(status=ExecutionStatus.FAILED), total * 3 // 100),
        "from, to: 30 days": (ExecutionFilter(created_from=NOW - 60 * DAY, created_to=NOW - 30 * DAY), 41_142),
        "from: half of all": (ExecutionFilter(created_from=NOW - total // 2 * SPACING), total // 2),
        "storage location, completed": (
            ExecutionFilter(storage_location_id=job.storage_location_id, status=ExecutionStatus.COMPLETED),
            total // STORAGES * 95 // 100,
        ),
        "datasource, failed": (
            ExecutionFilter(datasource_id=job.datasource_id, status=ExecutionStatus.FAILED),
            total // DATASOURCES * 3 // 100,
        ),
        "job, completed": (
            ExecutionFilter(job_id=job.id, status=ExecutionStatus.COMPLETED),
            total // JOBS * 95 // 100,
        ),
    }
    calls: dict[str, Call] = {}
    for name, (chosen, rows) in filters.items():
        pages = max(1, -(-rows // LIMIT))
        for where, page in (("first", 1), ("middle", max(1, pages // 2)), ("last", pages)):
            calls[f"list, {name}, {where} page"] = _page(chosen, page)
    return calls | {
        "overview: states of 24 hours": lambda session: OverviewRepository(session).counts(NOW - DAY),
        "overview: states of 30 days": lambda session: OverviewRepository(session).counts(NOW - 30 * DAY),
        "overview: stored bytes": lambda session: OverviewRepository(session).stored(),
        f"overview: numbers of {JOBS} jobs": lambda session: OverviewRepository(session).jobs(),
        "overview: next runs": lambda session: JobRepository(session).next_due(10),
        "overview: all of these": _everything,
    }


def _page(chosen: ExecutionFilter, page: int) -> Call:
    return lambda session: ExecutionRepository(session).listed(chosen, page=page, limit=LIMIT)


async def _everything(session: AsyncSession) -> None:
    overview = OverviewRepository(session)
    await overview.counts(NOW - DAY)
    await overview.counts(NOW - 30 * DAY)
    await overview.stored()
    await overview.jobs()
    await JobRepository(session).next_due(10)


async def _timed(database: Database, call: Call, rounds: int) -> tuple[float, float]:
    """Returns median milliseconds as served, and with everything counted anew."""
    served: list[float] = []
    anew: list[float] = []
    for times, forget in ((anew, True), (served, False)):
        for _ in range(rounds):
            if forget:
                database.recent.clear()
            start = time.perf_counter()
            async with database.read() as session:
                await call(session)
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(served), statistics.median(anew)


def _sqlite_size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"


def _report(found: dict[str, Any], where: dict[str, Any], options: argparse.Namespace) -> str:
    first = next(iter(found.values()))
    how = (
        f"Written by `bench/catalog.py`, never by hand. Milliseconds, median of {options.rounds} calls of the "
        "repository that the API uses. *as served*: totals above 10,000 and stored bytes are up to 10 s old "
        "(`db/recent.py`). *anew*: everything is counted again in every call. "
        f"The bar is {TARGET_MS} ms as served. {JOBS:,} jobs, {DATASOURCES} datasources, {STORAGES} storage "
        f"locations, pages of {LIMIT}."
    )
    machine_line = (
        f"{where['processor']}, {where['cores']} cores, {where['date']}, Python {sys.version.split()[0]}, "
        f"SQLite {sqlite3.sqlite_version}. Load average of the machine at the end: {os.getloadavg()[1]:.1f}."
    )
    lines = [
        "# The catalogue with a million executions",
        "",
        how,
        "",
        machine_line,
        "",
        *[f"- {name}: {one['rows']:,} rows, {one['size']}" for name, one in found.items()],
        "",
        f"| | {' | '.join(f'{name} as served | {name} anew' for name in found)} |",
        f"|---|{'---:|' * 2 * len(found)}",
    ]
    for name in first["figures"]:
        cells = [f"{value:.1f}" for one in found.values() for value in one["figures"][name]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    slow = [
        f"{name} on {database}: {one['figures'][name][0]:.0f} ms"
        for database, one in found.items()
        for name in one["figures"]
        if one["figures"][name][0] > TARGET_MS
    ]
    return "\n".join([*lines, "", f"Above the bar: {'; '.join(slow) if slow else 'none'}.", ""])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
