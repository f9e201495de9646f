"""Work that comes back by itself: every so often, on the minute, and whatever happened the last time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from dataguardian.domain.clock import Clock
from dataguardian.domain.errors import DataGuardianError

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Loop:
    """`work` every `every_seconds`, counted from full minutes of the clock when `on_the_minute`; at once at first."""

    name: str
    every_seconds: float
    work: Callable[[], Awaitable[object]]
    on_the_minute: bool = False


async def run_loop(loop: Loop, clock: Clock) -> None:
    """Runs until cancelled. What fails is logged and tried again soon: a scheduler must outlive its database."""
    while True:
        try:
            await loop.work()
            pause = _pause(loop, clock)
        except DataGuardianError as error:
            log.warning("periodic work failed", loop=loop.name, error=error.code, message=error.message)
            pause = min(RETRY_SECONDS, loop.every_seconds)
        except Exception:
            log.exception("periodic work met a defect", loop=loop.name)
            pause = loop.every_seconds
        if _is_cancelled():
            return
        await asyncio.sleep(pause)


def _is_cancelled() -> bool:
    """Asked because a cancel may get lost on its way up: `asyncio.wait_for`, which redis-py sends with, can swallow it
    (Python 3.11), and a shutdown would wait for this loop for ever.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _pause(loop: Loop, clock: Clock) -> float:
    if not loop.on_the_minute:
        return loop.every_seconds
    now = clock.now().timestamp()
    return loop.every_seconds - now % loop.every_seconds + 0.05
