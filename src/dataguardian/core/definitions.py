"""What people define: datasources, storage locations and backup jobs. Checked when stored, guarded when deleted."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import IntegrityError as BrokenRule
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.context import Context
from dataguardian.core.options import BackupOptions
from dataguardian.core.scheduling import next_run
from dataguardian.core.secrets import MASK, keep_masked, masked, revealed
from dataguardian.core.threads import in_thread
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
from dataguardian.registry import AdapterConfig
from dataguardian.storage.registry import build_storage, storage_document

R = TypeVar("R", Datasource, StorageLocation, BackupJob)

TEST_SECONDS = 20.0


class Datasources:
    def __init__(self, context: Context) -> None:
        self._context = context

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
            connection_config=_stored(config),
            status=DatasourceStatus.UNKNOWN,
            enabled=fields.get("enabled", True),
            production=fields.get("production", True),
            tags=list(fields.get("tags", ())),
            consecutive_failures=0,
        )
        return await _insert(DatasourceRepository(session), row)

    async def update(self, row_id: uuid.UUID, fields: Mapping[str, Any]) -> Datasource:
        """Changes what is sent; keys of `connection_config` one by one, null removes one, a mask keeps it."""
        async with self._context.db.write() as session:
            row = await DatasourceRepository(session).locked(row_id)
            if "connection_config" in fields:
                config = merged(fields["connection_config"], row.connection_config)
                row.connection_config = _stored(engine_document({"type": row.type, **config}))
            return await _change(
                session, row, fields, ("name", "enabled", "production", "tags"), self._context.clock.now()
            )

    async def delete(self, row_id: uuid.UUID) -> None:
        """Raises ConflictError that says by what it is used."""
        async with self._context.db.write() as session:
            await _delete(DatasourceRepository(session), row_id)

    async def get(self, row_id: uuid.UUID) -> Datasource:
        async with self._context.db.read() as session:
            return await DatasourceRepository(session).get(row_id)

    async def page(self, page: int, limit: int) -> Page[Datasource]:
        async with self._context.db.read() as session:
            return await DatasourceRepository(session).page(page=page, limit=limit)

    async def test(self, row_id: uuid.UUID) -> ProbeResult:
        """Probes it now; the outcome is not counted as a health check."""
        row = await self.get(row_id)
        return await probe_datasource(row)


class StorageLocations:
    def __init__(self, context: Context) -> None:
        self._context = context

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
            config=_stored(config),
            is_default=fields.get("is_default", False),
            status=StorageStatus.UNKNOWN,
            consecutive_failures=0,
        )
        if row.is_default:
            await StorageRepository(session).clear_default(now)
        return await _insert(StorageRepository(session), row)

    async def update(self, row_id: uuid.UUID, fields: Mapping[str, Any]) -> StorageLocation:
        """Changes what is sent; making one the default ends that of the other one."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await StorageRepository(session).locked(row_id)
            if "config" in fields:
                config = merged(fields["config"], row.config)
                row.config = _stored(storage_document({"type": row.type, **config}))
            if fields.get("is_default") and not row.is_default:
                await StorageRepository(session).clear_default(now)
            return await _change(session, row, fields, ("name", "is_default"), now)

    async def delete(self, row_id: uuid.UUID) -> None:
        """Raises ConflictError that says by what it is used."""
        async with self._context.db.write() as session:
            await _delete(StorageRepository(session), row_id)

    async def get(self, row_id: uuid.UUID) -> StorageLocation:
        async with self._context.db.read() as session:
            return await StorageRepository(session).get(row_id)

    async def page(self, page: int, limit: int) -> Page[StorageLocation]:
        async with self._context.db.read() as session:
            return await StorageRepository(session).page(page=page, limit=limit)

    async def test(self, row_id: uuid.UUID) -> ProbeResult:
        """Puts, reads, lists and deletes a small object."""
        row = await self.get(row_id)
        return await probe_storage(row)


