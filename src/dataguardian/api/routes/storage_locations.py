"""Storage locations: where backups go."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given, Id, Paged
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.probing import timed
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.api.schemas.health import ProbeOut
from dataguardian.api.schemas.storages import StorageBody, StorageChange, StorageOut
from dataguardian.domain.access import Permission
from dataguardian.domain.states import StorageStatus
from dataguardian.service.history import Filters

router = APIRouter(prefix="/api/storage-locations", tags=["storage-locations"], route_class=PatientRoute)


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_storage_locations(
    services: Given,
    paging: Paged,
    status: Annotated[StorageStatus | None, Query(description="Only those in this state")] = None,
) -> Listing[StorageOut]:
    """Newest first."""
    filters = Filters(status=status)
    return listing(await services.history.storages(filters, paging.page, paging.limit), StorageOut.of)


@router.post("", status_code=201, dependencies=[requires(Permission.MANAGE)], responses=documented(409, 413, 415, 422))
async def create_storage_location(services: Given, body: StorageBody) -> StorageOut:
    return StorageOut.of(await services.storages.create(body.fields()))


@router.get("/{storage_location_id}", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def get_storage_location(services: Given, storage_location_id: Id) -> StorageOut:
    return StorageOut.of(await services.storages.get(storage_location_id))


@router.put(
    "/{storage_location_id}", dependencies=[requires(Permission.MANAGE)], responses=documented(404, 409, 413, 415, 422)
)
async def change_storage_location(services: Given, storage_location_id: Id, body: StorageChange) -> StorageOut:
    """Making one the default ends that of the other one."""
    return StorageOut.of(await services.storages.update(storage_location_id, body.sent()))


@router.delete(
    "/{storage_location_id}",
    status_code=204,
    dependencies=[requires(Permission.MANAGE)],
    responses=documented(404, 409, 413, 415, 422),
)
async def delete_storage_location(services: Given, storage_location_id: Id) -> Response:
    await services.storages.delete(storage_location_id)
    return Response(status_code=204)


@router.post(
    "/{storage_location_id}/test", dependencies=[requires(Permission.RUN)], responses=documented(404, 413, 415, 422)
)
async def test_storage_location(services: Given, storage_location_id: Id) -> ProbeOut:
    """Puts, reads, lists and deletes a small object, now."""
    return await timed(services.context.clock, services.storages.test(storage_location_id))
