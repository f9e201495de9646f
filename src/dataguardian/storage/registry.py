"""The storages of this installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dataguardian.domain.urls import Url
from dataguardian.registry import Registry
from dataguardian.storage.base import Storage, StorageAdapter, StorageConfig

STORAGES = Registry("dataguardian.storage", "storage", StorageAdapter)


def storage_config(url: Url) -> StorageConfig:
    return cast(StorageConfig, STORAGES.config_from_url(url))


def storage_document(document: Mapping[str, Any]) -> StorageConfig:
    """Builds a configuration from its JSON form; raises UsageError."""
    return cast("StorageConfig", STORAGES.config(document))


def build_storage(config: StorageConfig) -> Storage:
    storage = cast(Storage, STORAGES.build(config))
    storage.bandwidth_limit_mbps = config.bandwidth_limit_mbps
    return storage
