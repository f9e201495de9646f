"""No storage without the suite."""

from __future__ import annotations

from dataguardian.storage.registry import STORAGES
from tests.storage.peers import peers_by_type


def test_every_registered_storage_is_held_to_the_contract() -> None:
    """A new file in `storage/` needs a `fixture_<type>.py` with a real peer, and a fixture needs its storage."""
    peers = peers_by_type()
    assert sorted(peers) == sorted(STORAGES.adapters)
    assert all(peers.values())
