"""No storage without the suite."""

from __future__ import annotations

import importlib
import pkgutil

import tests.storage
from dataguardian.storage.registry import STORAGES
from tests.storage.conformance import StorageConformance


def test_every_registered_storage_is_held_to_the_contract() -> None:
    """A new file in `storage/` needs a fixture for the conformance suite, and a fixture needs its storage."""
    for module in pkgutil.iter_modules(tests.storage.__path__):
        if module.name.startswith("test_"):
            importlib.import_module(f"tests.storage.{module.name}")
    assert sorted(suite.type for suite in StorageConformance.__subclasses__()) == sorted(STORAGES.adapters)
