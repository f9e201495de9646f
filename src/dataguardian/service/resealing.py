"""Every secret of a catalogue: found in clear and sealed, sealed anew with another key, or told that it is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import User
from dataguardian.db.models import BackupJob, Datasource, StorageLocation, SystemSetting
from dataguardian.db.repositories.accounts import UserRepository
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.db.session import Database
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import SecretUnreadableError
from dataguardian.domain.secretfields import UNKNOWN
from dataguardian.service.access.users import totp_purpose
from dataguardian.service.keycheck import SETTING as RECORD
from dataguardian.service.keycheck import KeyRecord, find_record, first_record, locked_record, put_record
from dataguardian.service.safekeeping import (
    document_of,
    model_of,
    owner_of,
    put_document,
    reseal,
    seal_clear,
    setting_owner,
    unreadable_in,
)
from dataguardian.service.systemsettings import DEFINITIONS
from dataguardian.service.vault import Vault

BATCH_ROWS = 100
_REPOSITORIES = (DatasourceRepository, StorageRepository, JobRepository, SettingRepository, UserRepository)
_NOUNS = {
    Datasource: "datasource",
    StorageLocation: "storage location",
    BackupJob: "backup job",
    SystemSetting: "setting",
    User: "user",
}
_TOTP = "second factor"

Holder = Datasource | StorageLocation | BackupJob | SystemSetting | User


@dataclass(frozen=True)
class LostSecret:
    """A secret that cannot be opened. `thing` is a noun such as "datasource", `field` a dotted path, `key_id` that of
    the key that opens it; empty when the text itself is damaged.
    """

    thing: str
    name: str
    field: str
    key_id: str


async def seal_rows(database: Database, vault: Vault, now: datetime) -> int:
    """Seals what lies in rows in clear, a transaction per batch; returns how many rows had some. Safe at any time.

    A change also notes that older backups of the catalogue hold secrets in clear, and that the space which they took
    is not overwritten yet. Of an adapter that is not installed every text is sealed, but only the first time:
    afterwards all that was written is sealed already.
    """
    async with database.read() as session:
        found = await find_record(session)
    walked = found is not None and found.walked
    count = 0
    for repository in _REPOSITORIES:
        async with database.read() as session:
            clear = [row.id async for row in _rows(session, repository) if _has_clear(row, vault, walked=walked)]
        for start in range(0, len(clear), BATCH_ROWS):
            async with database.write() as session:
                record = await locked_record(session) or await first_record(session, vault, now)
                await put_record(session, replace(record, exposed_before=to_iso(now), scrubbed=False), now)
                for row_id in clear[start : start + BATCH_ROWS]:
                    row = await repository(session).find_locked(row_id)
                    if row is not None:
                        _change(row, lambda document, model, owner: seal_clear(model, document, vault, owner))
                        count += 1
    if not walked:
        async with database.write() as session:
            record = await locked_record(session) or await first_record(session, vault, now)
            await put_record(session, replace(record, walked=True), now)
    return count


async def change_key(session: AsyncSession, old: Vault, new: Vault, now: datetime) -> int:
    """Seals everything that `old` opens with the key of `new`, in the caller's transaction; returns how many rows
    changed. What `old` cannot open stays as it is.
    """
    record = await locked_record(session) or KeyRecord("", "")
    await put_record(session, replace(record.with_key(new, now), scrubbed=False), now)
    count = 0
    for repository in _REPOSITORIES:
        async for row in _rows(session, repository, locked=True):
            if isinstance(row, User):
                count += _reseal_user(row, old, new)
            else:
                count += _change(row, lambda document, _, owner: reseal(document, old, new, owner))
    return count


async def lost_secrets(session: AsyncSession, vault: Vault) -> list[LostSecret]:
    """Returns what cannot be opened."""
    return [lost async for row in _all_rows(session) for lost in _lost(row, vault)]


async def keys_in_use(session: AsyncSession) -> dict[str, int]:
    """Returns how many secrets are sealed with each key, by key id."""
    everything = await lost_secrets(session, Vault([]))  # opens nothing
    return dict(Counter(lost.key_id for lost in everything))


async def _all_rows(session: AsyncSession) -> AsyncIterator[Holder]:
    for repository in _REPOSITORIES:
        async for row in _rows(session, repository):
            yield row


async def _rows(
    session: AsyncSession, repository: Callable[[AsyncSession], Any], *, locked: bool = False
) -> AsyncIterator[Any]:
    """Yields a table's rows in the order of their ids, a batch at a time."""
    after = None
    while batch := await repository(session).batch(after, BATCH_ROWS, locked=locked):
        for row in batch:
            yield row
        after = batch[-1].id


def _change(row: Holder, change: Callable[[dict[str, Any], Any, str], dict[str, Any]]) -> bool:
    """Replaces a row's document by what `change` makes of it, its type and its owner; returns whether it is another."""
    if isinstance(row, User):
        return False
    document, model, owner = _described(row)
    changed = change(document, model, owner)
    if changed == document:
        return False
    if isinstance(row, SystemSetting):
        row.value = changed
    else:
        put_document(row, changed)
    return True


def _has_clear(row: Holder, vault: Vault, *, walked: bool) -> bool:
    if isinstance(row, User) or (isinstance(row, SystemSetting) and row.key not in DEFINITIONS):
        return False  # was never stored in clear; is bookkeeping
    document, model, owner = _described(row)
    if walked and model is UNKNOWN:
        return False
    return seal_clear(model, document, vault, owner) != document


def _described(row: Datasource | StorageLocation | BackupJob | SystemSetting) -> tuple[dict[str, Any], Any, str]:
    """Returns a row's document, its type and whom its secrets belong to."""
    if not isinstance(row, SystemSetting):
        return document_of(row), model_of(row), owner_of(row)
    definition = DEFINITIONS.get(row.key)
    return row.value, definition.model() if definition else None, setting_owner(row.key)


def _lost(row: Holder, vault: Vault) -> list[LostSecret]:
    if isinstance(row, User):
        found = _lost_totp(row, vault)
    else:
        document, _, owner = _described(row)
        found = {} if isinstance(row, SystemSetting) and row.key == RECORD else unreadable_in(document, vault, owner)
    name = row.key if isinstance(row, SystemSetting) else row.name
    return [LostSecret(_NOUNS[type(row)], name, field, key_id) for field, key_id in found.items()]


def _lost_totp(row: User, vault: Vault) -> dict[str, str]:
    if row.totp_secret is None:
        return {}
    try:
        vault.open(row.totp_secret, purpose=totp_purpose(row.id))
    except SecretUnreadableError as error:
        return {_TOTP: str(error.details.get("key_id", ""))}
    return {}


def _reseal_user(row: User, old: Vault, new: Vault) -> bool:
    if row.totp_secret is None or _lost_totp(row, old):
        return False
    purpose = totp_purpose(row.id)
    row.totp_secret = new.seal(old.open(row.totp_secret, purpose=purpose), purpose=purpose)
    return True
