"""The vault of a process: the keys that it was given, and the one of them that the catalogue is sealed with."""

from __future__ import annotations

import asyncio

from dataguardian.db.session import Database
from dataguardian.domain.clock import SystemClock
from dataguardian.service.keychange import Keys
from dataguardian.service.keyring import load_ring
from dataguardian.service.vault import Vault
from dataguardian.settings import Settings


async def open_keys(settings: Settings, database: Database) -> Keys:
    """Returns the keys of a catalogue, which is migrated. Raises UsageError or NotAllowedError for one that is none."""
    ring = await asyncio.to_thread(load_ring, settings)
    return Keys(settings.home, ring, database, SystemClock().now())


async def open_vault(settings: Settings, database: Database, *, holds_home: bool = False) -> Vault:
    """Returns the vault of a catalogue, which is migrated; whoever holds the home also makes good what was left undone.

    Raises UsageError for a key that is none, ConflictError for one that is not the catalogue's.
    """
    keys = await open_keys(settings, database)
    return await keys.settle() if holds_home else await keys.look()
