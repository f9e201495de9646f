"""Bodies of /api/notifications."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal, Self

from pydantic import Field

from dataguardian.api.schemas.common import JsonObject, Moment, Output, shown
from dataguardian.db.models import NotificationRow
from dataguardian.domain.states import EntityType, NotificationType, Severity


class NotificationOut(Output):
    id: uuid.UUID
    type: NotificationType
    severity: Severity
    entity_type: EntityType
    entity_id: Annotated[uuid.UUID | None, Field(description="null: the whole system")]
    title: str
    message: str
    metadata: JsonObject
    read_at: Moment | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, row: NotificationRow) -> Self:
        return shown(cls, row)


class MarkedOut(Output):
    marked: Annotated[int, Field(ge=0, description="How many were unread")]


class SendOut(Output):
    """What became of a test message. That a channel refuses it is an outcome, not an error of this call."""

    status: Literal["sent", "failed"]
    error: Annotated[str | None, Field(description="A stable word, such as notifier_rejected")]
    message: str
