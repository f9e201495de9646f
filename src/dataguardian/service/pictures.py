"""Rows as the audit log tells of them: every field that people set, with secrets masked, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import (
    BackupExecution,
    BackupJob,
    Datasource,
    Repair,
    Restore,
    StorageLocation,
    Verification,
)
from dataguardian.service.audit import Audit, diff, flat
from dataguardian.service.context import Context
from dataguardian.service.safekeeping import document_of, model_of, opened_where_possible, owner_of, shown
from dataguardian.service.vault import Vault

Defined = Datasource | StorageLocation | BackupJob
D = TypeVar("D", Datasource, StorageLocation, BackupJob)

_NAMES: Mapping[type, str] = {
    Datasource: "datasource",
    StorageLocation: "storage_location",
    BackupJob: "backup_job",
    BackupExecution: "execution",
    Restore: "restore",
    Verification: "verification",
    Repair: "repair",
}
_FIELDS: Mapping[type, tuple[str, ...]] = {
    Datasource: ("name", "type", "enabled", "production", "tags"),
    StorageLocation: ("name", "type", "is_default"),
    BackupJob: (
        "name",
        "datasource_id",
        "storage_location_id",
        "schedule_cron",
        "schedule_timezone",
        "enabled",
        "retention_policy",
    ),
}
_DOCUMENTS: Mapping[type, str] = {
    Datasource: "connection_config",
    StorageLocation: "config",
    BackupJob: "backup_options",
}


@dataclass(frozen=True)
class Picture:
    """A document three times: as it may be shown, as it is stored, and in clear, which only tells what differs."""

    shown: Mapping[str, Any]
    stored: Mapping[str, Any]
    plain: Mapping[str, Any]


NOTHING = Picture({}, {}, {})


def picture(row: Defined, vault: Vault) -> Picture:
    """Returns a row as it is now."""
    fields = {name: getattr(row, name) for name in _FIELDS[type(row)]}
    fields = {name: str(value) if name.endswith("_id") and value else value for name, value in fields.items()}
    name, stored = _DOCUMENTS[type(row)], document_of(row)
    return Picture(
        fields | {name: shown(stored, model_of(row))},
        {name: stored},
        {name: opened_where_possible(stored, vault, owner_of(row))},
    )


def differences(before: Picture, after: Picture) -> dict[str, list[Any]]:
    """Returns what differs; a secret that is another one now is told with two masks, one that is the same is not."""
    old, new = (flat(before.stored), flat(before.plain)), (flat(after.stored), flat(after.plain))
    anew = {name for name in new[0] if old[0].get(name) != new[0][name] and old[1].get(name) != new[1].get(name)}
    return diff(before.shown, after.shown, anew=anew)


def of(row: Defined | BackupExecution | Restore | Verification | Repair) -> dict[str, Any]:
    """Returns how a line names a row."""
    return {"entity_type": _NAMES[type(row)], "entity_id": row.id, "entity_name": getattr(row, "name", None)}


class DefinitionLog:
    """Tells the audit log of definitions, in the transaction that changes them. Each returns the row."""

    def __init__(self, context: Context) -> None:
        self._audit = Audit(context)
        self._vault = context.vault

    def seen(self, row: Defined) -> Picture:
        """To be asked before a row is changed."""
        return picture(row, self._vault)

    async def created(self, session: AsyncSession, row: D) -> D:
        return await self._tell(session, "create", row, NOTHING, self.seen(row))

    async def changed(self, session: AsyncSession, before: Picture, row: D) -> D:
        """Tells nothing of a change that changed nothing."""
        after = self.seen(row)
        return await self._tell(session, "update", row, before, after) if differences(before, after) else row

    async def deleted(self, session: AsyncSession, row: D) -> D:
        return await self._tell(session, "delete", row, self.seen(row), NOTHING)

    async def _tell(self, session: AsyncSession, verb: str, row: D, before: Picture, after: Picture) -> D:
        about = of(row)
        action = f"{about['entity_type']}.{verb}"
        await self._audit.record(session, action, **about, changes=differences(before, after))
        return row
