"""DataGuardian guards itself: its own catalogue is the first thing that it backs up."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.errors import ConflictError, QueueUnavailableError
from dataguardian.domain.states import Trigger
from dataguardian.domain.urls import parse_url
from dataguardian.engines.registry import engine_config
from dataguardian.service.context import Context
from dataguardian.service.definitions import Datasources, Jobs, StorageLocations
from dataguardian.service.executions import Executions, new_execution
from dataguardian.service.home import Home
from dataguardian.service.keycheck import find_record
from dataguardian.service.secrets import revealed

SETTING = "selfguard"
NAME = "dataguardian"
STORAGE_NAME = "local"
TAG = "dataguardian"
SCHEDULE = "0 3 * * *"
HINT = f"rename what is called {NAME} or {STORAGE_NAME}, and start again; or define a job of your own for it"

log = structlog.get_logger(__name__)


class SelfGuard:
    """Registers the catalogue as a datasource, a local storage location and a daily job; once in a catalogue's life."""

    def __init__(
        self, context: Context, datasources: Datasources, storages: StorageLocations, jobs: Jobs, executions: Executions
    ) -> None:
        self._context = context
        self._datasources = datasources
        self._storages = storages
        self._jobs = jobs
        self._executions = executions

    async def register(self, home: Home) -> BackupExecution | None:
        """Returns the backup that was started at once; None when all this was done at an earlier start, and the secret
        key is the same.

        One transaction, so that a first start that is cut short is made again as a whole. What somebody deleted or
        changed since then stays as they left it. The folder is made at each start: a catalogue that was restored into a
        new home is to be backed up there.
        """
        path = str(home.folder("backups"))
        async with self._context.db.read() as session:
            known = await SettingRepository(session).value(SETTING)
        if known is not None:
            return await self._renew(uuid.UUID(known["job_id"]))
        try:
            async with self._context.db.write() as session:
                row = await self._register(session, path)
        except ConflictError as error:
            log.warning("DataGuardian's own catalogue is not guarded", message=error.message, hint=HINT)
            return None
        with contextlib.suppress(QueueUnavailableError):  # the reconciler finds it
            await self._executions.enqueue([row])
        return row

    async def _renew(self, job_id: uuid.UUID) -> BackupExecution | None:
        """Takes a backup at once when the newest one opens with a former secret key only: a recovery kit that is taken
        now has the new key. Returns None when there is no need, or no way.
        """
        async with self._context.db.read() as session:
            job = await JobRepository(session).find(job_id)
            newest = await ExecutionRepository(session).newest_good(job_id)
            key = await find_record(session)
        if job is None or not job.enabled or newest is None or key is None:
            return None
        if not key.is_later_than(newest.started_at or newest.created_at):
            return None
        with contextlib.suppress(ConflictError, QueueUnavailableError):  # the job's schedule is left
            return await self._executions.start(job_id)
        return None

    async def _register(self, session: AsyncSession, path: str) -> BackupExecution:
        default = await StorageRepository(session).default()
        source = await self._datasources.add(
            session, {"name": NAME, "type": self._type, "connection_config": self._config(), "tags": [TAG]}
        )
        storage = await self._storages.add(
            session,
            {"name": STORAGE_NAME, "type": "local", "config": {"path": path}, "is_default": default is None},
        )
        parties = {"datasource_id": source.id, "storage_location_id": storage.id}
        job = await self._jobs.add(session, {"name": NAME, "schedule_cron": SCHEDULE, **parties})
        now = self._context.clock.now()
        value = {name: str(row_id) for name, row_id in parties.items()} | {"job_id": str(job.id)}
        await SettingRepository(session).put(SETTING, value, "What guards DataGuardian's own catalogue", now)
        return await ExecutionRepository(session).insert(new_execution(job, storage.id, Trigger.MANUAL, now))

    @property
    def _type(self) -> str:
        return "sqlite" if self._context.db.is_sqlite else "postgres"

    def _config(self) -> dict[str, Any]:
        if self._context.db.is_sqlite:
            return {"file_path": str(self._context.settings.catalogue_path)}
        config = engine_config(parse_url(self._context.settings.catalogue_url))
        return {key: value for key, value in revealed(config).items() if key != "type"}
