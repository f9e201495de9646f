"""The queues as data: SPEC M6, a queue for restores and verifications, and one for repairs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class QueueName(StrEnum):
    BACKUP = "backup-queue"
    HEALTH = "health-queue"
    CLEANUP = "cleanup-queue"
    NOTIFICATION = "notification-queue"
    RESTORE = "restore-queue"
    REPAIR = "repair-queue"


@dataclass(frozen=True)
class QueueSpec:
    """`attempts` counts all tries. Exponential back-off waits `2^(n-1) * backoff_ms` after the n-th."""

    concurrency: int
    attempts: int
    keep_completed: int
    backoff: Literal["exponential", "fixed"] | None = None
    backoff_ms: int = 0
    keep_failed: int = 500

    def job_options(self) -> dict[str, Any]:
        """Returns what BullMQ is told with every job."""
        options: dict[str, Any] = {
            "attempts": self.attempts,
            "removeOnComplete": {"count": self.keep_completed},
            "removeOnFail": {"count": self.keep_failed},
        }
        return options | ({"backoff": {"type": self.backoff, "delay": self.backoff_ms}} if self.backoff else {})


SPECS: dict[QueueName, QueueSpec] = {
    QueueName.BACKUP: QueueSpec(3, 3, keep_completed=100, backoff="exponential", backoff_ms=30_000),
    QueueName.HEALTH: QueueSpec(10, 2, keep_completed=50, backoff="fixed", backoff_ms=10_000),
    QueueName.CLEANUP: QueueSpec(1, 1, keep_completed=30),
    QueueName.NOTIFICATION: QueueSpec(5, 3, keep_completed=200, backoff="exponential", backoff_ms=60_000),
    QueueName.RESTORE: QueueSpec(1, 1, keep_completed=100),
    QueueName.REPAIR: QueueSpec(1, 1, keep_completed=100),
}
