"""The audit log: who did what to which thing, from where, and what changed by it; docs/audit.md tells it to people.

A line is written in the transaction of the change that it tells of, as the last thing of it: neither exists without
the other. What changes something outside the catalogue is told before it is done, and told again when it fails.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import AuditEntry
from dataguardian.db.repositories.audit import AuditFilters, AuditRepository, Head
from dataguardian.db.repositories.base import Page
from dataguardian.db.session import at_the_end
from dataguardian.domain.access import Actor
from dataguardian.domain.auditlog import Chain, Finding, storable
from dataguardian.domain.clock import Clock
from dataguardian.domain.errors import ConflictError, DataGuardianError
from dataguardian.service.acting import current_actor
from dataguardian.service.context import Context
from dataguardian.service.secrets import MASK

BATCH = 200
"""Lines that are read at once: some milliseconds of work, after which others get their turn."""

HEAD_SECONDS = 86_400.0
"""How often the newest hash goes into the service's own log; it does at each start, too."""

Changes = Mapping[str, Any]
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
        **more: Any,  # noqa: ANN401 -- what the function of the same name takes
    ) -> None:
        """Has a line written at the end of this write transaction."""
        await record(session, self._context.clock, action, entity_type, entity_id, **more)

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

    async def export(self, after: int = 0) -> tuple[Head, AsyncIterator[str]]:
        """Records that the log is exported. Returns its end, and its lines as JSON lines, that record the last one."""
        await self.tell("audit.export", entity_type="audit", changes={"after": [None, after]} if after else {})
        head = await self.head()
        return head, self._written(after, head.number)

    async def _written(self, after: int, last: int) -> AsyncIterator[str]:
        """Yields some hundred lines at once: a write per line would take most of the time."""
        batch: list[str] = []
        async for line in self.lines(after, last):
            batch.append(json.dumps(line, separators=(",", ":")) + "\n")
            if len(batch) == BATCH:
                yield "".join(batch)
                batch.clear()
        yield "".join(batch)

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


async def record(
    session: AsyncSession,
    clock: Clock,
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

    async def append() -> None:
        await AuditRepository(session).append(fields, clock.now)

    at_the_end(session, append)


def diff(before: Changes, after: Changes, *, anew: Collection[str] = ()) -> dict[str, list[Any]]:
    """Returns `{dotted.field: [before, after]}` of what differs between two documents whose secrets are masked.

    `anew`: fields whose secrets differ although their masks are the same.
    """
    old, new = flat(before), flat(after)
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: [old.get(name), new.get(name)]
        for name in names
        if old.get(name) != new.get(name) or (name in anew and _is_masked(new.get(name)))
    }


def flat(document: Changes, prefix: str = "") -> dict[str, Any]:
    """Returns values by dotted path; lists are values, and an empty object is as good as none."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _is_masked(value: object) -> bool:
    """Tells whether a value is a mask, or has one in it."""
    if isinstance(value, Mapping):
        return any(map(_is_masked, value.values()))
    return any(map(_is_masked, value)) if isinstance(value, list) else value == MASK


def _short(text: str | None, most: int) -> str | None:
    """Returns text that fits into its column, as every database gives it back."""
    return None if text is None else storable({"": text})[""][:most]