class Jobs:
    def __init__(self, context: Context) -> None:
        self._context = context

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
            backup_options=checked(BackupOptions, fields.get("backup_options") or {}),
            next_execution_at=next_run(cron, timezone, now),
        )
        await check_targets(session, row.storage_location_id, row.backup_options)
        return await _insert(JobRepository(session), row)

    async def update(self, row_id: uuid.UUID, fields: Mapping[str, Any]) -> BackupJob:
        """Changes what is sent; policy and options one by one. A new schedule counts from now."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await JobRepository(session).locked(row_id)
            await _check_parties(session, fields)
            if "schedule_timezone" in fields:
                load_zone(fields["schedule_timezone"])
            changed = dict(fields)
            if "retention_policy" in changed:
                changed["retention_policy"] = checked(
                    RetentionPolicy, merged(changed["retention_policy"] or {}, row.retention_policy)
                )
            if "backup_options" in changed:
                changed["backup_options"] = checked(
                    BackupOptions, merged(changed["backup_options"] or {}, row.backup_options)
                )
            if "backup_options" in changed or "storage_location_id" in changed:
                own = changed.get("storage_location_id", row.storage_location_id)
                await check_targets(session, own, changed.get("backup_options", row.backup_options))
            before = (row.schedule_cron, row.schedule_timezone, row.enabled)
            await _change(session, row, changed, _JOB_FIELDS, now)
            if before != (row.schedule_cron, row.schedule_timezone, row.enabled):
                row.next_execution_at = next_run(row.schedule_cron, row.schedule_timezone, now)
            return row

    async def delete(self, row_id: uuid.UUID) -> None:
        """Raises ConflictError while executions of it hold backups or are active."""
        async with self._context.db.write() as session:
            await _delete(JobRepository(session), row_id)

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
    """Returns a row's configuration with its secrets masked; all texts, when its adapter is no longer installed."""
    stored = row.connection_config if isinstance(row, Datasource) else row.config
    read = engine_document if isinstance(row, Datasource) else storage_document
    try:
        config: AdapterConfig = read({"type": row.type, **stored})
    except UsageError:
        return {key: MASK if isinstance(value, str) else value for key, value in stored.items()}
    return {key: value for key, value in masked(config).items() if key != "type"}


async def probe_datasource(row: Datasource) -> ProbeResult:
    """Runs the engine's check in a thread, bounded; never raises for what it finds."""

    def check() -> ProbeResult:
        return build_engine(engine_document({"type": row.type, **row.connection_config})).check()

    return await _bounded(check, f"datasource {row.id}")


async def probe_storage(row: StorageLocation) -> ProbeResult:
    """Runs the storage's check in a thread, bounded; `available_bytes` in metadata where the storage can tell."""

    def check() -> ProbeResult:
        # Not retried: that may take longer than a test may, whose answer would then be "timeout" instead of the reason.
        storage = build_storage(storage_document({"type": row.type, **row.config}))
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


def _stored(config: AdapterConfig) -> dict[str, Any]:
    return {key: value for key, value in revealed(config).items() if key != "type"}


def merged(sent: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `stored` with what was sent: null removes a key, a mask keeps it."""
    both = {**stored, **keep_masked(sent, stored)}
    return {key: value for key, value in both.items() if value is not None}


def checked(model: type[BaseModel], document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole document with defaults filled in; raises UsageError that names what is wrong."""
    try:
        return model.model_validate(document).model_dump(mode="json")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"not valid: {wrong}") from None


async def _check_parties(session: AsyncSession, fields: Mapping[str, Any]) -> None:
    if fields.get("datasource_id") is not None:
        await DatasourceRepository(session).get(fields["datasource_id"])
    if fields.get("storage_location_id") is not None:
        await StorageRepository(session).get(fields["storage_location_id"])


async def check_targets(session: AsyncSession, own: uuid.UUID | None, options: Mapping[str, Any]) -> None:
    """Raises NotFoundError for a further storage location that is not there, UsageError when it is the job's own."""
    for target in options.get("storage_targets", ()):
        row = await StorageRepository(session).locked(uuid.UUID(str(target)))
        if row.id == own:
            raise UsageError(
                f"not valid: storage_targets: {row.name} is the job's own storage location",
                hint="storage_targets are those beside it",
            )


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


async def _delete(repository: DatasourceRepository | StorageRepository | JobRepository, row_id: uuid.UUID) -> None:
    row = await repository.locked(row_id)
    uses = {kind: what for kind, what in (await repository.uses_of(row_id)).items() if what}
    if uses:
        text = "; ".join(
            f"{kind}: {', '.join(what) if isinstance(what, list) else what}" for kind, what in uses.items()
        )
        raise ConflictError(
            f"{row.name} is in use by {text}", hint="delete or change those first", uses=text, id=str(row_id)
        )
    await repository.delete(row_id)


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
