"""What people define: datasources, storage locations and backup jobs. Checked when stored, guarded when deleted."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import IntegrityError as BrokenRule
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.broken import Rule, broken_rule
from dataguardian.db.models import BackupJob, Datasource, StorageLocation
from dataguardian.db.repositories.base import Page, Repository
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.domain.cron import load_zone
from dataguardian.domain.errors import ConflictError, DataGuardianError, UsageError
from dataguardian.domain.ids import new_id
from dataguardian.domain.retention import RetentionPolicy
from dataguardian.domain.states import DatasourceStatus, StorageStatus
from dataguardian.engines.base import CheckStatus, ProbeResult
from dataguardian.engines.registry import build_engine, engine_document
from dataguardian.service.context import Context
from dataguardian.service.options import BackupOptions
from dataguardian.service.pictures import DefinitionLog
from dataguardian.service.safekeeping import (
    model_of,
    opened_config,
    opened_where_possible,
    owner_of,
    sealed,
    shown,
    whole,
)
from dataguardian.service.scheduling import next_run
from dataguardian.service.secrets import keep_masked
from dataguardian.service.streams import check_streams
from dataguardian.service.targetcheck import check_targets
from dataguardian.service.threads import in_thread
from dataguardian.service.vault import Vault
from dataguardian.storage.registry import build_storage, storage_document

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", Datasource, StorageLocation, BackupJob)

TEST_SECONDS = 20.0


class Datasources:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = DefinitionLog(context)

    async def create(self, fields: Mapping[str, Any]) -> Datasource:
        """Raises UsageError for a configuration that is not valid, ConflictError for a name that is taken."""
        async with self._context.db.write() as session:
            return await self.add(session, fields)

    async def add(self, session: AsyncSession, fields: Mapping[str, Any]) -> Datasource:
        """Does the same in the caller's transaction."""
        now = self._context.clock.now()
        config = engine_document({"type": fields["type"], **fields.get("connection_config", {})})
        row = Datasource(
            id=new_id(now),
            created_at=now,
            updated_at=now,
            name=fields["name"],
            type=fields["type"],
            connection_config={},
            status=DatasourceStatus.UNKNOWN,
            enabled=fields.get("enabled", True),
            production=fields.get("production", True),
            tags=list(fields.get("tags", ())),
            consecutive_failures=0,
        )
        row.connection_config = await sealed(session, config, self._context.vault, owner_of(row))
        return await self._log.created(session, await _insert(DatasourceRepository(session), row))

    async def update(self, row_id: uuid.UUID, fields: Mapping[str, Any]) -> Datasource:
        """Changes what is sent; keys of `connection_config` one by one, null removes one, a mask keeps it."""
        async with self._context.db.write() as session:
            row = await DatasourceRepository(session).locked(row_id)
            before = self._log.seen(row)
            if "connection_config" in fields:
                config = engine_document(changed_config(row, fields["connection_config"], self._context.vault))
                row.connection_config = await sealed(session, config, self._context.vault, owner_of(row))
            names = ("name", "enabled", "production", "tags")
            await _change(session, row, fields, names, self._context.clock.now())
            return await self._log.changed(session, before, row)

    async def delete(self, row_id: uuid.UUID) -> None:
        """Raises ConflictError that says by what it is used."""
        async with self._context.db.write() as session:
            row = await DatasourceRepository(session).locked(row_id)
            await _delete(DatasourceRepository(session), row)
            await self._log.deleted(session, row)

    async def get(self, row_id: uuid.UUID) -> Datasource:
        async with self._context.db.read() as session:
            return await DatasourceRepository(session).get(row_id)

    async def page(self, page: int, limit: int) -> Page[Datasource]:
        async with self._context.db.read() as session:
            return await DatasourceRepository(session).page(page=page, limit=limit)

    async def test(self, row_id: uuid.UUID) -> ProbeResult:
        """Probes it now; the outcome is not counted as a health check."""
        row = await self.get(row_id)
        return await probe_datasource(row, self._context.vault)


