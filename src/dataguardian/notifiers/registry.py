"""The notifiers of this installation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from dataguardian.domain.routing import NotificationSettings
from dataguardian.domain.urls import Url
from dataguardian.notifiers.base import Notifier, NotifierAdapter, NotifierConfig
from dataguardian.registry import Registry, union_type

NOTIFIERS = Registry("dataguardian.notifiers", "notifier", NotifierAdapter)


def notifier_config(url: Url) -> NotifierConfig:
    return cast(NotifierConfig, NOTIFIERS.config_from_url(url))


def channel_config(document: Mapping[str, Any]) -> NotifierConfig:
    """Builds a channel's configuration from its JSON form; raises UsageError that repeats no value."""
    return cast(NotifierConfig, NOTIFIERS.config(document))


def build_notifier(config: NotifierConfig) -> Notifier:
    """Raises MissingToolError when the notifier's optional package is not installed."""
    return cast(Notifier, NOTIFIERS.build(config))


@cache
def settings_type() -> type[NotificationSettings[NotifierConfig]]:
    """Returns the model of the setting `notifications`, its channels being those that this installation knows."""
    settings = NotificationSettings.__class_getitem__(union_type(NOTIFIERS))
    return cast(type[NotificationSettings[NotifierConfig]], settings)
