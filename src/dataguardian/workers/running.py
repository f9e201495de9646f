"""What backups, restores and verifications have in common while they run: a lease that is kept, words for failures."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dataguardian.core.context import Context
from dataguardian.core.executions import RENEW_SECONDS, Failed
from dataguardian.core.logbook import Logbook
from dataguardian.domain.errors import DataGuardianError, is_transient
from dataguardian.runner.parent import (
    Callbacks,
    RunFailedError,
    RunnerCrashedError,
    RunStalledError,
    RunTimedOutError,
)

_LIMITS = (RunTimedOutError, RunStalledError)


@dataclass(frozen=True)
class Hold:
    """Work that is ours. `renew` extends its lease: whether a cancel was asked for, None when it is ours no longer."""

    work_id: uuid.UUID
    attempt: int
    renew: Callable[[], Awaitable[bool | None]]


@asynccontextmanager
async def kept(
    context: Context, hold: Hold, *, cancelled: asyncio.Event, stopping: asyncio.Event
) -> AsyncIterator[asyncio.Event]:
    """Renews the lease while the block runs, and passes cancels on; the event yielded tells of a lost lease."""
    lost = asyncio.Event()

    async def keep() -> None:
        while not cancelled.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await _nudged(context, hold.work_id, stopping)
            if stopping.is_set():
                cancelled.set()
                return
            with contextlib.suppress(DataGuardianError):  # the catalogue is away: the lease lasts a while
                answer = await hold.renew()
                if answer is None:
                    lost.set()
                if answer is not False:
                    cancelled.set()

    keeper = asyncio.create_task(keep())
    try:
        yield lost
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


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


def callbacks(context: Context, hold: Hold, logbook: Logbook) -> Callbacks:
    """Returns what the runner's news are passed to."""

    async def progress(data: dict[str, Any]) -> None:
        await context.live.set(str(hold.work_id), data | {"attempt": hold.attempt})

    async def log(data: dict[str, Any]) -> None:
        await logbook.write(data.pop("level", "info"), data.pop("message", ""), **data)

    async def confirm() -> bool:
        return await hold.renew() is False

    return Callbacks(progress, log, confirm)


def reason(error: DataGuardianError) -> Failed:
    """Returns how an attempt failed, in the words of whoever knows most about it."""
    if isinstance(error, RunFailedError):
        failure = error.failure
        message = f"{failure.message} ({error.hint})" if error.hint else failure.message
        return Failed(message, failure.stack, failure.error, failure.transient)
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    transient = isinstance(error, RunnerCrashedError) or (is_transient(error) and not isinstance(error, _LIMITS))
    return Failed(message, str(error.details.get("last_words", "")), error.code, transient)