class StorageLocations:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = DefinitionLog(context)

    async def create(self, fields: Mapping[str, Any]) -> StorageLocation:
        """Raises UsageError for a configuration that is not valid, ConflictError for a name that is taken."""
        async with self._context.db.write() as session:
            return await self.add(session, fields)

    async def add(self, session: AsyncSession, fields: Mapping[str, Any]) -> StorageLocation:
        """Does the same in the caller's transaction."""
        now = self._context.clock.now()
        config = storage_document({"type": fields["type"], **fields.get("config", {})})
        row = StorageLocation(
            id=new_id(now),
            created_at=now,
            updated_at=now,
            name=fields["name"],
            type=fields["type"],
            config={},
            is_default=fields.get("is_default", False),
            status=StorageStatus.UNKNOWN,
            consecutive_failures=0,
        )
        row.config = await sealed(session, config, self._context.vault, owner_of(row))
        if row.is_default:
            await StorageRepository(session).clear_default(now)
        return await self._log.created(session, await _insert(StorageRepository(session), row))

    async def update(self, row_id: uuid.UUID, fields: Mapping[str, Any]) -> StorageLocation:
        """Changes what is sent; making one the default ends that of the other one."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await StorageRepository(session).locked(row_id)
            before = self._log.seen(row)
            if "config" in fields:
                config = storage_document(changed_config(row, fields["config"], self._context.vault))
                row.config = await sealed(session, config, self._context.vault, owner_of(row))
            if fields.get("is_default") and not row.is_default:
                await StorageRepository(session).clear_default(now)
            await _change(session, row, fields, ("name", "is_default"), now)
            return await self._log.changed(session, before, row)

    async def delete(self, row_id: uuid.UUID) -> None:
        """Raises ConflictError that says by what it is used."""
        async with self._context.db.write() as session:
            row = await StorageRepository(session).locked(row_id)
            await _delete(StorageRepository(session), row)
            await self._log.deleted(session, row)

    async def get(self, row_id: uuid.UUID) -> StorageLocation:
        async with self._context.db.read() as session:
            return await StorageRepository(session).get(row_id)

    async def page(self, page: int, limit: int) -> Page[StorageLocation]:
        async with self._context.db.read() as session:
            return await StorageRepository(session).page(page=page, limit=limit)

    async def test(self, row_id: uuid.UUID) -> ProbeResult:
        """Puts, reads, lists and deletes a small object."""
        row = await self.get(row_id)
        return await probe_storage(row, self._context.vault)


class Jobs:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = DefinitionLog(context)

    async def create(self, fields: Mapping[str, Any]) -> BackupJob:
        """Raises UsageError for a schedule, policy or option that is not valid, NotFoundError for unknown parties."""
        async with self._context.db.write() as session:
            return await self.add(session, fields)

    async def add(self, session: AsyncSession, fields: Mapping[str, Any]) -> BackupJob:
        """Does the same in the caller's transaction."""
        now = self._context.clock.now()
        timezone = fields.get("schedule_timezone") or self._context.settings.timezone
        cron = fields.get("schedule_cron")
        load_zone(timezone)  # retention counts days in it, whether there is a schedule or not
        await _check_parties(session, fields)
        row = BackupJob(
            id=new_id(now),
            created_at=now,
            updated_at=now,
            name=fields["name"],
            datasource_id=fields["datasource_id"],
            storage_location_id=fields.get("storage_location_id"),
            schedule_cron=cron,
            schedule_timezone=timezone,
            enabled=fields.get("enabled", True),
            retention_policy=checked(RetentionPolicy, fields.get("retention_policy") or {}),
            backup_options={},
            next_execution_at=next_run(cron, timezone, now),
        )
        options = valid(BackupOptions, fields.get("backup_options") or {})
        row.backup_options = await sealed(session, options, self._context.vault, owner_of(row))
        await check_targets(session, row.storage_location_id, row.backup_options, self._context.vault)
        await check_streams(session, row.datasource_id, options.streams, self._context.vault)
        return await self._log.created(session, await _insert(JobRepository(session), row))

    async def update(self, row_id: uuid.UUID, fields: Mapping[str, Any]) -> BackupJob:
        """Changes what is sent; policy and options one by one. A new schedule counts from now."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await JobRepository(session).locked(row_id)
            before = self._log.seen(row)
            await _check_parties(session, fields)
            if "schedule_timezone" in fields:
                load_zone(fields["schedule_timezone"])
            changed = dict(fields)
            if "retention_policy" in changed:
                changed["retention_policy"] = checked(
                    RetentionPolicy, merged(changed["retention_policy"] or {}, row.retention_policy)
                )
            if "backup_options" in changed:
                options = valid(
                    BackupOptions, changed_options(row, changed["backup_options"] or {}, self._context.vault)
                )
                changed["backup_options"] = await sealed(session, options, self._context.vault, owner_of(row))
            if "backup_options" in changed or "storage_location_id" in changed:
                own = changed.get("storage_location_id", row.storage_location_id)
                options_then = changed.get("backup_options", row.backup_options)
                await check_targets(session, own, options_then, self._context.vault)
            if "backup_options" in changed or "datasource_id" in changed:
                source = changed.get("datasource_id", row.datasource_id)
                streams = changed.get("backup_options", row.backup_options).get("streams", ())
                await check_streams(session, source, streams, self._context.vault)
            plan = (row.schedule_cron, row.schedule_timezone, row.enabled)
            await _change(session, row, changed, _JOB_FIELDS, now)
            if plan != (row.schedule_cron, row.schedule_timezone, row.enabled):
                row.next_execution_at = next_run(row.schedule_cron, row.schedule_timezone, now)
            return await self._log.changed(session, before, row)

    async def delete(self, row_id: uuid.UUID) -> None:
        """Raises ConflictError while executions of it hold backups or are active."""
        async with self._context.db.write() as session:
            row = await JobRepository(session).locked(row_id)
            await _delete(JobRepository(session), row)
            await self._log.deleted(session, row)

    async def get(self, row_id: uuid.UUID) -> BackupJob:
        async with self._context.db.read() as session:
            return await JobRepository(session).get(row_id)

    async def page(self, page: int, limit: int) -> Page[BackupJob]:
        async with self._context.db.read() as session:
            return await JobRepository(session).page(page=page, limit=limit)


_JOB_FIELDS = (
    "name",
    "datasource_id",
    "storage_location_id",
    "schedule_cron",
    "schedule_timezone",
    "enabled",
    "retention_policy",
    "backup_options",
)


def shown_config(row: Datasource | StorageLocation) -> dict[str, Any]:
    """Returns a row's configuration with its secrets masked; no key is needed for it."""
    return shown(row.connection_config if isinstance(row, Datasource) else row.config, model_of(row))


