"""Rows that nobody needs any more go by age, in short transactions, so that nothing waits for them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dataguardian.core.context import Context
from dataguardian.db.repositories.cleanup import PruningRepository

BATCH = 1000
Days = Annotated[int, Field(ge=1, le=36_525)]
Prune = Callable[[PruningRepository], Awaitable[int]]


class PruningSettings(BaseModel):
    """How long rows are kept, in days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    health_days: Days = 30
    read_notifications_days: Days = 90
    executions_days: Days = 90
    """Of failed, skipped and cancelled executions; backups go by their job's retention policy."""
    logs_days: Days = 90


async def prune(context: Context, settings: PruningSettings, *, stopped: Callable[[], bool]) -> dict[str, int]:
    """Removes what is older than the settings say; returns how many rows of each kind."""
    now = context.clock.now()
    rules: dict[str, Prune] = {
        "health_checks": lambda rows: rows.health(_before(now, settings.health_days), BATCH),
        "notifications": lambda rows: rows.read_notifications(_before(now, settings.read_notifications_days), BATCH),
        "executions": lambda rows: rows.executions(_before(now, settings.executions_days), BATCH),
        "execution_logs": lambda rows: rows.logs(_first_id(_before(now, settings.logs_days)), BATCH),
    }
    return {name: await _in_batches(context, rule, stopped) for name, rule in rules.items()}


async def _in_batches(context: Context, rule: Prune, stopped: Callable[[], bool]) -> int:
    total = 0
    while not stopped():
        async with context.db.write() as session:
            count = await rule(PruningRepository(session))
        total += count
        if count < BATCH:
            break
        await asyncio.sleep(0)  # others want to write, too
    return total


def _before(now: datetime, days: int) -> datetime:
    return now - timedelta(days=days)


def _first_id(moment: datetime) -> uuid.UUID:
    """Returns the smallest UUIDv7 of a moment."""
    return uuid.UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)
