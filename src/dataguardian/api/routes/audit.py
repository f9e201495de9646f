"""The audit log: a list, a check of its chain, and all of it as JSON lines."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from dataguardian.api.access import requires
from dataguardian.api.dependencies import From, Given, Paged, To
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.audit import AuditEntryOut, AuditFindingOut
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.db.repositories.audit import AuditFilters
from dataguardian.domain.access import Permission
from dataguardian.domain.auditlog import read_anchors

router = APIRouter(prefix="/api/audit", tags=["audit"], route_class=PatientRoute)
ADMINISTER = [requires(Permission.ADMINISTER, everywhere=True)]

_WORD = r"^[a-z_.-]{1,60}$"
Anchor = Annotated[str, Query(pattern=r"^[0-9]{1,18}:[0-9a-f]{64}$")]
_EXPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A line of JSON per line of the log, oldest first; the header X-Audit-Head is its end's anchor",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


async def _filters(
    *,
    actor: Annotated[str | None, Query(pattern=r"^[^\x00]{1,100}$", description="Exactly this name")] = None,
    action: Annotated[str | None, Query(pattern=_WORD, description="Such as `datasource.update`")] = None,
    entity_type: Annotated[str | None, Query(pattern=_WORD, description="Such as `datasource`")] = None,
    entity_id: Annotated[uuid.UUID | None, Query(description="Only what was done to this")] = None,
    from_: From = None,
    to: To = None,
) -> AuditFilters:
    return AuditFilters(
        actor_name=actor, action=action, entity_type=entity_type, entity_id=entity_id, since=from_, until=to
    )


@router.get("", dependencies=ADMINISTER, responses=documented(422))
async def list_audit(
    services: Given, paging: Paged, filters: Annotated[AuditFilters, Depends(_filters)]
) -> Listing[AuditEntryOut]:
    """Who did what to which thing, from where; newest first."""
    return listing(await services.audit.page(filters, paging.page, paging.limit), AuditEntryOut.of)


@router.get("/verify", dependencies=ADMINISTER, responses=documented(409, 422))
async def verify_audit(
    services: Given,
    anchor: Annotated[
        list[Anchor], Query(max_length=100, description="`NUMBER:HASH` of a line, as it was kept elsewhere")
    ] = [],  # noqa: B006 -- fastapi's way to say that none is needed
) -> AuditFindingOut:
    """Reads the whole log and checks that every line follows the one before it; names the first that does not."""
    return AuditFindingOut.of(await services.audit.verify(read_anchors(anchor)))


@router.get("/export", dependencies=ADMINISTER, response_class=StreamingResponse, responses=documented(422) | _EXPORT)
async def export_audit(
    services: Given,
    after: Annotated[int, Query(ge=0, le=2**62, description="Only lines that follow the one with this number")] = 0,
) -> StreamingResponse:
    """The log as JSON lines, which anybody can check without DataGuardian. That it was exported is its last line."""
    head, lines = await services.audit.export(after)
    headers = {"X-Audit-Head": f"{head.number}:{head.hash}"}
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)
