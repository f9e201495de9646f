"""Which channels a notification goes to: a pure rule over the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Generic, Self, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dataguardian.domain.cron import load_zone
from dataguardian.domain.errors import UsageError
from dataguardian.domain.notifications import Notification, rank
from dataguardian.domain.states import NotificationType, Severity

ChannelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$")]
Config = TypeVar("Config", bound=BaseModel)


def _known_zone(name: str) -> str:
    try:
        load_zone(name)  # from a list of names: ZoneInfo itself makes of some an import of a thousand packages
    except UsageError:
        raise ValueError(f"{name[:100]!r} is not an IANA time zone, such as Europe/Lisbon") from None
    return name


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Route(_Settings):
    """Sends what fits all of its conditions to its channels; None means any. No channels means: to nobody."""

    types: tuple[NotificationType, ...] | None = None
    min_severity: Severity = Severity.INFO
    entity_ids: tuple[UUID, ...] | None = None
    channels: tuple[ChannelName, ...]

    def takes(self, notification: Notification) -> bool:
        return (
            (self.types is None or notification.type in self.types)
            and rank(notification.severity) >= rank(self.min_severity)
            and (self.entity_ids is None or notification.entity_id in self.entity_ids)
        )


class DigestSettings(_Settings):
    """A daily summary at `hour` of the clock in `time_zone` (IANA) to `channels`, whatever the routes say."""

    hour: Annotated[int, Field(ge=0, le=23)] = 8
    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    channels: Annotated[tuple[ChannelName, ...], Field(min_length=1)]

    @property
    def cron(self) -> str:
        """The hour as a cron line in `time_zone`, so that the scheduler's rules for days of clock changes hold."""
        return f"0 {self.hour} * * *"


class NotificationSettings(_Settings, Generic[Config]):
    """The channels by name, and what goes where. `Config` is the union of the notifiers' configurations."""

    channels: dict[ChannelName, Config] = Field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    digest: DigestSettings | None = None

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        named = [name for route in self.routes for name in route.channels]
        named += self.digest.channels if self.digest else ()
        unknown = sorted(set(named) - set(self.channels))
        if unknown:
            raise ValueError(f"there is no channel {unknown[0]!r}; known: {', '.join(self.channels) or 'none'}")
        return self


def channels_for(notification: Notification, settings: NotificationSettings[Config]) -> list[str]:
    """Returns the channels of every route that takes the notification, each once, in the routes' order.

    What no route takes goes the default way: warning and critical to every channel, so that a forgotten type is heard
    of rather than lost; a route without channels silences one.
    """
    default = Route(min_severity=Severity.WARNING, channels=tuple(settings.channels))
    taking = [route for route in settings.routes if route.takes(notification)]
    if not taking and default.takes(notification):
        taking = [default]
    return _once(name for route in taking for name in route.channels)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
