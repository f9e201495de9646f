"""What routes ask for: the services, the page of a list, the filters."""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from dataguardian.db.repositories.base import MAX_LIMIT
from dataguardian.service.history import Filters
from dataguardian.service.services import Services

LAST_PAGE = 10**9

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _written_out(text: object) -> object:
    """Refuses what pydantic would take for seconds since 1970."""
    if not isinstance(text, str) or not _DATE.match(text):
        raise ValueError("must be a time such as 2026-11-23T04:00:00Z")
    return text


def _within_centuries(moment: datetime) -> datetime:
    if not 1970 <= moment.year <= 9000:  # noqa: PLR2004 -- far from where time zone arithmetic overflows
        raise ValueError("must be a time between the years 1970 and 9000")
    return moment.astimezone(UTC)


Id = Annotated[uuid.UUID, Path(description="Its id")]
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_within_centuries)]
From = Annotated[Moment | None, Query(alias="from", description="Not before this time (RFC 3339, with an offset)")]
To = Annotated[Moment | None, Query(alias="to", description="Before this time (RFC 3339, with an offset)")]
OfDatasource = Annotated[uuid.UUID | None, Query(description="Only those of this datasource")]
OfStorage = Annotated[uuid.UUID | None, Query(description="Only those of this storage location")]
OfExecution = Annotated[uuid.UUID | None, Query(description="Only those of this execution")]
After = Annotated[int, Query(ge=0, le=2**31, description="Only lines that follow the one with this number")]


@dataclass(frozen=True)
class Paging:
    page: int
    limit: int


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _stopping(request: Request) -> asyncio.Event:
    return cast("asyncio.Event", request.app.state.stopping)


async def _paging(
    page: Annotated[int, Query(ge=1, le=LAST_PAGE, description="Which page, from 1")] = 1,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many rows on a page")] = 20,
) -> Paging:
    return Paging(page, limit)


async def _of_backup(
    *,
    job_id: Annotated[uuid.UUID | None, Query(description="Only those of this backup job")] = None,
    datasource_id: OfDatasource = None,
    storage_location_id: OfStorage = None,
    from_: From = None,
    to: To = None,
) -> Filters:
    return Filters(
        job_id=job_id,
        datasource_id=datasource_id,
        storage_location_id=storage_location_id,
        since=from_,
        until=to,
    )


async def _of_place(
    *,
    datasource_id: OfDatasource = None,
    storage_location_id: OfStorage = None,
    from_: From = None,
    to: To = None,
) -> Filters:
    return Filters(datasource_id=datasource_id, storage_location_id=storage_location_id, since=from_, until=to)


Given = Annotated[Services, Depends(_services)]
Stopping = Annotated[asyncio.Event, Depends(_stopping)]
Paged = Annotated[Paging, Depends(_paging)]
OfBackup = Annotated[Filters, Depends(_of_backup)]
OfPlace = Annotated[Filters, Depends(_of_place)]