def shown_options(row: BackupJob) -> dict[str, Any]:
    """Returns a job's options with their secrets masked."""
    return shown(row.backup_options, BackupOptions)


def changed_config(row: Datasource | StorageLocation, sent: Mapping[str, Any], vault: Vault) -> dict[str, Any]:
    """Returns a row's configuration in clear, with its type and what was sent: null removes a key, a mask keeps it.

    Raises SecretUnreadableError for a secret that cannot be opened and was neither replaced nor removed.
    """
    stored = row.connection_config if isinstance(row, Datasource) else row.config
    kept = opened_where_possible(stored, vault, owner_of(row))
    return {"type": row.type, **whole(merged(sent, kept))}


def changed_options(row: BackupJob, sent: Mapping[str, Any], vault: Vault) -> dict[str, Any]:
    """Returns a job's options in clear, with what was sent."""
    return whole(merged(sent, opened_where_possible(row.backup_options, vault, owner_of(row))))


async def probe_datasource(row: Datasource, vault: Vault) -> ProbeResult:
    """Runs the engine's check in a thread, bounded; never raises for what it finds."""

    def check() -> ProbeResult:
        return build_engine(engine_document(opened_config(row, vault))).check()

    return await _bounded(check, f"datasource {row.id}")


async def probe_storage(row: StorageLocation, vault: Vault) -> ProbeResult:
    """Runs the storage's check in a thread, bounded; `available_bytes` in metadata where the storage can tell."""

    def check() -> ProbeResult:
        # Not retried: that may take longer than a test may, whose answer would then be "timeout" instead of the reason.
        storage = build_storage(storage_document(opened_config(row, vault)))
        storage.check()
        return ProbeResult("ok", metadata={"available_bytes": storage.free_space()})

    return await _bounded(check, f"storage location {row.id}")


