from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dataguardian.domain.notifications import Notification

JOB = UUID("01936f3c-0000-7000-8000-0000000000aa")


def notification(**changes: Any) -> Notification:
    fields: dict[str, Any] = {
        "id": UUID("01936f3c-0000-7000-8000-000000000001"),
        "type": "backup_failed",
        "severity": "critical",
        "entity_type": "backup_job",
        "entity_id": JOB,
        "title": "Backup of shop failed",
        "message": "pg_dump ended with 1\nconnection lost",
        "metadata": {"attempt": 3, "job": "shop"},
        "created_at": datetime(2026, 11, 23, 4, 0, tzinfo=UTC),
    }
    return Notification.model_validate(fields | changes)
