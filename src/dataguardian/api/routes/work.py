"""Restores, verifications and repairs. They have the same routes; only what a row shows differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from dataguardian.api.access import requires
from dataguardian.api.dependencies import After, Given, Id, OfBackup, OfExecution, Paged, Stopping
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, Output, listing, shown
from dataguardian.api.schemas.executions import (
    LogOut,
    RepairDetail,
    RepairOut,
    RestoreDetail,
    RestoreOut,
    VerificationDetail,
    VerificationOut,
)
from dataguardian.api.stream import EVENTS_DOCUMENT, Followed, follow
from dataguardian.domain.access import Permission
from dataguardian.domain.states import WorkStatus
from dataguardian.service.workkinds import Kind


def work_router(kind: Kind, show: Callable[[Any], Output], out: type[Output], detail: type[Output]) -> APIRouter:
    """Returns the routes of a kind, such as `/api/restores`; `out` and `detail` are what a row shows."""
    router = APIRouter(prefix=f"/api/{kind}s", tags=[f"{kind}s"], route_class=PatientRoute)

    @router.get(
        "",
        name=f"list_{kind}s",
        response_model=Listing.__class_getitem__(out),
        dependencies=[requires(Permission.VIEW)],
        responses=documented(422),
    )
    async def list_work(
        services: Given,
        paging: Paged,
        filters: OfBackup,
        status: Annotated[WorkStatus | None, Query(description="Only those in this state")] = None,
        execution_id: OfExecution = None,
    ) -> Any:  # noqa: ANN401 -- `response_model` says what
        """Newest first. Job, datasource and storage location are those of the backup."""
        chosen = replace(filters, status=status, execution_id=execution_id)
        return listing(await services.history.works(kind, chosen, paging.page, paging.limit), show)

    @router.get(
        "/{work_id}",
        name=f"get_{kind}",
        response_model=detail,
        dependencies=[requires(Permission.VIEW)],
        responses=documented(404, 422),
    )
    async def get_work(services: Given, work_id: Id) -> Any:  # noqa: ANN401 -- as above
        row = await services.history.work(kind, work_id)
        return shown(detail, row, progress=await services.history.progress(row))

    @router.post(
        "/{work_id}/cancel",
        name=f"cancel_{kind}",
        status_code=202,
        response_model=out,
        dependencies=[requires(Permission.RUN)],
        responses=documented(404, 409, 413, 415, 422),
    )
    async def cancel_work(services: Given, work_id: Id) -> Any:  # noqa: ANN401 -- as above
        """What is queued ends at once; what runs is asked to stop. A restore that is cancelled changed nothing."""
        return show(await services.work.cancel(kind, work_id))

    @router.get(
        "/{work_id}/logs",
        name=f"list_{kind}_logs",
        dependencies=[requires(Permission.VIEW)],
        responses=documented(404, 422),
    )
    async def list_logs(services: Given, paging: Paged, work_id: Id, after: After = 0) -> Listing[LogOut]:
        """Oldest first. To follow a log, give the number of the last line as `after`."""
        await services.history.work(kind, work_id)
        return listing(await services.history.logs(work_id, after, paging.page, paging.limit), LogOut.of)

    @router.get(
        "/{work_id}/events",
        name=f"follow_{kind}",
        response_class=StreamingResponse,
        dependencies=[requires(Permission.VIEW)],
        responses=documented(404, 422) | EVENTS_DOCUMENT,
    )
    async def follow_work(services: Given, stopping: Stopping, work_id: Id) -> StreamingResponse:
        """Server-sent events: `state` when the row changes, `progress` while it runs, `end` when no more will come."""
        load = partial(services.history.work, kind)
        return follow(services, stopping, Followed(await load(work_id), load, show))

    return router


restores = work_router(Kind.RESTORE, RestoreOut.of, RestoreOut, RestoreDetail)
verifications = work_router(Kind.VERIFICATION, VerificationOut.of, VerificationOut, VerificationDetail)
repairs = work_router(Kind.REPAIR, RepairOut.of, RepairOut, RepairDetail)
