"""Rows that nobody needs any more go by age, in short transactions, so that nothing waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dataguardian.db.repositories.pruning import Pruning
from dataguardian.service.context import Context

Days = Annotated[int, Field(ge=1, le=36_525)]
Prune = Callable[[Pruning], Awaitable[int]]


class PruningSettings(BaseModel):
    """How long rows are kept, in days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    health_days: Days = 30
    read_notifications_days: Days = 90
    executions_days: Days = 90
    """Of failed, skipped and cancelled executions; backups go by their job's retention policy."""
    ended_work_days: Days = 365
    """Of restores and verifications that ended."""
    logs_days: Days = 90


async def prune(context: Context, settings: PruningSettings, *, stopped: Callable[[], bool]) -> dict[str, int]:
    """Removes what is older than the settings say; returns how many rows of each kind."""
    now = context.clock.now()
    rules: dict[str, Prune] = {
        "health_checks": lambda rows: rows.health_checks(_before(now, settings.health_days)),
        "notifications": lambda rows: rows.read_notifications(_before(now, settings.read_notifications_days)),
        "ended_work": lambda rows: rows.ended_work(_before(now, settings.ended_work_days)),
        "executions": lambda rows: rows.executions(_before(now, settings.executions_days)),
        "execution_logs": lambda rows: rows.logs(_before(now, settings.logs_days)),
    }
    return {name: await _in_batches(context, rule, stopped) for name, rule in rules.items()}


async def _in_batches(context: Context, rule: Prune, stopped: Callable[[], bool]) -> int:
    total = 0
    while not stopped():
        async with context.db.write() as session:
            count = await rule(Pruning(session))
        total += count
        if count == 0:
            break
        await asyncio.sleep(0)  # others want to write, too
    return total


def _before(now: datetime, days: int) -> datetime:
    return now - timedelta(days=days)
