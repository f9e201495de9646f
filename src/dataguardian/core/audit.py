"""The audit log: who did what to which thing, from where, and what changed by it; docs/audit.md tells it to people.

A line is written in the transaction of the change that it tells of, as the last thing of it: neither exists without
the other. What changes something outside the catalogue is told before it is done, and told again when it fails.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.acting import current_actor
from dataguardian.core.context import Context
from dataguardian.core.secrets import MASK
from dataguardian.db.accounts import AuditEntry
from dataguardian.db.models import BackupExecution, BackupJob, Datasource, StorageLocation
from dataguardian.db.repositories.audit import AuditFilters, AuditRepository, Head
from dataguardian.db.repositories.base import Page
from dataguardian.db.session import at_the_end
from dataguardian.domain.access import Actor
from dataguardian.domain.auditlog import Chain, Finding, storable
from dataguardian.domain.errors import ConflictError, DataGuardianError

BATCH = 500
"""Lines that are read at once: some milliseconds of work, after which others get their turn."""

Changes = Mapping[str, Any]
_ENTITIES: Mapping[type, str] = {
    Datasource: "datasource",
    StorageLocation: "storage_location",
    BackupJob: "backup_job",
    BackupExecution: "execution",
}

log = structlog.get_logger(__name__)


class Audit:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._verifying = asyncio.Lock()

    async def record(
        self,
        session: AsyncSession,
        action: str,
        entity_type: str | None = None,
        entity_id: uuid.UUID | None = None,
        *,
        entity_name: str | None = None,
        changes: Changes | None = None,
        actor: Actor | None = None,
    ) -> None:
        """Has a line written at the end of this write transaction: by whoever acts now, or by `actor`.

        `changes` is `{field: [before, after]}`, from `diff`: never with a secret in it.
        """
        who = actor or current_actor()
        fields = {
            "actor_kind": who.kind,
            "actor_id": who.id,
            "actor_name": _short(who.name, 100) or "",
            "address": _short(who.address, 100),
            "request_id": _short(structlog.contextvars.get_contextvars().get("request_id"), 64),
            "action": action,
            "entity_type": entity_type,
            "entity_id": entity_id,
            "entity_name": _short(entity_name, 200),
            "changes": storable(changes or {}),
        }
        at_the_end(session, partial(self._append, session, fields))

    async def tell(self, action: str, **about: Any) -> None:  # noqa: ANN401 -- what `record` takes
        """Writes a line of its own, about something that is not in the catalogue."""
        async with self._context.db.write() as session:
            await self.record(session, action, **about)

    @asynccontextmanager
    async def telling(self, action: str, **about: Any) -> AsyncIterator[None]:  # noqa: ANN401 -- what `record` takes
        """Tells of what the block does before it does it; when it fails, a second line says so."""
        await self.tell(action, **about)
        try:
            yield
        except DataGuardianError as error:
            changes = {**about.get("changes", {}), "outcome": [None, f"failed: {error.code}"]}
            await self.tell(action, **{**about, "changes": changes})
            raise

    async def page(self, filters: AuditFilters, page: int, limit: int) -> Page[AuditEntry]:
        """Returns a page of lines, newest first."""
        async with self._context.db.read() as session:
            return await AuditRepository(session).listed(filters, page, limit)

    async def head(self) -> Head:
        async with self._context.db.read() as session:
            return await AuditRepository(session).head()

    async def lines(self, after: int = 0, until: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yields the lines that follow number `after`, up to `until` or what is the last one now, in flat memory."""
        last = (await self.head()).number if until is None else until
        while after < last:
            async with self._context.db.read() as session:
                found = await AuditRepository(session).after(after, min(BATCH, last - after))
            for line in found:
                yield line
            if not found:
                return
            after = found[-1]["number"]

    async def export(self, after: int = 0) -> AsyncIterator[str]:
        """Records that the log is exported, then yields its lines as JSON lines, that record last."""
        await self.tell("audit.export", entity_type="audit", changes={"after": [None, after]} if after else {})
        last = (await self.head()).number

        async def written() -> AsyncIterator[str]:
            async for line in self.lines(after, last):
                yield json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"

        return written()

    async def verify(self, anchors: Mapping[int, str]) -> Finding:
        """Reads the whole log and checks its chain. Raises ConflictError while somebody else does."""
        if self._verifying.locked():
            raise ConflictError("the audit log is being verified", hint="wait for it to end")
        async with self._verifying:
            chain = Chain(anchors)
            async for line in self.lines():
                if not chain.add(line):
                    break
            return chain.finding()

    async def log_head(self) -> None:
        """Writes the newest hash into the service's own log: an anchor, where that log is kept elsewhere."""
        head = await self.head()
        log.info("audit log", number=head.number, hash=head.hash, anchor=f"{head.number}:{head.hash}")

    async def _append(self, session: AsyncSession, fields: Mapping[str, Any]) -> None:
        await AuditRepository(session).append(fields, self._context.clock.now)


def of(row: Datasource | StorageLocation | BackupJob | BackupExecution) -> dict[str, Any]:
    """Returns how a line names a row."""
    return {"entity_type": _ENTITIES[type(row)], "entity_id": row.id, "entity_name": getattr(row, "name", None)}


def diff(
    before: Changes, after: Changes, *, stored_before: Changes | None = None, stored_after: Changes | None = None
) -> dict[str, list[Any]]:
    """Returns `{dotted.field: [before, after]}` of what differs between two documents whose secrets are masked.

    With both `stored_…`, the same documents as they are stored, a secret that was set anew is told as well, masked.
    """
    old, new = _flat(before), _flat(after)
    stored_old, stored_new = _flat(stored_before or {}), _flat(stored_after or {})
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: [old.get(name), new.get(name)]
        for name in names
        if old.get(name) != new.get(name)
        or (_is_masked(new.get(name)) and stored_old.get(name) != stored_new.get(name))
    }


def _flat(document: Changes, prefix: str = "") -> dict[str, Any]:
    """Returns values by dotted path; lists are values, and an empty object is as good as none."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _is_masked(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_masked, value.values()))
    return any(map(_is_masked, value)) if isinstance(value, list) else value == MASK


def _short(text: str | None, most: int) -> str | None:
    """Returns text that fits into its column, as every database gives it back."""
    return None if text is None else storable({"": text})[""][:most]
