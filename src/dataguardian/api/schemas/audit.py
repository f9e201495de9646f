"""Bodies of /api/audit."""

from __future__ import annotations

import uuid
from typing import Annotated, Self

from pydantic import Field

from dataguardian.api.schemas.common import JsonObject, Moment, Output, shown
from dataguardian.db.accounts import AuditEntry
from dataguardian.domain.access import ActorKind
from dataguardian.domain.auditlog import Finding


class AuditEntryOut(Output):
    """A line of the audit log. Its hash covers everything in it as the export writes it, and the hash before."""

    number: Annotated[int, Field(description="From 1, without gaps")]
    created_at: Moment
    actor_kind: ActorKind
    actor_id: uuid.UUID | None
    actor_name: str
    address: Annotated[str | None, Field(description="null: on this machine, without a request")]
    request_id: str | None
    action: Annotated[str, Field(description="Such as `datasource.update`")]
    entity_type: str | None
    entity_id: uuid.UUID | None
    entity_name: str | None
    changes: Annotated[JsonObject, Field(description="`{field: [before, after]}`; secrets are masked")]
    previous_hash: str
    hash: str

    @classmethod
    def of(cls, row: AuditEntry) -> Self:
        return shown(cls, row)


class AuditFindingOut(Output):
    """What a check of the whole chain found."""

    ok: bool
    lines: Annotated[int, Field(description="How many lines fit, from the first on")]
    last: Annotated[int, Field(description="The number of the last line that fits")]
    head: Annotated[str, Field(description="Its hash: kept elsewhere, it proves later that nothing before was changed")]
    broken: Annotated[int | None, Field(description="The number of the first line that does not fit")]
    problem: str | None

    @classmethod
    def of(cls, finding: Finding) -> Self:
        return shown(cls, finding)
