"""The engines of this installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dataguardian.domain.urls import Url
from dataguardian.engines.base import Engine, EngineAdapter, EngineConfig
from dataguardian.registry import Registry

ENGINES = Registry("dataguardian.engines", "engine", EngineAdapter)


def engine_config(url: Url) -> EngineConfig:
    return cast(EngineConfig, ENGINES.config_from_url(url))


def engine_document(document: Mapping[str, Any]) -> EngineConfig:
    """Builds a configuration from its JSON form; raises UsageError."""
    return cast("EngineConfig", ENGINES.config(document))


def build_engine(config: EngineConfig) -> Engine:
    return cast(Engine, ENGINES.build(config))
