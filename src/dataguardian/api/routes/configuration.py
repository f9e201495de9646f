"""Configuration as code: what a file would change."""

from __future__ import annotations

from fastapi import APIRouter

from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.configuration import CompareIn, CompareOut
from dataguardian.domain.access import Permission
from dataguardian.service.configuration import Configuration

router = APIRouter(prefix="/api/system", tags=["system"], route_class=PatientRoute)


@router.post(
    "/compare", dependencies=[requires(Permission.MANAGE, everywhere=True)], responses=documented(413, 415, 422)
)
async def compare_configuration(services: Given, body: CompareIn) -> CompareOut:
    """Checks definitions and tells how they differ from what is stored, secrets included. Nothing is written."""
    wanted = [item.wanted() for item in body.items]
    return CompareOut.of(await Configuration(services.context).compare(wanted))
