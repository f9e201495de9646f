"""What people must be told about the secrets in the catalogue: which cannot be opened, and which of its backups still
hold secrets in clear, because they were taken before secrets were sealed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.catalog import list_backups, load_manifest
from dataguardian.db.models import BackupExecution, StorageLocation
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import DataGuardianError, ObjectMissingError
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.domain.urls import parse_url
from dataguardian.engines.registry import engine_config, engine_document
from dataguardian.service.acting import current_actor
from dataguardian.service.context import Context
from dataguardian.service.events import Events
from dataguardian.service.keycheck import find_record
from dataguardian.service.removal import open_storage
from dataguardian.service.resealing import LostSecret, lost_secrets
from dataguardian.service.safekeeping import opened_config
from dataguardian.service.selfguard import SETTING as SELFGUARD
from dataguardian.service.vault import Vault
from dataguardian.settings import Settings

SETTING = "secret_notices"
SHOWN = 20
_DESCRIPTION = "What people were told about secrets, and backups of the catalogue that no execution knows"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExposedBackup:
    """A backup of this catalogue with secrets in clear. `execution_id` is None for one that no execution knows."""

    storage: str
    path: str
    started_at: str
    execution_id: str | None = None


@dataclass(frozen=True)
class Report:
    key_id: str
    lost: Sequence[LostSecret]
    exposed_backups: Sequence[ExposedBackup]


@dataclass(frozen=True)
class _Notices:
    """`*_told` say what the newest message was about; `scanned` for which moment the storages were searched."""

    exposed_told: str = ""
    lost_told: str = ""
    scanned: str = ""
    unknown: Sequence[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, document: dict[str, Any] | None) -> _Notices:
        return cls(**(document or {}))


async def exposed_backups(session: AsyncSession, settings: Settings, vault: Vault) -> list[ExposedBackup]:
    """Returns the backups of this catalogue that hold secrets in clear, oldest first."""
    record = await find_record(session)
    if record is None or record.exposed_before is None:
        return []
    names = {row.id: row.name for row in await StorageRepository(session).all()}
    own = await _own_datasources(session, settings, vault)
    rows = await ExecutionRepository(session).stored_before(list(own), datetime.fromisoformat(record.exposed_before))
    known = [_exposed(row, names) for row in rows]
    notices = _Notices.of(await SettingRepository(session).value(SETTING))
    unknown = [ExposedBackup(**entry) for entry in notices.unknown]
    return sorted([*known, *unknown], key=lambda backup: backup.started_at)


class Exposure:
    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events

    async def lost(self) -> list[LostSecret]:
        """Returns the secrets that cannot be opened."""
        async with self._context.db.read() as session:
            return await lost_secrets(session, self._context.vault)

    async def exposed(self) -> list[ExposedBackup]:
        async with self._context.db.read() as session:
            return await exposed_backups(session, self._context.settings, self._context.vault)

    async def report(self) -> Report:
        """Returns how things stand; whoever may see some datasources only is not told what lies elsewhere."""
        if current_actor().datasources is not None:
            return Report(self._context.vault.key_id, [], [])
        return Report(self._context.vault.key_id, await self.lost(), await self.exposed())

    async def tell(self) -> None:
        """Looks, and notifies once of each state of things that people must do something about."""
        await self._search()
        lost, exposed = await self.lost(), await self.exposed()
        async with self._context.db.write() as session:
            settings = SettingRepository(session)
            before = _Notices.of(await settings.locked_value(SETTING))
            record = await find_record(session)
            now_exposed = (record.exposed_before or "") if record and exposed else ""
            now = replace(before, exposed_told=now_exposed, lost_told=_digest(lost))
            if now == before:
                return
            pending = []
            if now.exposed_told not in ("", before.exposed_told):
                pending += await self._alarm(session, *_about_exposed(exposed))
            if now.lost_told not in ("", before.lost_told):
                pending += await self._alarm(session, *_about_lost(lost))
            await settings.put(SETTING, asdict(now), _DESCRIPTION, self._context.clock.now())
        await self._events.dispatch(pending)

    async def _alarm(self, session: AsyncSession, title: str, message: str, metadata: dict[str, Any]) -> list[Any]:
        return await self._events.emit(
            session,
            type=NotificationType.SYSTEM_ALARM,
            severity=Severity.CRITICAL,
            entity_type=EntityType.SYSTEM,
            entity_id=None,
            title=title,
            message=message,
            metadata=metadata,
        )

    async def _search(self) -> None:
        """Finds backups of this catalogue that no execution knows, by their manifests; afterwards, which still lie
        there. A storage that does not answer is searched the next time.
        """
        async with self._context.db.read() as session:
            record = await find_record(session)
            notices = _Notices.of(await SettingRepository(session).value(SETTING))
            locations = await StorageRepository(session).all()
            own = await _own_datasources(session, self._context.settings, self._context.vault)
        before = (record.exposed_before or "") if record else ""
        if not before or (notices.scanned == before and not notices.unknown):
            return
        if notices.scanned == before:
            unknown = [entry for entry in notices.unknown if await self._still_there(entry, locations)]
            complete = True
        else:
            unknown, complete = await self._scan(locations, set(own.values()), before)
        async with self._context.db.write() as session:
            settings = SettingRepository(session)
            current = _Notices.of(await settings.locked_value(SETTING))
            changed = replace(current, unknown=unknown, scanned=before if complete else current.scanned)
            if changed != current:
                await settings.put(SETTING, asdict(changed), _DESCRIPTION, self._context.clock.now())

    async def _scan(
        self, locations: Iterable[StorageLocation], sources: set[str], before: str
    ) -> tuple[list[dict[str, Any]], bool]:
        found, complete = [], True
        for location in locations:
            try:
                storage = open_storage(location, self._context.vault)
                listing = await asyncio.to_thread(list_backups, storage)
            except DataGuardianError as error:
                log.warning("a storage was not searched for old backups of the catalogue", reason=error.message)
                complete = False
                continue
            for path, manifest in listing.backups:
                if manifest.source in sources and _same_form(manifest.started_at) < before:
                    found.append(ExposedBackup(location.name, path, _same_form(manifest.started_at)))
        async with self._context.db.read() as session:
            known = await ExecutionRepository(session).known_paths([backup.path for backup in found])
        return [asdict(backup) for backup in found if backup.path not in known], complete

    async def _still_there(self, entry: dict[str, Any], locations: Iterable[StorageLocation]) -> bool:
        for location in locations:
            if location.name == entry["storage"]:
                try:
                    storage = open_storage(location, self._context.vault)
                    await asyncio.to_thread(load_manifest, storage, entry["path"])
                except ObjectMissingError:
                    return False
                except DataGuardianError:
                    return True  # not known: it is told of until it is
                return True
        return False


async def _own_datasources(session: AsyncSession, settings: Settings, vault: Vault) -> dict[uuid.UUID, str]:
    """Returns the datasources that are this catalogue, by id, each with its address as manifests have it."""
    if settings.database_url is None:
        own = engine_document({"type": "sqlite", "file_path": str(settings.catalogue_path)}).describe()
    else:
        own = engine_config(parse_url(settings.catalogue_url)).describe()
    found: dict[uuid.UUID, str] = {}
    for row in await DatasourceRepository(session).all():
        try:
            address = engine_document(opened_config(row, vault)).describe()
        except DataGuardianError:
            continue
        if address == own:
            found[row.id] = address
    guarded = (await SettingRepository(session).value(SELFGUARD) or {}).get("datasource_id")
    return {**({uuid.UUID(guarded): own} if guarded else {}), **found}


def _exposed(row: BackupExecution, names: Mapping[uuid.UUID, str]) -> ExposedBackup:
    started = to_iso(row.started_at or row.created_at)
    storage = names.get(row.storage_location_id, "") if row.storage_location_id else ""
    return ExposedBackup(storage, row.backup_path or "", started, str(row.id))


def _same_form(moment: str) -> str:
    return to_iso(datetime.fromisoformat(moment))


def _digest(lost: Sequence[LostSecret]) -> str:
    return hashlib.sha256(json.dumps([asdict(entry) for entry in lost]).encode()).hexdigest() if lost else ""


def _about_exposed(exposed: Sequence[ExposedBackup]) -> tuple[str, str, dict[str, Any]]:
    listed = "\n".join(f"  {backup.started_at}  {backup.storage}: {backup.path}" for backup in exposed[:SHOWN])
    more = f"\n  and {len(exposed) - SHOWN} more" if len(exposed) > SHOWN else ""
    message = (
        "Secrets in the catalogue are sealed now. Backups of it that were taken before hold passwords and keys in"
        f" clear, for everybody who can read the storage:\n{listed}{more}\n"
        "Back up the catalogue once more, then delete these (`dataguardian execution delete ID`; what no execution"
        " knows, in the storage itself), and change the passwords if others could read them. `dataguardian status`"
        " lists them until they are gone."
    )
    return f"{len(exposed)} backups of the catalogue hold secrets in clear", message, {"backups": len(exposed)}


def _about_lost(lost: Sequence[LostSecret]) -> tuple[str, str, dict[str, Any]]:
    listed = "\n".join(f"  {entry.thing} {entry.name}: {entry.field}" for entry in lost[:SHOWN])
    more = f"\n  and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    keys = sorted({entry.key_id for entry in lost if entry.key_id})
    message = (
        f"These were sealed with a key that is not here ({', '.join(keys) or 'or are damaged'}):\n{listed}{more}\n"
        "Put the key back, as a further line of the key file, and restart; or enter these secrets again."
        " Everything else works."
    )
    return f"{len(lost)} stored secrets cannot be opened", message, {"secrets": len(lost)}
