"""Notifications: what DataGuardian had to say, and tests of the channels by which it says it."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from dataguardian.api.access import requires
from dataguardian.api.dependencies import From, Given, Id, Paged, To
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, listing
from dataguardian.api.schemas.notifications import MarkedOut, NotificationOut, SendOut
from dataguardian.domain.access import Permission
from dataguardian.domain.errors import CatalogUnavailableError, DataGuardianError, NotFoundError
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.service.history import NotificationFilters

router = APIRouter(prefix="/api/notifications", tags=["notifications"], route_class=PatientRoute)

ChannelName = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$", description="As in the setting `notifications`")
]


async def _filters(
    *,
    type: Annotated[NotificationType | None, Query()] = None,  # noqa: A002 -- the field's name everywhere
    severity: Annotated[Severity | None, Query(description="Exactly this one")] = None,
    unread: Annotated[bool | None, Query(description="true: only what nobody has read; false: only the rest")] = None,
    entity_type: Annotated[EntityType | None, Query()] = None,
    entity_id: Annotated[uuid.UUID | None, Query()] = None,
    from_: From = None,
    to: To = None,
) -> NotificationFilters:
    return NotificationFilters(
        type=type,
        severity=severity,
        unread=unread,
        entity_type=entity_type,
        entity_id=entity_id,
        since=from_,
        until=to,
    )


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_notifications(
    services: Given, paging: Paged, filters: Annotated[NotificationFilters, Depends(_filters)]
) -> Listing[NotificationOut]:
    """Newest first."""
    return listing(await services.history.notifications(filters, paging.page, paging.limit), NotificationOut.of)


@router.post("/read-all", dependencies=[requires(Permission.RUN)], responses=documented(413, 415, 422))
async def mark_all_notifications_read(services: Given) -> MarkedOut:
    return MarkedOut(marked=await services.inbox.mark_all_read())


@router.post(
    "/channels/{name}/test",
    dependencies=[requires(Permission.RUN, everywhere=True)],
    responses=documented(404, 413, 415, 422),
)
async def test_channel(services: Given, name: ChannelName) -> SendOut:
    """Sends a test message by a channel, now."""
    try:
        await services.delivery.test_channel(name)
    except (NotFoundError, CatalogUnavailableError):
        raise  # says nothing of the channel
    except DataGuardianError as error:
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        return SendOut(status="failed", error=error.code, message=text)
    return SendOut(status="sent", error=None, message="The channel took the message.")


@router.get("/{notification_id}", dependencies=[requires(Permission.VIEW)], responses=documented(404, 422))
async def get_notification(services: Given, notification_id: Id) -> NotificationOut:
    return NotificationOut.of(await services.inbox.get(notification_id))


@router.post(
    "/{notification_id}/read", dependencies=[requires(Permission.RUN)], responses=documented(404, 413, 415, 422)
)
async def mark_notification_read(services: Given, notification_id: Id) -> NotificationOut:
    """Marks it as read; what was read before keeps its time."""
    return NotificationOut.of(await services.inbox.mark_read(notification_id))
