"""Configuration as code: what would change if a definition were written, told without writing anything.

Whoever keeps definitions in a file cannot compare secrets, which are masked on their way out. So the file's side is
sent here and compared with what is stored: same rules as a change (only what is sent, a mask keeps, null removes), same
checks, and an answer whose secrets are masked again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.errors import ConflictError, DataGuardianError, NotFoundError
from dataguardian.domain.retention import RetentionPolicy
from dataguardian.engines.registry import engine_document
from dataguardian.service.context import Context
from dataguardian.service.definitions import checked, merged, valid
from dataguardian.service.options import BackupOptions
from dataguardian.service.safekeeping import (
    Row,
    document_of,
    model_of,
    opened_where_possible,
    owner_of,
    setting_owner,
    shown,
    whole,
)
from dataguardian.service.scheduling import next_run
from dataguardian.service.secrets import revealed
from dataguardian.service.systemsettings import checked_setting, setting_definition
from dataguardian.storage.registry import storage_document

_JOB_FIELDS = ("datasource_id", "storage_location_id", "schedule_cron", "schedule_timezone", "enabled")


class Kind(StrEnum):
    DATASOURCE = "datasource"
    STORAGE_LOCATION = "storage_location"
    BACKUP_JOB = "backup_job"
    SETTING = "setting"


@dataclass(frozen=True)
class Wanted:
    """How something should be. `reference` is a row's id, a setting's key, or None for what is to be created."""

    kind: Kind
    reference: str | None
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """`field` is a dotted path; secrets in `before` and `after` are masked, and None is what is not there."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Comparison:
    """Nothing to change when there are no differences; `problem` is why it could not be written."""

    differences: Sequence[Difference] = ()
    problem: DataGuardianError | None = None


@dataclass
class _Document:
    """One side of a comparison, twice: as it is, and as it may be shown."""

    plain: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:  # noqa: ANN401 -- plain JSON
        self.plain[name] = self.shown[name] = value

    def put_config(self, name: str, config: BaseModel) -> None:
        document = {key: value for key, value in revealed(config).items() if key != "type"}
        self.put_document(name, document, type(config))

    def put_document(self, name: str, document: dict[str, Any], model: Any) -> None:  # noqa: ANN401 -- a type
        """Takes one that need not be valid: what is stored, and may have a secret that cannot be opened."""
        self.plain[name], self.shown[name] = document, shown(document, model)


_Sides = tuple[_Document, _Document]


class Configuration:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._sides = {
            Kind.DATASOURCE: self._datasource,
            Kind.STORAGE_LOCATION: self._storage,
            Kind.BACKUP_JOB: self._job,
            Kind.SETTING: self._setting,
        }

    async def compare(self, wanted: Sequence[Wanted]) -> list[Comparison]:
        """Returns, in order, how each differs from what is stored, as of one moment."""
        async with self._context.db.read() as session:
            return [await self._compare(session, item) for item in wanted]

    async def _compare(self, session: AsyncSession, item: Wanted) -> Comparison:
        try:
            before, after = await self._sides[item.kind](session, item)
        except DataGuardianError as error:
            return Comparison(problem=error)
        return Comparison(list(_differences(before, after)))

    async def _datasource(self, session: AsyncSession, item: Wanted) -> _Sides:
        row = await DatasourceRepository(session).get(_id(item)) if item.reference else None
        before, after = _Document(), _Document()
        kind = _same_type(item, row.type if row else None)
        stored = self._opened(row, before, "connection_config")
        config = {"type": kind, **whole(merged(item.fields.get("connection_config") or {}, stored))}
        after.put_config("connection_config", engine_document(config))
        return _with_fields(before, after, row, item, {"enabled": True, "production": True, "tags": []})

    async def _storage(self, session: AsyncSession, item: Wanted) -> _Sides:
        row = await StorageRepository(session).get(_id(item)) if item.reference else None
        before, after = _Document(), _Document()
        kind = _same_type(item, row.type if row else None)
        stored = self._opened(row, before, "config")
        config = {"type": kind, **whole(merged(item.fields.get("config") or {}, stored))}
        after.put_config("config", storage_document(config))
        return _with_fields(before, after, row, item, {"is_default": False})

    async def _job(self, session: AsyncSession, item: Wanted) -> _Sides:
        row = await JobRepository(session).get(_id(item)) if item.reference else None
        before, after = _Document(), _Document()
        policy = row.retention_policy if row else {}
        if row is not None:
            before.put("retention_policy", checked(RetentionPolicy, policy))
        after.put(
            "retention_policy", checked(RetentionPolicy, merged(item.fields.get("retention_policy") or {}, policy))
        )
        stored = self._opened(row, before, "backup_options")
        options = whole(merged(item.fields.get("backup_options") or {}, stored))
        after.put_document("backup_options", valid(BackupOptions, options).document(), BackupOptions)
        defaults = dict.fromkeys(_JOB_FIELDS) | {"enabled": True, "schedule_timezone": self._context.settings.timezone}
        sides = _with_fields(before, after, row, item, defaults)
        next_run(after.plain["schedule_cron"], after.plain["schedule_timezone"], self._context.clock.now())
        return sides

    async def _setting(self, session: AsyncSession, item: Wanted) -> _Sides:
        definition = setting_definition(item.reference or "")
        key = item.reference or ""
        found = await SettingRepository(session).value(key) or {}
        stored = opened_where_possible(found, self._context.vault, setting_owner(key))
        before, after = _Document(), _Document()
        model = definition.model()
        before.put_document("value", {**revealed(model()), **stored}, model)
        wanted = whole(merged(item.fields.get("value") or {}, stored))
        after.put_config("value", checked_setting(definition, wanted))
        return before, after

    def _opened(self, row: Row | None, before: _Document, name: str) -> dict[str, Any]:
        """Returns what is stored in a row, opened where that is possible, and puts it before the change."""
        if row is None:
            return {}
        stored = opened_where_possible(document_of(row), self._context.vault, owner_of(row))
        before.put_document(name, stored, model_of(row))
        return stored


def _id(item: Wanted) -> uuid.UUID:
    try:
        return uuid.UUID(item.reference or "")
    except ValueError as error:
        raise NotFoundError(f"{item.reference!r} is no id") from error


def _same_type(item: Wanted, stored: str | None) -> str:
    given = str(item.fields.get("type") or stored)
    if stored is not None and given != stored:
        raise ConflictError(
            f"the type is {stored} and cannot become {given}", hint="give it another name, or remove the old one first"
        )
    return given


def _with_fields(before: _Document, after: _Document, row: object, item: Wanted, defaults: Mapping[str, Any]) -> _Sides:
    for name, default in defaults.items():
        stored = default if row is None else getattr(row, name)
        value = item.fields.get(name, stored)
        if row is not None:
            before.put(name, _plain(stored))
        after.put(name, _plain(default if value is None else value))
    return before, after


def _plain(value: object) -> object:
    return str(value) if isinstance(value, uuid.UUID) else value


def _differences(before: _Document, after: _Document) -> Iterator[Difference]:
    old, new = dict(_flat(before.plain)), dict(_flat(after.plain))
    shown_old, shown_new = dict(_flat(before.shown)), dict(_flat(after.shown))
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            yield Difference(name, shown_old.get(name), shown_new.get(name))


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted paths; lists are values, and an empty object is as good as none."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
