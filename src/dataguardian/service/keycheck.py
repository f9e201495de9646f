"""Which key a catalogue is sealed with: written down in it, so that no two processes ever seal with two keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import ConflictError, SecretUnreadableError
from dataguardian.service.vault import Vault

SETTING = "secret_key"
_CHECKED = "dataguardian"
_DESCRIPTION = "Which key the secrets in this catalogue are sealed with"


@dataclass(frozen=True)
class KeyRecord:
    """What the catalogue says about its key. `check` is a known text, sealed with it.

    `exposed_before` is when secrets were last found in clear and sealed: backups of the catalogue that are older hold
    them in clear. `since` is when this key took the place of `former_key_id`: what was backed up before opens with that
    one only. `scrubbed` is False until the space that they took was overwritten. `walked` is True once all rows
    were looked at that a release may have written which sealed nothing.
    """

    key_id: str
    check: str
    exposed_before: str | None = None
    scrubbed: bool = True
    walked: bool = False
    former_key_id: str | None = None
    since: str | None = None

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})

    def fits(self, vault: Vault) -> bool:
        """Whether the vault's own key is the catalogue's."""
        try:
            return self.key_id == vault.key_id and vault.open(self.check, purpose=SETTING) == _CHECKED
        except SecretUnreadableError:
            return False

    def with_key(self, vault: Vault, now: datetime) -> KeyRecord:
        record = replace(self, key_id=vault.key_id, check=vault.seal(_CHECKED, purpose=SETTING))
        if self.key_id in ("", vault.key_id):
            return record
        return replace(record, former_key_id=self.key_id, since=to_iso(now))

    def is_later_than(self, moment: datetime) -> bool:
        """Whether a backup of the catalogue that began then holds secrets which this key does not open."""
        return self.since is not None and moment < datetime.fromisoformat(self.since)


async def find_record(session: AsyncSession) -> KeyRecord | None:
    document = await SettingRepository(session).value(SETTING)
    return KeyRecord.of(document) if document else None


async def first_record(session: AsyncSession, vault: Vault, now: datetime) -> KeyRecord:
    """Returns what the catalogue says, after writing the vault's key into one that says nothing. Of two processes that
    are the first at once, one writes and both read the same.
    """
    fresh = KeyRecord(vault.key_id, vault.seal(_CHECKED, purpose=SETTING))
    return KeyRecord.of(await SettingRepository(session).put_first(SETTING, asdict(fresh), _DESCRIPTION, now))


async def locked_record(session: AsyncSession) -> KeyRecord | None:
    """Like `find_record`, and nobody seals or changes it before this transaction ends."""
    document = await SettingRepository(session).locked_value(SETTING)
    return KeyRecord.of(document) if document else None


async def put_record(session: AsyncSession, record: KeyRecord, now: datetime) -> None:
    await SettingRepository(session).put(SETTING, asdict(record), _DESCRIPTION, now)


async def fence(session: AsyncSession, vault: Vault) -> None:
    """Makes sure that the catalogue's key stays this vault's until the transaction ends; raises ConflictError."""
    document = await SettingRepository(session).locked_value(SETTING, shared=True)
    if document is not None and document["key_id"] != vault.key_id:
        raise ConflictError(
            f"the secret key was changed to {document['key_id']} while this process runs with {vault.key_id}",
            hint="stop it, and start it again with the new key",
        )
