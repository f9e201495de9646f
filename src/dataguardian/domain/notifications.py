"""What the service tells people."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from dataguardian.domain.states import EntityType, NotificationType, Severity

MAX_TITLE = 200
MAX_MESSAGE = 20_000
"""In characters; what is longer is cut, because an alert that is refused for its length is an alert lost."""

_SEVERITIES = list(Severity)


def rank(severity: Severity) -> int:
    """Returns 0 for info, 1 for warning, 2 for critical."""
    return _SEVERITIES.index(severity)


def _printable(value: object) -> object:
    """Replaces lone surrogates, which names of files may hold and neither JSON nor mail can carry."""
    if isinstance(value, str):
        return value.encode("utf-8", errors="replace").decode("utf-8")
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value


def _cut(limit: int) -> BeforeValidator:
    def cut(value: object) -> object:
        text = _printable(value)
        return text[: limit - 1] + "…" if isinstance(text, str) and len(text) > limit else text

    return BeforeValidator(cut)


class Notification(BaseModel):
    """One message. `id` stays the same over retries and channels, so that receivers can drop what they have seen.

    `title` is one line for a subject, `message` is plain text of any number of lines, `metadata` is plain JSON without
    secrets; `entity_id` is None when the whole system is meant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: UUID
    type: NotificationType
    severity: Severity
    entity_type: EntityType
    entity_id: UUID | None = None
    title: Annotated[str, Field(min_length=1), _cut(MAX_TITLE)]
    message: Annotated[str, _cut(MAX_MESSAGE)]
    metadata: Annotated[dict[str, JsonValue], BeforeValidator(_printable)] = Field(default_factory=dict)
    created_at: AwareDatetime


def trial_notification(notification_id: UUID, now: datetime) -> Notification:
    """Returns what a test of a channel sends."""
    return Notification(
        id=notification_id,
        type=NotificationType.TEST,
        severity=Severity.INFO,
        entity_type=EntityType.SYSTEM,
        title="Test message from DataGuardian",
        message="Somebody tests this channel. If you read this, its messages arrive.",
        created_at=now,
    )
