"""A stage for stories about the service: a real catalogue, a real queue server, and a clock that can be set."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete

from dataguardian.db.migrate import upgrade
from dataguardian.db.models import BackupChunk, BackupExecution, BackupJob, Datasource, NotificationRow, StorageLocation
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.notifications import NotificationRepository
from dataguardian.db.session import Database
from dataguardian.domain.states import ExecutionStatus
from dataguardian.queues.consumer import Consumer
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.embedded import EmbeddedServer
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.service.context import Context
from dataguardian.service.definitions import Datasources, Jobs, StorageLocations
from dataguardian.service.events import Events
from dataguardian.service.executions import Executions
from dataguardian.service.scheduling import Scheduler
from dataguardian.service.vault import Key, Vault
from dataguardian.settings import Settings
from dataguardian.workers.backup import BackupWorker

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class SettableClock:
    """Stands still unless told; its monotonic time follows."""

    def __init__(self, moment: datetime = START) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def advance(self, **span: float) -> None:
        self.moment += timedelta(**span)


@dataclass
class Stage:
    """One boot of a service's insides. `reboot` gives another boot of the same home, as after a crash."""

    context: Context
    clock: SettableClock
    server: EmbeddedServer
    folder: Path

    def __post_init__(self) -> None:
        self.events = Events(self.context)
        self.executions = Executions(self.context, self.events)
        self.scheduler = Scheduler(self.context, self.executions, self.events)
        self.datasources = Datasources(self.context)
        self.storages = StorageLocations(self.context)
        self.jobs = Jobs(self.context)

    def reboot(self, *, home_id: str | None = None) -> Stage:
        changed = Context(
            self.context.settings,
            self.clock,
            self.context.db,
            self.context.queues,
            self.context.live,
            home_id or self.context.home_id,
            uuid.uuid4().hex,
            self.context.vault,
        )
        return Stage(changed, self.clock, self.server, self.folder)

    async def job(self, name: str = "shop", **fields: Any) -> BackupJob:
        """A job on a SQLite database of a few rows, with the stage's storage."""
        path = self.folder / f"{name}.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, body TEXT)")
        connection.execute("INSERT INTO notes (body) VALUES ('hello')")
        connection.commit()
        connection.close()
        source = await self.datasources.create(
            {"name": name, "type": "sqlite", "connection_config": {"file_path": str(path)}}
        )
        storage = await self.storage(f"storage of {name}")
        return await self.jobs.create(
            {"name": name, "datasource_id": source.id, "storage_location_id": storage.id} | fields
        )

    async def storage(self, name: str, **fields: Any) -> StorageLocation:
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        return await self.storages.create({"name": name, "type": "local", "config": {"path": str(folder)}} | fields)

    def stored(self, name: str = "shop") -> list[Path]:
        """Every file in the storage of a job."""
        return [path for path in (self.folder / f"storage-of-{name}").rglob("*") if path.is_file()]

    async def execution(self, row_id: uuid.UUID) -> BackupExecution:
        async with self.context.db.read() as session:
            return await ExecutionRepository(session).get(row_id)

    async def forget_end(self, row_id: uuid.UUID, directory: str) -> None:
        """Puts a completed execution back to where a crash just before its commit would have left it."""
        async with self.context.db.write() as session:
            row = await ExecutionRepository(session).locked(row_id)
            row.status, row.attempt_path = ExecutionStatus.RUNNING, directory
            row.worker, row.backup_path, row.finished_at = self.context.worker, None, None
            await session.execute(delete(BackupChunk))

    async def all_executions(self) -> list[BackupExecution]:
        async with self.context.db.read() as session:
            return list(await ExecutionRepository(session).all())

    async def notifications(self) -> list[NotificationRow]:
        async with self.context.db.read() as session:
            return list(await NotificationRepository(session).all())

    @asynccontextmanager
    async def working(self) -> AsyncIterator[asyncio.Event]:
        """A backup worker is at work within the block; yields the event that a shutdown sets."""
        stopping = asyncio.Event()
        worker = BackupWorker(self.context, self.executions, stopping)
        consumer = Consumer(self.context.queues.url, QueueName.BACKUP, worker.process)
        consumer.start()
        try:
            yield stopping
        finally:
            await consumer.stop(0.1, hurry=stopping)

    async def until(self, row_id: uuid.UUID, *statuses: str, seconds: float = 60) -> BackupExecution:
        """Waits until an execution has one of these states."""
        async with asyncio.timeout(seconds):
            while (row := await self.execution(row_id)).status not in statuses:
                await asyncio.sleep(0.1)
        return row


@asynccontextmanager
async def stage(folder: Path, *, database_url: str | None = None, redis_url: str | None = None) -> AsyncIterator[Stage]:
    """Sets a stage on an embedded catalogue and queue, or on real servers."""
    settings = Settings(staging_dir=folder, home=folder / "home", database_url=database_url, redis_url=redis_url)
    settings.home.mkdir(exist_ok=True)
    await asyncio.to_thread(upgrade, settings.catalogue_url)
    server = EmbeddedServer(folder / "queue")
    server.start()
    url = redis_url or server.url
    clock = SettableClock()
    database, queues, live = Database(settings.catalogue_url), Queues(url), Live(url)
    live.start()
    vault = Vault([Key.generate()])
    context = Context(settings, clock, database, queues, live, uuid.uuid4().hex, uuid.uuid4().hex, vault)
    try:
        yield Stage(context, clock, server, folder)
    finally:
        await live.close()
        await queues.close()
        await database.close()
        server.stop()


async def datasource_of(here: Stage, job: BackupJob) -> Datasource:
    return await here.datasources.get(job.datasource_id)
