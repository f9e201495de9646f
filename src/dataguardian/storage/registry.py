"""The storages of this installation."""

from __future__ import annotations

from typing import cast

from dataguardian.domain.urls import Url
from dataguardian.registry import Registry
from dataguardian.storage.base import Storage, StorageAdapter, StorageConfig

STORAGES = Registry("dataguardian.storage", "storage", StorageAdapter)


def storage_config(url: Url) -> StorageConfig:
    return cast(StorageConfig, STORAGES.config_from_url(url))


def build_storage(config: StorageConfig) -> Storage:
    return cast(Storage, STORAGES.build(config))
