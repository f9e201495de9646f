"""Datasources: what is backed up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given, Id, Paged
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.probing import timed
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.api.schemas.datasources import DatasourceBody, DatasourceChange, DatasourceOut
from dataguardian.api.schemas.health import ProbeOut
from dataguardian.domain.access import Permission
from dataguardian.domain.states import DatasourceStatus
from dataguardian.service.history import Filters

router = APIRouter(prefix="/api/datasources", tags=["datasources"], route_class=PatientRoute)


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_datasources(
    services: Given,
    paging: Paged,
    status: Annotated[DatasourceStatus | None, Query(description="Only those in this state")] = None,
) -> Listing[DatasourceOut]:
    """Newest first."""
    filters = Filters(status=status)
    return listing(await services.history.datasources(filters, paging.page, paging.limit), DatasourceOut.of)


@router.post("", status_code=201, dependencies=[requires(Permission.MANAGE)], responses=documented(409, 413, 415, 422))
async def create_datasource(services: Given, body: DatasourceBody) -> DatasourceOut:
    return DatasourceOut.of(await services.datasources.create(body.fields()))


@router.get("/{datasource_id}", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def get_datasource(services: Given, datasource_id: Id) -> DatasourceOut:
    return DatasourceOut.of(await services.datasources.get(datasource_id))


@router.put(
    "/{datasource_id}", dependencies=[requires(Permission.MANAGE)], responses=documented(404, 409, 413, 415, 422)
)
async def change_datasource(services: Given, datasource_id: Id, body: DatasourceChange) -> DatasourceOut:
    return DatasourceOut.of(await services.datasources.update(datasource_id, body.sent()))


@router.delete(
    "/{datasource_id}",
    status_code=204,
    dependencies=[requires(Permission.MANAGE)],
    responses=documented(404, 409, 413, 415, 422),
)
async def delete_datasource(services: Given, datasource_id: Id) -> Response:
    await services.datasources.delete(datasource_id)
    return Response(status_code=204)


@router.post("/{datasource_id}/test", dependencies=[requires(Permission.RUN)], responses=documented(404, 413, 415, 422))
async def test_datasource(services: Given, datasource_id: Id) -> ProbeOut:
    """Connects and asks something harmless, now. The outcome is not counted as a health check."""
    return await timed(services.context.clock, services.datasources.test(datasource_id))
