"""The secrets of a home, for commands on the machine that holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.bootstrap.console import check_home, somebody_here
from dataguardian.bootstrap.keys import open_keys
from dataguardian.db import migrate
from dataguardian.db.scrubbing import CONSOLE
from dataguardian.db.session import Database
from dataguardian.domain.clock import SystemClock
from dataguardian.service.audit import record
from dataguardian.service.exposure import ExposedBackup, exposed_backups
from dataguardian.service.home import Home
from dataguardian.service.keychange import Rotated
from dataguardian.service.keycheck import find_record
from dataguardian.service.resealing import LostSecret, keys_in_use, lost_secrets
from dataguardian.settings import Settings


@dataclass(frozen=True)
class State:
    """`key_id` is the key of the catalogue, `own_key_id` that of this command; `sealed` counts secrets by key id."""

    key_id: str
    own_key_id: str
    source: str
    sealed: dict[str, int]
    lost: Sequence[LostSecret]
    exposed: Sequence[ExposedBackup]


async def secrets_state(settings: Settings) -> State:
    """Looks beside a service that runs, or without one; changes nothing but a catalogue that is not there yet."""
    async with _database(settings) as database:
        keys = await open_keys(settings, database)
        vault = keys.vault_of(await keys.record())
        async with database.read() as session:
            found = await find_record(session)
            return State(
                found.key_id if found else vault.key_id,
                vault.key_id,
                str(keys.source),
                await keys_in_use(session),
                await lost_secrets(session, vault),
                await exposed_backups(session, settings, vault),
            )


async def rotate_secrets(settings: Settings, key_file: Path | None) -> Rotated:
    """Seals everything with a new key, or ends a rotation to it that was cut short.

    Raises ConflictError while a service runs on the home, and as Keys.rotate.
    """
    async with _held(settings) as database:
        keys = await open_keys(settings, database)
        if ended := await keys.ended(key_file):
            return ended
        await keys.settle()

        async def note(session: AsyncSession, rotated: Rotated) -> None:
            changes = {"key_id": [rotated.old_key_id, rotated.new_key_id]}
            await record(session, SystemClock(), "secrets.rotate", changes=changes, actor=somebody_here())

        return await keys.rotate(key_file, note)


async def reset_secrets(settings: Settings) -> str:
    """Makes this home's key the catalogue's, for a key that is lost; returns its id."""
    async with _held(settings) as database:
        keys = await open_keys(settings, database)
        changes = {"key_id": [(await keys.record()).key_id, None]}
        async with database.write() as session:  # told before it is done: neither a crash nor a defect hides it
            await record(session, SystemClock(), "secrets.reset", changes=changes, actor=somebody_here())
        return (await keys.reset()).key_id


@asynccontextmanager
async def _held(settings: Settings) -> AsyncIterator[Database]:
    check_home(settings.home)
    with Home(settings.home):
        async with _database(settings) as database:
            yield database


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    """The catalogue, whose connections bear this command's name, so that it can tell the others'."""
    check_home(settings.home)
    url = settings.catalogue_url
    await asyncio.to_thread(migrate.upgrade, url)
    database = Database(url if settings.database_url is None else _named(url))
    try:
        yield database
    finally:
        await database.close()


def _named(url: str) -> str:
    if url.startswith("sqlite"):
        return url
    return f"{url}{'&' if '?' in url else '?'}application_name={CONSOLE}"
