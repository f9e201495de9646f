"""What backups, restores and verifications have in common while they run: a lease that is kept, words for failures."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from dataguardian.db.models import StorageLocation
from dataguardian.domain.errors import CatalogUnavailableError, DataGuardianError, DiskFullError, is_transient
from dataguardian.runner.parent import (
    Callbacks,
    RunFailedError,
    RunnerCrashedError,
    RunStalledError,
    RunTimedOutError,
)
from dataguardian.runner.protocol import UNEXPECTED, Place
from dataguardian.service.context import Context
from dataguardian.service.executions import Failed
from dataguardian.service.logbook import Logbook
from dataguardian.service.safekeeping import opened_config
from dataguardian.service.vault import Vault

PATIENCE_SECONDS = 1.0
_LIMITS = (RunTimedOutError, RunStalledError)

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Hold:
    """Work that is ours. `renew` extends its lease: whether a cancel was asked for, None when it is ours no longer."""

    work_id: uuid.UUID
    attempt: int
    renew: Callable[[], Awaitable[bool | None]]


async def patiently(work: Callable[[], Awaitable[T]], *, until: asyncio.Event) -> T:
    """Does what the catalogue must not miss, again and again while that is away; raises its error once `until` is set.

    Nobody takes over meanwhile without the catalogue, and every such step is a compare-and-set.
    """
    while True:
        try:
            return await work()
        except (CatalogUnavailableError, DiskFullError) as error:
            if until.is_set():
                raise
            log.warning("waiting for the catalogue", message=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await until.wait()


@asynccontextmanager
async def kept(
    context: Context, hold: Hold, *, cancelled: asyncio.Event, stopping: asyncio.Event
) -> AsyncIterator[asyncio.Event]:
    """Renews the lease while the block runs, and passes cancels on; the event yielded tells of a lost lease."""
    lost = asyncio.Event()
    keeper = asyncio.create_task(_keep(context, hold, cancelled, stopping, lost))
    try:
        with context.holding.of(hold.work_id, hold.attempt):
            yield lost
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep(
    context: Context, hold: Hold, cancelled: asyncio.Event, stopping: asyncio.Event, lost: asyncio.Event
) -> None:
    """Goes on while the runner ends: it may have much to remove, or be beyond recall."""
    while not lost.is_set():
        if cancelled.is_set():
            await asyncio.sleep(context.settings.renew_seconds)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(context.settings.renew_seconds):
                    await _nudged(context, hold.work_id, stopping)
        if stopping.is_set():
            cancelled.set()
        try:
            answer = await hold.renew()
        except DataGuardianError as error:  # the catalogue is away: the lease lasts a while
            log.warning("a lease could not be renewed", work_id=str(hold.work_id), message=error.message)
        except Exception:
            log.exception("a lease met a defect", work_id=str(hold.work_id))
        else:
            if answer is None:
                lost.set()
            if answer is not False:
                cancelled.set()


async def _nudged(context: Context, work_id: uuid.UUID, stopping: asyncio.Event) -> None:
    """Returns when a cancel was asked for, or the service stops; the message only makes it faster."""
    waiters = {
        asyncio.ensure_future(context.live.nudged(str(work_id))),
        asyncio.ensure_future(stopping.wait()),
    }
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


def callbacks(context: Context, hold: Hold, logbook: Logbook, cancelled: asyncio.Event) -> Callbacks:
    """Returns what the runner's news are passed to. A question waits for a catalogue that is away, unless cancelled."""

    async def progress(data: dict[str, Any]) -> None:
        await context.live.set(str(hold.work_id), data | {"attempt": hold.attempt})

    async def log(data: dict[str, Any]) -> None:
        await logbook.write(data.pop("level", "info"), data.pop("message", ""), **data)

    async def confirm() -> bool:
        try:
            return await patiently(hold.renew, until=cancelled) is False
        except CatalogUnavailableError:
            return False

    return Callbacks(progress, log, confirm)


def places_of(storages: Sequence[StorageLocation], vault: Vault) -> dict[str, Any]:
    """Returns the members of a Task that say where to, or where from; raises SecretUnreadableError."""
    first, *others = [Place(name=row.name, config=opened_config(row, vault)) for row in storages]
    return {"storage": first.config, "storage_name": first.name, "others": tuple(others)}


def reason(error: Exception) -> Failed:
    """Returns how an attempt failed, in the words of whoever knows most about it."""
    if not isinstance(error, DataGuardianError):
        # Without the exception's own words: they may quote a configuration.
        stack = "".join(traceback.format_tb(error.__traceback__))
        return Failed(f"a defect in DataGuardian ({type(error).__name__}): please report it", stack, UNEXPECTED)
    if isinstance(error, RunFailedError):
        failure = error.failure
        message = f"{failure.message} ({error.hint})" if error.hint else failure.message
        stack = failure.stack if failure.error == UNEXPECTED else ""
        return Failed(message, stack, failure.error, failure.transient)
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    transient = isinstance(error, RunnerCrashedError) or (is_transient(error) and not isinstance(error, _LIMITS))
    return Failed(message, str(error.details.get("last_words", "")), error.code, transient)
