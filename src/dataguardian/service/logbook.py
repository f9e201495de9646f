"""The log that is kept per execution, restore or verification: rows in the catalogue, and lines of the service."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

import structlog

from dataguardian.db.repositories.notifications import LogRepository
from dataguardian.domain.errors import CatalogUnavailableError
from dataguardian.service.context import Context

log = structlog.get_logger(__name__)


class Logbook:
    """A catalogue that is away keeps lines waiting; they are written with the next one, or at the end."""

    def __init__(self, context: Context, owner_id: uuid.UUID) -> None:
        self._context = context
        self._owner_id = owner_id
        self._waiting: list[dict[str, Any]] = []

    async def write(self, level: str, message: str, **details: Any) -> None:  # noqa: ANN401 -- plain JSON
        getattr(log, level)(message, execution_id=str(self._owner_id), **details)
        self._waiting.append(
            {"created_at": self._context.clock.now(), "level": level, "message": message, "details": details}
        )
        await self._flush()

    async def close(self) -> None:
        await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        with contextlib.suppress(CatalogUnavailableError):
            async with self._context.db.write() as session:
                await LogRepository(session).append(self._owner_id, self._waiting)
            self._waiting.clear()
