"""DataGuardian guards itself: its own catalogue is the first thing that it backs up."""

from __future__ import annotations

from typing import Any

from dataguardian.core.context import Context
from dataguardian.core.definitions import Datasources, Jobs, StorageLocations
from dataguardian.core.executions import Executions
from dataguardian.core.home import Home
from dataguardian.core.secrets import revealed
from dataguardian.db.models import BackupExecution
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.urls import parse_url
from dataguardian.engines.registry import engine_config

SETTING = "selfguard"
NAME = "dataguardian"
STORAGE_NAME = "local"
TAG = "dataguardian"
SCHEDULE = "0 3 * * *"


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
        """Returns the backup that was started at once; None when all this was done at an earlier start.

        What somebody deleted or changed since then stays as they left it.
        """
        async with self._context.db.read() as session:
            if await SettingRepository(session).value(SETTING) is not None:
                return None
            default = await StorageRepository(session).default()
        source = await self._datasources.create(
            {"name": NAME, "type": self._type, "connection_config": self._config(), "tags": [TAG]}
        )
        storage = await self._storages.create(
            {
                "name": STORAGE_NAME,
                "type": "local",
                "config": {"path": str(home.folder("backups"))},
                "is_default": default is None,
            }
        )
        job = await self._jobs.create(
            {"name": NAME, "datasource_id": source.id, "storage_location_id": storage.id, "schedule_cron": SCHEDULE}
        )
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            value = {"datasource_id": str(source.id), "storage_location_id": str(storage.id), "job_id": str(job.id)}
            await SettingRepository(session).put(SETTING, value, "What guards DataGuardian's own catalogue", now)
        return await self._executions.start(job.id)

    @property
    def _type(self) -> str:
        return "sqlite" if self._context.db.is_sqlite else "postgres"

    def _config(self) -> dict[str, Any]:
        if self._context.db.is_sqlite:
            return {"file_path": str(self._context.settings.catalogue_path)}
        config = engine_config(parse_url(self._context.settings.catalogue_url))
        return {key: value for key, value in revealed(config).items() if key != "type"}
