"""The only place that reads the time. Everything else is given a `Clock`, so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Returns the wall-clock time, aware, in UTC."""

    def monotonic(self) -> float:
        """Returns seconds from an arbitrary start that never go backwards; for durations only."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def to_stamp(moment: datetime) -> str:
    """Returns `20261123T040000Z`, the form that sorts by name in a directory listing."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def to_iso(moment: datetime) -> str:
    """Returns RFC 3339 in UTC with milliseconds, `2026-11-23T04:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
