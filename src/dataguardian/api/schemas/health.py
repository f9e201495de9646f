"""Bodies of /api/health and of the test calls."""

from __future__ import annotations

import uuid
from typing import Annotated, Self

from pydantic import Field

from dataguardian.api.schemas.common import JsonObject, Moment, Output, shown
from dataguardian.db.models import HealthCheck
from dataguardian.domain.states import CheckStatus


class CheckOut(Output):
    """A check of a datasource or of a storage location: exactly one of the two ids is set."""

    id: uuid.UUID
    datasource_id: uuid.UUID | None
    storage_location_id: uuid.UUID | None
    checked_at: Moment
    status: CheckStatus
    latency_ms: float | None
    error_message: str | None
    metadata: JsonObject
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, row: HealthCheck) -> Self:
        return shown(cls, row)


class ProbeOut(Output):
    """What a test found. That something does not answer is an outcome, not an error of this call."""

    status: CheckStatus
    message: str
    latency_ms: Annotated[float, Field(description="How long the test took")]
    metadata: JsonObject


class AliveOut(Output):
    status: Annotated[str, Field(description="`ok`: this process answers")] = "ok"
    version: str


class ReadyOut(Output):
    """What this process needs, and whether it answers: `ok`, or what is wrong, for those who may view."""

    status: Annotated[str, Field(description="`ok`, or `unavailable`")]
    catalogue: str | None = None
    queue: str | None = None
