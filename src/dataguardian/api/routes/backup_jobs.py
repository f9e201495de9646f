"""Backup jobs: what is backed up to where, when, and for how long it is kept."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given, Id, OfDatasource, OfStorage, Paged
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.api.schemas.executions import Started
from dataguardian.api.schemas.jobs import JobChange, JobIn, JobOut, PreviewOut
from dataguardian.domain.access import Permission
from dataguardian.service.history import Filters

router = APIRouter(prefix="/api/backup-jobs", tags=["backup-jobs"], route_class=PatientRoute)


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_backup_jobs(
    services: Given,
    paging: Paged,
    datasource_id: OfDatasource = None,
    storage_location_id: OfStorage = None,
) -> Listing[JobOut]:
    filters = Filters(datasource_id=datasource_id, storage_location_id=storage_location_id)
    return listing(await services.history.jobs(filters, paging.page, paging.limit), JobOut.of)


@router.post(
    "", status_code=201, dependencies=[requires(Permission.MANAGE)], responses=documented(404, 409, 413, 415, 422)
)
async def create_backup_job(services: Given, body: JobIn) -> JobOut:
    return JobOut.of(await services.jobs.create(body.fields()))


@router.get("/{job_id}", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def get_backup_job(services: Given, job_id: Id) -> JobOut:
    return JobOut.of(await services.jobs.get(job_id))


@router.put("/{job_id}", dependencies=[requires(Permission.MANAGE)], responses=documented(404, 409, 413, 415, 422))
async def change_backup_job(services: Given, job_id: Id, body: JobChange) -> JobOut:
    """A new schedule counts from now."""
    return JobOut.of(await services.jobs.update(job_id, body.sent()))


@router.delete(
    "/{job_id}",
    status_code=204,
    dependencies=[requires(Permission.MANAGE)],
    responses=documented(404, 409, 413, 415, 422),
)
async def delete_backup_job(services: Given, job_id: Id) -> Response:
    await services.jobs.delete(job_id)
    return Response(status_code=204)


@router.post(
    "/{job_id}/run",
    status_code=202,
    dependencies=[requires(Permission.RUN)],
    responses=documented(404, 409, 413, 415, 422),
)
async def run_backup_job(services: Given, job_id: Id) -> Started:
    """Starts a backup now. While another one of this job is queued or running, 409 names it."""
    return Started(execution_id=(await services.executions.start(job_id)).id)


@router.get("/{job_id}/retention-preview", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def preview_retention(services: Given, job_id: Id) -> PreviewOut:
    """What retention would remove if it ran now, when each other backup would go, and why it stays until then."""
    return PreviewOut.of(await services.cleanup.retention_preview(job_id))
