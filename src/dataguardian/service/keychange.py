"""Which key a process uses on a catalogue, and how a catalogue gets another one.

The catalogue says which key it is sealed with. A process that has this key uses it. One that has not refuses to start
where that would end in two keys: on a catalogue that others share, and where somebody names another key on purpose. A
home's own catalogue with the home's own key is nobody else's, so it takes the key that is there: that is how a
catalogue which was restored without its key comes back to life.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.scrubbing import others_connected, scrub
from dataguardian.db.session import Database
from dataguardian.domain.errors import ConflictError, UsageError
from dataguardian.service.keycheck import KeyRecord, find_record, first_record, locked_record, put_record
from dataguardian.service.keyring import (
    KEY_FILE,
    NEXT_FILE,
    KeyRing,
    Source,
    create_key_file,
    forget_partials,
    read_keys,
    sync_folder,
)
from dataguardian.service.resealing import change_key, seal_rows
from dataguardian.service.vault import Key, Vault

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rotated:
    """`rows` is how many rows were sealed anew; `key_file` is where the new key lies."""

    old_key_id: str
    new_key_id: str
    rows: int
    key_file: str


Note = Callable[[AsyncSession, Rotated], Awaitable[None]]


class Keys:
    """What may be done with a catalogue's keys. `now` is the time at which it is done."""

    def __init__(self, home: Path, ring: KeyRing, database: Database, now: datetime) -> None:
        self._home = home
        self._ring = ring
        self._database = database
        self._now = now

    async def look(self) -> Vault:
        """Returns a vault for a command that runs beside the service; nothing is changed apart from a first key.

        Raises ConflictError when this process has another key than the catalogue.
        """
        record = await self.record()
        vault = self.vault_of(record)
        if not record.fits(vault) and not self._may_adopt(record):
            raise self._another(record)
        return vault

    async def settle(self) -> Vault:
        """Returns the vault of a process that holds the home, after it made good what an earlier one left undone:
        a rotation that was cut short, secrets in clear, space that is not overwritten. Raises ConflictError as `look`.
        """
        record = await self.record()
        vault = self.vault_of(record)
        if not record.fits(vault):
            if not self._may_adopt(record):
                raise self._another(record)
            await self._take(vault)
            log.warning("the catalogue was sealed with another key", before=record.key_id, now=vault.key_id)
        await asyncio.to_thread(self._settle_files, vault)
        sealed = await seal_rows(self._database, vault, self._now)
        if sealed:
            log.info("secrets that were stored in clear are sealed now", rows=sealed)
        await self._scrub()
        return vault

    async def reset(self) -> Vault:
        """Makes the first key of this process the catalogue's, whatever it was: for a key that is lost."""
        vault = Vault(self._ring.keys)
        await self._take(vault)
        await self._scrub()
        return vault

    async def rotate(self, key_file: Path | None, note: Note) -> Rotated:
        """Seals everything with a new key, in one transaction; the home must be held, and the vault settled.

        The new key lies on the disk before the first row is sealed with it, and the old one is let go of when all is
        committed: killed at any point, the next start has the right one. `note` records it in the same transaction. A
        key that the environment names is somebody else's to change: then `key_file` holds the new one, and is made when
        it is not there. Raises UsageError, ConflictError.
        """
        await self._refuse_others()
        old = self.vault_of(await self.record())
        own = self._ring.source is Source.HOME
        if key_file is None and not own:
            raise UsageError(
                f"the key comes from {self._ring.source}, which this command cannot change",
                hint="name the file of the new key with --new-key-file; it is made when it is not there",
            )
        new = await asyncio.to_thread(self._new_key, key_file, own=own)
        vault = Vault([new, *old.keys])
        async with self._database.write() as session:
            rows = await change_key(session, old, vault, self._now)
            rotated = Rotated(old.key_id, new.id, rows, str(self._home / KEY_FILE if own else key_file))
            await note(session, rotated)
            await self._refuse_others()  # one that started meanwhile would go on with the old key
        await asyncio.to_thread(self._settle_files, vault)
        await self._scrub()
        return rotated

    async def ended(self, key_file: Path | None) -> Rotated | None:
        """Ends a rotation to the key in that file which was cut short after its rows were committed: this process was
        not given the new key yet. Returns None, and changes nothing, where the catalogue has another key.
        """
        if key_file is None or not await asyncio.to_thread(key_file.exists):
            return None
        new, record = (await asyncio.to_thread(read_keys, key_file))[0], await self.record()
        own = self._ring.source is Source.HOME
        if not record.fits(Vault([new])) or (own and new.id not in {key.id for key in self._ring.all}):
            return None
        await asyncio.to_thread(self._settle_files, Vault([new]))
        await asyncio.to_thread(forget_partials, key_file)
        await self._scrub()
        return Rotated(new.id, new.id, 0, str(self._home / KEY_FILE if own else key_file))

    @property
    def source(self) -> Source:
        """Who says which key seals."""
        return self._ring.source

    async def record(self) -> KeyRecord:
        """Returns what the catalogue says of its key, after a first key was written down."""
        async with self._database.read() as session:
            record = await find_record(session)
        if record is None:
            async with self._database.write() as session:
                record = await first_record(session, Vault(self._ring.keys), self._now)
        return record

    def vault_of(self, record: KeyRecord) -> Vault:
        """The home's keys: the one that the catalogue names seals. Else the first one, which somebody chose."""
        keys = self._ring.all
        if self._ring.source is Source.HOME:
            keys = _first(keys, record.key_id)
        return Vault(keys)

    def _may_adopt(self, record: KeyRecord) -> bool:
        """Nobody else uses an embedded catalogue; but a key that was named and opens nothing is more likely a slip."""
        known = record.key_id in {key.id for key in self._ring.all}
        return self._database.is_sqlite and (self._ring.source is Source.HOME or known)

    async def _take(self, vault: Vault) -> None:
        async with self._database.write() as session:
            await change_key(session, vault, vault, self._now)

    def _another(self, record: KeyRecord) -> ConflictError:
        if record.key_id in {key.id for key in self._ring.all}:
            hint = "stop every service and run `dataguardian secrets rotate --new-key-file` with the new key"
        else:
            hint = (
                "give this process that key (docs/secrets.md); only if it is lost for ever:"
                " `dataguardian secrets reset --yes`, and enter the secrets again"
            )
        return ConflictError(
            f"the secrets in this catalogue are sealed with the key {record.key_id},"
            f" and {self._ring.source} has {self._ring.keys[0].id}",
            hint=hint,
            key_id=record.key_id,
        )

    async def _refuse_others(self) -> None:
        others = await others_connected(self._database)
        if others:
            raise ConflictError(
                f"{others} connections of DataGuardian to this catalogue are open", hint="stop every service first"
            )

    def _new_key(self, key_file: Path | None, *, own: bool) -> Key:
        if key_file is not None:
            forget_partials(key_file)
        if key_file is not None and not key_file.exists():
            create_key_file(key_file, Key.generate())
        new = Key.generate() if key_file is None else read_keys(key_file)[0]
        if own:
            put_next(self._home, new)
        return new

    def _settle_files(self, vault: Vault) -> None:
        """Ends a rotation of the home's own key: the new key's file takes the old one's place, or goes."""
        following, own = self._home / NEXT_FILE, self._home / KEY_FILE
        forget_partials(following)
        if self._ring.source is not Source.HOME or not following.exists():
            return
        if read_keys(following)[0].id == vault.key_id:
            replace_key(following, own)
        else:
            following.unlink()
        sync_folder(self._home)

    async def _scrub(self) -> None:
        async with self._database.read() as session:
            record = await find_record(session)
        if record is None or record.scrubbed or not await scrub(self._database):
            return
        async with self._database.write() as session:
            record = await locked_record(session) or record
            await put_record(session, replace(record, scrubbed=True), self._now)


def put_next(home: Path, key: Key) -> None:
    create_key_file(home / NEXT_FILE, key)


def replace_key(following: Path, own: Path) -> None:
    os.replace(following, own)  # noqa: PTH105 -- atomic, and says so


def _first(keys: Sequence[Key], key_id: str) -> list[Key]:
    """Returns the keys with the one of that id in front."""
    return sorted(keys, key=lambda key: key.id != key_id)
