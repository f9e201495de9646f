"""Users, sessions and tokens as the audit log tells of them: never with a password, a secret or a hash of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import ApiToken, User
from dataguardian.domain.access import Actor
from dataguardian.domain.clock import Clock, to_iso
from dataguardian.service.audit import diff, record
from dataguardian.service.secrets import MASK

ANEW: Mapping[str, Any] = {"password": [MASK, MASK]}
"""That a password was set, as a change."""


def seen(row: User) -> dict[str, Any]:
    """Returns a user as it may be told; to be asked before it is changed."""
    return {
        "name": row.name,
        "role": str(row.role),
        "enabled": row.enabled,
        "datasource_ids": row.datasource_ids,
        "second_factor": row.totp_confirmed,
    }


async def tell_user(
    session: AsyncSession,
    clock: Clock,
    verb: str,
    row: User,
    /,
    changes: Mapping[str, Any],
    *,
    actor: Actor | None = None,
) -> None:
    """Tells of a user: by `session.create`, say, that somebody has signed in."""
    await record(session, clock, verb, "user", row.id, entity_name=row.name, changes=changes, actor=actor)


async def tell_change(session: AsyncSession, clock: Clock, row: User, before: Mapping[str, Any]) -> None:
    """Tells what is another one now; nothing when nothing is."""
    changes = diff(before, seen(row))
    if changes:
        await tell_user(session, clock, "user.update", row, changes)


async def tell_token(session: AsyncSession, clock: Clock, verb: str, row: ApiToken) -> None:
    facts = {
        "shown_as": row.shown_as,
        "role": str(row.role),
        "permissions": row.permissions,
        "datasource_ids": row.datasource_ids,
        "expires_at": to_iso(row.expires_at) if row.expires_at else None,
        "user_id": str(row.user_id) if row.user_id else None,
    }
    told = {name: value for name, value in facts.items() if value is not None}
    changes = diff({}, told) if verb == "token.create" else diff(told, {})
    await record(session, clock, verb, "token", row.id, entity_name=row.name, changes=changes)
