"""When a check is news. The rules of SPEC M7: pure, over a row and what its check found.

A datasource is `warning` for one or two failed checks in a row and `critical` from the third on, which is told once; it
is `warning`, too, while it answers far slower than usual, which is told when it begins. A storage location that does
not answer is `unreachable` at once and told of at the third time in a row; one that is full is told of at once, since
room does not come and go by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dataguardian.db.models import Datasource, StorageLocation
from dataguardian.domain.sizes import GIB, format_size
from dataguardian.domain.states import DatasourceStatus, NotificationType, Severity, StorageStatus
from dataguardian.engines.base import ProbeResult

FAILURES_TO_ALARM = 3
SLOW_FACTOR = 5.0
SLOW_MS = 1000.0
LEARNING_RATE = 0.1
LEARNED_AT_MOST = 2.0
"""A slow answer moves the average by no more than one twice as slow as usual would: an hour of trouble is not usual,
and what stays slow for good becomes usual within hours."""
LOW_BYTES = GIB
LOW_SHARE = 0.01
ROOM_TO_RECOVER = 1.25
"""A full storage is healthy again with so many times the room that made it full, so that it does not flap."""
GB = 10**9


@dataclass(frozen=True)
class Checked:
    """What one check found. `latency_ms` is how long the whole probe took."""

    result: ProbeResult
    latency_ms: float
    at: datetime

    @property
    def ok(self) -> bool:
        return self.result.status == "ok"


@dataclass(frozen=True)
class News:
    """A notification in the making."""

    type: NotificationType
    severity: Severity
    title: str
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)


def judge_datasource(row: Datasource, checked: Checked) -> list[News]:
    """Changes the row to what the check means for it, and returns what people should hear."""
    row.last_health_check_at = row.updated_at = checked.at
    if not checked.ok:
        return _datasource_failed(row, checked)
    slow = _is_slow(row.usual_latency_ms, checked.latency_ms)
    was_slow = row.status is DatasourceStatus.WARNING and row.consecutive_failures == 0
    news = _back(row, row.name, checked)
    if slow and not was_slow:
        news.append(_slow(row, checked))
    row.consecutive_failures = 0
    row.status = DatasourceStatus.WARNING if slow else DatasourceStatus.HEALTHY
    row.usual_latency_ms = _learned(row.usual_latency_ms, checked.latency_ms)
    return news


def judge_storage(row: StorageLocation, checked: Checked) -> list[News]:
    """Like `judge_datasource`, for a storage location."""
    row.last_health_check_at = row.updated_at = checked.at
    available = checked.result.metadata.get("available_bytes")
    if available is not None:
        row.available_space_gb = round(available / GB, 3)
    if checked.result.metadata.get("error") == "storage_full" or (checked.ok and _is_low(row, available)):
        return _storage_full(row, checked, available)
    if not checked.ok:
        return _storage_failed(row, checked)
    news = _back(row, row.name, checked)
    row.consecutive_failures = 0
    row.status = StorageStatus.HEALTHY
    return news


def _datasource_failed(row: Datasource, checked: Checked) -> list[News]:
    row.consecutive_failures += 1
    lost = row.consecutive_failures >= FAILURES_TO_ALARM
    row.status = DatasourceStatus.CRITICAL if lost else DatasourceStatus.WARNING
    if not lost or row.outage_since is not None:
        return []
    row.outage_since = checked.at
    return [
        News(
            NotificationType.CONNECTION_LOST,
            Severity.CRITICAL,
            f"The datasource {row.name} does not answer",
            f"{row.consecutive_failures} checks in a row failed; the last one said: {checked.result.message}",
            {"status": checked.result.status, "failures": row.consecutive_failures},
        )
    ]


def _storage_failed(row: StorageLocation, checked: Checked) -> list[News]:
    row.consecutive_failures += 1
    row.status = StorageStatus.UNREACHABLE
    if row.consecutive_failures != FAILURES_TO_ALARM:
        return []
    row.outage_since = row.outage_since or checked.at
    return [
        News(
            NotificationType.STORAGE_UNREACHABLE,
            Severity.CRITICAL,
            f"The storage location {row.name} cannot be used",
            f"{row.consecutive_failures} checks in a row failed; the last one said: {checked.result.message}",
            {"status": checked.result.status, "failures": row.consecutive_failures},
        )
    ]


def _storage_full(row: StorageLocation, checked: Checked, available: int | None) -> list[News]:
    # An outage that began with too little room is the same one when a check between failed for another reason.
    told = row.outage_since is not None and row.consecutive_failures < FAILURES_TO_ALARM
    row.consecutive_failures = 0
    row.status = StorageStatus.FULL
    row.outage_since = row.outage_since or checked.at
    if told:
        return []
    left = checked.result.message or f"{format_size(available or 0)} are left."
    return [
        News(
            NotificationType.STORAGE_FULL,
            Severity.CRITICAL,
            f"The storage location {row.name} is full",
            f"{left} Backups will fail until there is room: delete some, shorten retention, or give it more space.",
            {"available_bytes": available},
        )
    ]


def _back(row: Datasource | StorageLocation, name: str, checked: Checked) -> list[News]:
    if row.outage_since is None:
        return []
    since, row.outage_since = row.outage_since, None
    minutes = max(0, round((checked.at - since).total_seconds() / 60))
    noun = "datasource" if isinstance(row, Datasource) else "storage location"
    return [
        News(
            NotificationType.CONNECTION_RESTORED,
            Severity.INFO,
            f"The {noun} {name} is well again",
            f"Its outage was noticed {minutes} minutes ago.",
            {"outage_minutes": minutes},
        )
    ]


def _slow(row: Datasource, checked: Checked) -> News:
    usual = row.usual_latency_ms or 0
    return News(
        NotificationType.HEALTH_DEGRADED,
        Severity.WARNING,
        f"The datasource {row.name} answers slowly",
        f"A check took {checked.latency_ms:.0f} ms; usual are {usual:.0f} ms.",
        {"latency_ms": round(checked.latency_ms, 1), "usual_latency_ms": round(usual, 1)},
    )


def _is_slow(usual_ms: float | None, latency_ms: float) -> bool:
    return usual_ms is not None and latency_ms > SLOW_MS and latency_ms > SLOW_FACTOR * usual_ms


def _learned(usual_ms: float | None, latency_ms: float) -> float:
    if usual_ms is None:
        return latency_ms
    return usual_ms + LEARNING_RATE * (min(latency_ms, LEARNED_AT_MOST * max(usual_ms, 1.0)) - usual_ms)


def _is_low(row: StorageLocation, available: int | None) -> bool:
    if available is None:
        return False
    limit_gb = row.config.get("max_size_gb")
    low = min(LOW_BYTES, LOW_SHARE * limit_gb * GB) if limit_gb else LOW_BYTES
    return available < low * (ROOM_TO_RECOVER if row.status is StorageStatus.FULL else 1)
