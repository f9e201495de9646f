"""Executions: the backups, and the runs that did not become one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from dataguardian.api.access import requires
from dataguardian.api.dependencies import After, Given, Id, OfBackup, Paged, Stopping
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.api.schemas.executions import (
    ExecutionDetail,
    ExecutionOut,
    LogOut,
    RepairsStarted,
    RestoreIn,
    RestoreStarted,
    TargetOut,
    VerificationStarted,
    VerifyIn,
)
from dataguardian.api.stream import EVENTS_DOCUMENT, Followed, follow
from dataguardian.db.models import BackupExecution
from dataguardian.domain.access import Permission
from dataguardian.domain.states import ExecutionStatus
from dataguardian.service.services import Services

Force = Annotated[bool, Query(description="Also the newest good one of its job, or one that is not as it should be")]

router = APIRouter(prefix="/api/executions", tags=["executions"], route_class=PatientRoute)


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_executions(
    services: Given,
    paging: Paged,
    filters: OfBackup,
    status: Annotated[ExecutionStatus | None, Query(description="Only those in this state")] = None,
) -> Listing[ExecutionOut]:
    """Newest first, by when they were created; `from` and `to` are about that time, too."""
    found = await services.history.executions(replace(filters, status=status), paging.page, paging.limit)
    last = await services.history.last_verifications(found.data)
    return listing(found, lambda row: ExecutionOut.of(row, last.get(row.id)))


@router.get("/{execution_id}", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def get_execution(services: Given, execution_id: Id) -> ExecutionDetail:
    row = await services.history.execution(execution_id)
    last = await services.history.last_verifications([row])
    targets = [TargetOut.of(target) for target in await services.history.targets(row)]
    progress = await services.history.progress(row)
    return ExecutionDetail.of(row, last.get(row.id), progress=progress, targets=targets)


@router.delete(
    "/{execution_id}",
    status_code=204,
    dependencies=[requires(Permission.MANAGE)],
    responses=documented(404, 409, 413, 415, 422),
)
async def delete_execution(services: Given, execution_id: Id, force: Force = False) -> Response:
    """Deletes a backup: its objects in the storage, then its rows. Refused while it is active, pinned or in use."""
    await services.cleanup.delete_execution(execution_id, force=force)
    return Response(status_code=204)


@router.post(
    "/{execution_id}/cancel",
    status_code=202,
    dependencies=[requires(Permission.RUN)],
    responses=documented(404, 409, 413, 415, 422),
)
async def cancel_execution(services: Given, execution_id: Id) -> ExecutionOut:
    """A queued execution ends at once; a running one is asked to stop, and removes what it stored."""
    return ExecutionOut.of(await services.executions.cancel(execution_id))


@router.post("/{execution_id}/pin", dependencies=[requires(Permission.RUN)], responses=documented(404, 413, 415, 422))
async def pin_execution(services: Given, execution_id: Id) -> ExecutionOut:
    """Keeps retention and everybody else from deleting this backup."""
    return await _shown(services, await services.executions.pin(execution_id, pinned=True))


@router.post("/{execution_id}/unpin", dependencies=[requires(Permission.RUN)], responses=documented(404, 413, 415, 422))
async def unpin_execution(services: Given, execution_id: Id) -> ExecutionOut:
    return await _shown(services, await services.executions.pin(execution_id, pinned=False))


@router.post(
    "/{execution_id}/restore",
    status_code=202,
    dependencies=[requires(Permission.RESTORE)],
    responses=documented(404, 409, 413, 415, 422),
)
async def restore_execution(services: Given, execution_id: Id, body: RestoreIn) -> RestoreStarted:
    """Restores a completed backup into its own datasource or another one of the same type."""
    row = await services.work.start_restore(
        execution_id,
        confirm=body.confirm,
        target_datasource_id=body.target_datasource_id,
        drop_existing=body.drop_existing,
        streams=body.streams,
    )
    return RestoreStarted(restore_id=row.id)


@router.post(
    "/{execution_id}/verify",
    status_code=202,
    dependencies=[requires(Permission.RUN)],
    responses=documented(404, 409, 413, 415, 422),
)
async def verify_execution(services: Given, execution_id: Id, body: VerifyIn | None = None) -> VerificationStarted:
    """Checks a completed backup where it lies. Damage that is found is told as a critical notification."""
    row = await services.work.start_verification(execution_id, deep=body.deep if body else False)
    return VerificationStarted(verification_id=row.id)


@router.post(
    "/{execution_id}/repair",
    status_code=202,
    dependencies=[requires(Permission.RUN)],
    responses=documented(404, 409, 413, 415, 422),
)
async def repair_execution(services: Given, execution_id: Id) -> RepairsStarted:
    """Copies a partial backup now to the storage locations that are behind. The service does it by itself, too."""
    rows = await services.work.start_repairs(execution_id)
    return RepairsStarted(execution_id=execution_id, repair_ids=[row.id for row in rows])


@router.get("/{execution_id}/logs", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def list_execution_logs(services: Given, paging: Paged, execution_id: Id, after: After = 0) -> Listing[LogOut]:
    """Oldest first. To follow a log, give the number of the last line as `after`."""
    await services.history.execution(execution_id)
    return listing(await services.history.logs(execution_id, after, paging.page, paging.limit), LogOut.of)


@router.get(
    "/{execution_id}/events",
    response_class=StreamingResponse,
    dependencies=[requires(Permission.VIEW)],
    responses=documented(404, 422) | EVENTS_DOCUMENT,
)
async def follow_execution(services: Given, stopping: Stopping, execution_id: Id) -> StreamingResponse:
    """Server-sent events: `state` when the row changes, `progress` while it runs, `end` when nothing more will come."""
    row = await services.history.execution(execution_id)
    last = await services.history.last_verifications([row])
    show = partial(ExecutionOut.of, last=last.get(row.id))
    return follow(services, stopping, Followed(row, services.history.execution, show))


async def _shown(services: Services, row: BackupExecution) -> ExecutionOut:
    return ExecutionOut.of(row, (await services.history.last_verifications([row])).get(row.id))