_PROBE_WORDS: dict[str, CheckStatus] = {
    "auth_failed": "auth_failed",
    "unreachable": "unreachable",
    "storage_unreachable": "unreachable",
    "storage_connection": "unreachable",
}


async def _bounded(check: Callable[[], ProbeResult], key: str) -> ProbeResult:
    try:
        return await in_thread(check, seconds=TEST_SECONDS, key=key)
    except TimeoutError:
        return ProbeResult("timeout", f"it did not answer within {TEST_SECONDS:g} s")
    except DataGuardianError as error:
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        return ProbeResult(_PROBE_WORDS.get(error.code, "error"), text, {"error": error.code})


def merged(sent: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `stored` with what was sent: null removes a key, a mask keeps it."""
    both = {**stored, **keep_masked(sent, stored)}
    return {key: value for key, value in both.items() if value is not None}


def checked(model: type[BaseModel], document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole document with defaults filled in; raises UsageError that names what is wrong."""
    return valid(model, document).model_dump(mode="json")


def valid(model: type[M], document: Mapping[str, Any]) -> M:
    """Returns the model's instance; raises UsageError that names what is wrong."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"not valid: {wrong}") from None


async def _check_parties(session: AsyncSession, fields: Mapping[str, Any]) -> None:
    if fields.get("datasource_id") is not None:
        await DatasourceRepository(session).get(fields["datasource_id"])
    if fields.get("storage_location_id") is not None:
        await StorageRepository(session).get(fields["storage_location_id"])


async def _insert(repository: Repository[R], row: R) -> R:
    """Adds a row; a name that is taken is a ConflictError."""
    try:
        async with repository.session.begin_nested():
            return await repository.add(row)
    except BrokenRule as error:
        raise _refused(repository.noun, error) from error


async def _change(session: AsyncSession, row: R, fields: Mapping[str, Any], names: tuple[str, ...], now: datetime) -> R:
    """Sets those of `names` that were sent."""
    for name in names:
        if name in fields:
            setattr(row, name, fields[name])
    row.updated_at = now
    try:
        async with session.begin_nested():
            await session.flush()
    except BrokenRule as error:
        raise _refused(_NOUNS[type(row)], error) from error
    return row


async def _delete(
    repository: DatasourceRepository | StorageRepository | JobRepository, row: Datasource | StorageLocation | BackupJob
) -> None:
    """Raises ConflictError that says by what it is used."""
    uses = {kind: what for kind, what in (await repository.uses_of(row.id)).items() if what}
    if uses:
        text = "; ".join(
            f"{kind}: {', '.join(what) if isinstance(what, list) else what}" for kind, what in uses.items()
        )
        raise ConflictError(
            f"{row.name} is in use by {text}", hint="delete or change those first", uses=text, id=str(row.id)
        )
    await repository.delete(row.id)


_NOUNS = {repository.model: repository.noun for repository in (DatasourceRepository, StorageRepository, JobRepository)}


def _refused(noun: str, error: BrokenRule) -> ConflictError:
    """Returns what the catalogue's refusal means: only one of its rules is about names."""
    rule = broken_rule(error)
    if rule is Rule.NAME:
        return ConflictError(f"another {noun} has this name already", hint="choose another name")
    if rule is Rule.DEFAULT:
        return ConflictError("another storage location became the default at this moment", hint="look, and try again")
    if rule is Rule.REFERENCE:
        return ConflictError(f"something that this {noun} names was deleted at this moment", hint="look, and try again")
    return ConflictError(f"this {noun} is not possible beside what there is by now", hint="look, and try again")
