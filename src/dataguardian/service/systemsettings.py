"""The settings that people may change while the service runs. What else lies in `system_settings` is bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from dataguardian.core.backupkeys import BackupKeys
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.cron import parse_schedule
from dataguardian.domain.errors import NotFoundError, UsageError
from dataguardian.notifiers.registry import settings_type
from dataguardian.service.audit import Audit
from dataguardian.service.cleanup import PRUNING_SETTING as PRUNING
from dataguardian.service.cleanup import SETTING as CLEANUP
from dataguardian.service.context import Context
from dataguardian.service.decryption import SETTING as DECRYPTION
from dataguardian.service.events import SETTING as NOTIFICATIONS
from dataguardian.service.guards import CleanupSettings
from dataguardian.service.kit.settings import SETTING as RECOVERY
from dataguardian.service.kit.settings import RecoverySettings
from dataguardian.service.pictures import Picture, differences
from dataguardian.service.pruning import PruningSettings
from dataguardian.service.safekeeping import opened_where_possible, sealed, setting_owner, shown, whole
from dataguardian.service.sampling import SETTING as SCRUB
from dataguardian.service.sampling import ScrubSettings
from dataguardian.service.secrets import keep_masked, masked
from dataguardian.service.vault import Vault


@dataclass(frozen=True)
class Definition:
    """A setting: the type of its value, made when it is asked for, and what it is for."""

    model: Callable[[], type[BaseModel]]
    description: str
    check: Callable[[Any], object] = bool
    """Raises UsageError for what the type alone cannot know."""


@dataclass(frozen=True)
class Setting:
    """A setting as it may be shown: secrets masked, defaults filled in. `updated_at` is None when it was never set."""

    key: str
    value: dict[str, Any]
    description: str
    updated_at: datetime | None


def _check_cron(settings: CleanupSettings) -> None:
    parse_schedule(settings.cron, "UTC")


DEFINITIONS: Mapping[str, Definition] = {
    NOTIFICATIONS: Definition(settings_type, "Channels, and which notifications go to which of them; a daily digest"),
    CLEANUP: Definition(lambda: CleanupSettings, "When backups are cleaned up, and what one pass may do", _check_cron),
    SCRUB: Definition(lambda: ScrubSettings, "How many stored backups are verified every week, and when"),
    DECRYPTION: Definition(lambda: BackupKeys, "Keys that open encrypted backups for restores and deep verification"),
    RECOVERY: Definition(lambda: RecoverySettings, "After how many days somebody is reminded to prove a key"),
    PRUNING: Definition(lambda: PruningSettings, "For how many days rows are kept that nobody needs for long"),
}


class SystemSettings:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._audit = Audit(context)

    async def all(self) -> list[Setting]:
        return [await self.get(key) for key in DEFINITIONS]

    async def get(self, key: str) -> Setting:
        """Raises NotFoundError."""
        definition = setting_definition(key)
        async with self._context.db.read() as session:
            row = await SettingRepository(session).by_key(key)
        return _shown(key, definition, row.value if row else {}, row.updated_at if row else None)

    async def change(self, key: str, sent: Mapping[str, Any]) -> Setting:
        """Changes those keys that are sent: null removes one, a mask keeps the secret that is stored.

        Raises NotFoundError, UsageError that names what is wrong, or SecretUnreadableError for a secret that cannot be
        opened and was neither replaced nor removed.
        """
        definition, now = setting_definition(key), self._context.clock.now()
        async with self._context.db.write() as session:
            settings = SettingRepository(session)
            owner, vault = setting_owner(key), self._context.vault
            there = await settings.value(key) or {}
            before = _picture(key, definition, there, vault)
            stored = opened_where_possible(there, vault, owner)
            merged = {**stored, **keep_masked(sent, stored)}
            merged = {name: value for name, value in merged.items() if value is not None}
            value = await sealed(session, checked_setting(definition, whole(merged)), vault, owner)
            await settings.put(key, value, definition.description, now)
            changes = differences(before, _picture(key, definition, value, vault))
            if changes:
                await self._audit.record(session, "setting.update", "setting", entity_name=key, changes=changes)
        return _shown(key, definition, value, now)


def setting_definition(key: str) -> Definition:
    if key not in DEFINITIONS:
        raise NotFoundError(f"there is no setting {key!r}", hint=f"there are: {', '.join(DEFINITIONS)}")
    return DEFINITIONS[key]


def checked_setting(definition: Definition, document: Mapping[str, Any]) -> BaseModel:
    """Returns a setting's value with its defaults; raises UsageError that names what is wrong."""
    try:
        value = definition.model().model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"this setting is not valid: {wrong}") from None
    definition.check(value)
    return value


def _shown(key: str, definition: Definition, stored: Mapping[str, Any], updated_at: datetime | None) -> Setting:
    return Setting(key, _shown_value(definition, stored), definition.description, updated_at)


def _shown_value(definition: Definition, stored: Mapping[str, Any]) -> dict[str, Any]:
    model = definition.model()
    return {**masked(model()), **shown(stored, model)}


def _picture(key: str, definition: Definition, stored: Mapping[str, Any], vault: Vault) -> Picture:
    clear = opened_where_possible(stored, vault, setting_owner(key))
    return Picture(_shown_value(definition, stored), stored, clear)
