"""Tests that somebody asks for, and how long they took."""

from __future__ import annotations

from collections.abc import Awaitable

from dataguardian.api.schemas.health import ProbeOut
from dataguardian.domain.clock import Clock
from dataguardian.domain.states import CheckStatus
from dataguardian.engines.base import ProbeResult


async def timed(clock: Clock, test: Awaitable[ProbeResult]) -> ProbeOut:
    started = clock.monotonic()
    result = await test
    latency_ms = round((clock.monotonic() - started) * 1000, 1)
    return ProbeOut(
        status=CheckStatus(result.status), message=result.message, latency_ms=latency_ms, metadata=result.metadata
    )
