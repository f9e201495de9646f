"""Deliveries: a notification on its way to one channel, a test of a channel, and the daily digest.

A delivery is claimed in its row before it is sent, so the queue handing a job out twice sends nothing twice. Sending
itself is at least once: after a crash in the middle, `Events.reconcile` sends again, with the same id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.exc import IntegrityError as BrokenRule
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import NotificationDelivery, NotificationRow
from dataguardian.db.repositories.audit import AuditRepository
from dataguardian.db.repositories.deliveries import FAILED, PENDING, SENT, DigestRepository, OutboxRepository
from dataguardian.db.repositories.notifications import NotificationRepository, SettingRepository
from dataguardian.domain.cron import parse_schedule
from dataguardian.domain.digest import render_digest
from dataguardian.domain.errors import (
    DataGuardianError,
    NotFoundError,
    NotifierRejectedError,
    NotifierTransientError,
)
from dataguardian.domain.ids import new_id
from dataguardian.domain.notifications import Notification, trial_notification
from dataguardian.domain.routing import DigestSettings
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.notifiers.base import Notifier, NotifierConfig
from dataguardian.notifiers.registry import build_notifier
from dataguardian.queues.definitions import SPECS, QueueName
from dataguardian.service.context import Context
from dataguardian.service.events import SETTING, Events, Pending, load_settings
from dataguardian.service.safekeeping import opened, setting_owner
from dataguardian.service.threads import in_thread

TRIES = SPECS[QueueName.NOTIFICATION].attempts
MAX_CLAIMS = 2 * TRIES
"""Claims include those that a crash cut short; a message that ends the service each time is given up some day."""
GRACE_SECONDS = 10.0
"""Notifiers keep their own time limit; this one is for one that does not."""
SLOW_SECONDS = 3.0
STRUGGLING_SECONDS = 60.0
POSTPONE_SECONDS = 20.0
DIGEST_STATE = "digest_state"
DIGEST_AT_MOST = timedelta(days=7)
DIGEST_ROWS = 10_000

log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    """How carrying out a delivery ended, for the queue."""

    DONE = "done"
    TRY_AGAIN = "try_again"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class _Claimed:
    row: NotificationDelivery
    notification: Notification
    config: NotifierConfig | None
    """None: the channel is no longer there."""


class Delivery:
    def __init__(
        self, context: Context, events: Events, *, build: Callable[[NotifierConfig], Notifier] = build_notifier
    ) -> None:
        self._context = context
        self._events = events
        self._build = build
        self._sending: dict[str, int] = {}
        self._struggling: dict[str, float] = {}

    async def carry_out(self, data: Mapping[str, Any], *, tries: int) -> tuple[Verdict, str]:
        """Sends what a queue job points at; `tries` counts this one. Returns the verdict and the reason for it."""
        claimed = await self._claim(uuid.UUID(data["id"]), int(data["number"]))
        if claimed is None:
            return Verdict.DONE, "nothing to do"
        channel = claimed.row.channel
        if self._must_wait(channel):
            await self._postpone(claimed)
            return Verdict.DONE, f"{channel} is slow: postponed"
        self._sending[channel] = self._sending.get(channel, 0) + 1
        try:
            await self._send(claimed)
        except DataGuardianError as error:
            return await self._failed(claimed, error, tries)
        finally:
            self._sending[channel] -= 1
        async with self._context.db.write() as session:
            await OutboxRepository(session).end(claimed.row, SENT, self._context.clock.now(), error_message=None)
        return Verdict.DONE, "sent"

    async def test_channel(self, name: str) -> None:
        """Sends a test message now; raises NotFoundError, SecretUnreadableError, or what the notifier says."""
        async with self._context.db.read() as session:
            config = (await load_settings(session, self._context.vault)).channels.get(name)
            stored = await SettingRepository(session).value(SETTING) or {}
        if config is None and name in (stored.get("channels") or {}):
            opened(stored, self._context.vault, setting_owner(SETTING))  # says which secrets cannot be opened
        if config is None:
            raise NotFoundError(f"there is no channel {name}", hint="the setting `notifications` holds the channels")
        now = self._context.clock.now()
        await self._hand_over(config, trial_notification(new_id(now), now))

    async def send_digest(self) -> bool:
        """Stores and queues the daily digest when it is due; returns whether it did. Two at once make one of it."""
        async with self._context.db.read() as session:
            settings = (await load_settings(session, self._context.vault)).digest
        if settings is None:
            return False
        try:
            async with self._context.db.write() as session:
                pending = await self._digest(session, settings)
        except BrokenRule:
            return False  # another scheduler stored this very digest, or the state of the first one
        await self._events.dispatch(pending or [])
        return pending is not None

    async def _claim(self, delivery_id: uuid.UUID, number: int) -> _Claimed | None:
        async with self._context.db.write() as session:
            row = await OutboxRepository(session).claim(delivery_id, number, self._context.clock.now())
            if row is None:
                return None
            notification = await NotificationRepository(session).get(row.notification_id)
            settings = await load_settings(session, self._context.vault)
        return _Claimed(row, _notification(notification), settings.channels.get(row.channel))

    def _must_wait(self, channel: str) -> bool:
        """A channel that hangs gets one worker at a time, so that the others stay free for other channels."""
        until = self._struggling.get(channel, 0.0)
        return until > self._context.clock.monotonic() and self._sending.get(channel, 0) > 0

    async def _postpone(self, claimed: _Claimed) -> None:
        row, now = claimed.row, self._context.clock.now()
        async with self._context.db.write() as session:
            ours = await OutboxRepository(session).end(
                row, PENDING, now, attempts=row.attempts - 1, enqueue_number=row.enqueue_number + 1
            )
        if ours:
            await self._events.dispatch([Pending(row.id, row.enqueue_number + 1, POSTPONE_SECONDS)])

    async def _send(self, claimed: _Claimed) -> None:
        channel = claimed.row.channel
        if claimed.row.attempts > MAX_CLAIMS:
            raise NotifierRejectedError("the service ended while it sent this, again and again")
        if claimed.config is None:
            raise NotifierRejectedError(f"there is no channel {channel} any more", hint="send by another channel")
        began = self._context.clock.monotonic()
        try:
            await self._hand_over(claimed.config, claimed.notification)
        except NotifierTransientError:
            if self._context.clock.monotonic() - began > SLOW_SECONDS:
                self._struggling[channel] = self._context.clock.monotonic() + STRUGGLING_SECONDS
            raise
        self._struggling.pop(channel, None)

    async def _hand_over(self, config: NotifierConfig, notification: Notification) -> None:
        """Raises what the notifier raises; whatever else it meets becomes a NotifierTransientError."""

        def send() -> None:
            self._build(config).send(notification)

        try:
            await in_thread(send, seconds=config.timeout_seconds + GRACE_SECONDS)
        except DataGuardianError:
            raise
        except TimeoutError as error:
            raise NotifierTransientError("the channel did not take the message in time") from error
        except Exception as error:
            log.exception("a notifier met a defect")
            raise NotifierTransientError(f"the notifier failed ({type(error).__name__}); the log has more") from error

    async def _failed(self, claimed: _Claimed, error: DataGuardianError, tries: int) -> tuple[Verdict, str]:
        row, now = claimed.row, self._context.clock.now()
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        again = isinstance(error, NotifierTransientError) and max(tries, row.attempts) < TRIES
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            ours = await OutboxRepository(session).end(row, PENDING if again else FAILED, now, error_message=text)
            if ours and not again and claimed.notification.severity is Severity.CRITICAL:
                pending = await self._leave_a_mark(session, claimed, text)
        await self._events.dispatch(pending)
        return Verdict.TRY_AGAIN if again else Verdict.GIVEN_UP, text

    async def _leave_a_mark(self, session: AsyncSession, claimed: _Claimed, text: str) -> list[Pending]:
        """Stores a warning that goes to no channel: whoever looks sees that an alert was lost, and nothing loops."""
        now, lost = self._context.clock.now(), claimed.notification
        warning = Notification(
            id=new_id(now),
            type=NotificationType.SYSTEM_ALARM,
            severity=Severity.WARNING,
            entity_type=EntityType.SYSTEM,
            title=f"The channel {claimed.row.channel} did not take a critical message",
            message=f"It was: {lost.title}\nThe channel said: {text}",
            metadata={"notification_id": str(lost.id), "channel": claimed.row.channel},
            created_at=now,
        )
        return await self._events.store(session, warning, ())

    async def _digest(self, session: AsyncSession, settings: DigestSettings) -> list[Pending] | None:
        now = self._context.clock.now()
        until = parse_schedule(settings.cron, settings.time_zone).previous_before(now + timedelta(microseconds=1))
        state = await SettingRepository(session).value(DIGEST_STATE)
        last = datetime.fromisoformat(state["until"]) if state else None
        if last is not None and until <= last <= now:
            return None
        await SettingRepository(session).put(
            DIGEST_STATE, {"until": until.isoformat()}, "Up to when daily digests were sent", now
        )
        if last is None or last > now:  # the first one tells of a whole day; so does the first after a wrong clock
            return None
        zone = ZoneInfo(settings.time_zone)
        since = max(last, until - DIGEST_AT_MOST).astimezone(zone)
        rows = await DigestRepository(session).between(since, until, DIGEST_ROWS)
        anchor = (await AuditRepository(session).head()).anchor
        digest = render_digest(map(_notification, rows), since, until.astimezone(zone), anchor=anchor)
        if await NotificationRepository(session).find(digest.id):
            return None
        return await self._events.store(session, digest, settings.channels)


def _notification(row: NotificationRow) -> Notification:
    return Notification(
        id=row.id,
        type=row.type,
        severity=row.severity,
        entity_type=row.entity_type,
        entity_id=row.entity_id,
        title=row.title,
        message=row.message,
        metadata=row.details,
        created_at=row.created_at,
    )
