"""Health checks, and whether this process is there at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dataguardian import __version__
from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given, OfPlace, Paged
from dataguardian.api.errors import documented
from dataguardian.api.metrics import METRICS_DOCUMENT, rendered
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.api.schemas.health import AliveOut, CheckOut, ReadyOut
from dataguardian.domain.access import Permission
from dataguardian.domain.errors import DataGuardianError
from dataguardian.domain.states import CheckStatus
from dataguardian.service.acting import current_actor

ALWAYS: dict[int | str, dict[str, Any]] = {403: documented()[403]}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": ReadyOut, "description": "Something is missing"}}

router = APIRouter(prefix="/api/health", tags=["health"], route_class=PatientRoute)
probes = APIRouter(tags=["health"])

READY_SECONDS = 1.5


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_health_checks(
    services: Given,
    paging: Paged,
    filters: OfPlace,
    status: Annotated[CheckStatus | None, Query(description="Only those with this outcome")] = None,
) -> Listing[CheckOut]:
    """Newest first. What datasources and storage locations are like now, their own lists say."""
    chosen = replace(filters, status=status)
    return listing(await services.history.checks(chosen, paging.page, paging.limit), CheckOut.of)


@probes.get("/health", responses=ALWAYS)
async def health() -> AliveOut:
    """Liveness: this process answers, whatever else is down."""
    return AliveOut(version=__version__)


@probes.get("/ready", response_model_exclude_none=True, responses=ALWAYS | NOT_READY)
async def ready(services: Given, response: Response) -> ReadyOut:
    """Readiness: the catalogue and the queue answer. What is wrong with them is told to those who may view."""
    context = services.context
    catalogue, queue = await asyncio.gather(_said(context.db.ping()), _said(context.queues.ping()))
    is_ready = catalogue == queue == "ok"
    response.status_code = 200 if is_ready else 503
    status = "ok" if is_ready else "unavailable"
    if not current_actor().may(Permission.VIEW):
        return ReadyOut(status=status)
    return ReadyOut(status=status, catalogue=catalogue, queue=queue)


@probes.get(
    "/metrics",
    response_class=Response,
    dependencies=[requires(Permission.VIEW, everywhere=True)],
    responses=documented() | METRICS_DOCUMENT,
)
async def metrics(services: Given) -> Response:
    """Numbers for Prometheus, in its text format; some seconds old at most."""
    return Response(rendered(await services.overview.measure()), media_type=CONTENT_TYPE_LATEST)


async def _said(answer: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(READY_SECONDS):
            await answer
    except DataGuardianError as error:
        return error.message
    except TimeoutError:
        return "no answer in time"
    return "ok"
