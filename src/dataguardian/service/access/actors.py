"""Rows become actors: what a user or a token may do, which is never more than the user whose token it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import ApiToken, User
from dataguardian.db.repositories.definitions import DatasourceRepository
from dataguardian.domain.access import GRANTED, Actor, ActorKind, Permission, Role
from dataguardian.domain.errors import UsageError

_RANK = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)

Limit = frozenset[uuid.UUID] | None
"""Datasources; None: all of them."""


def of_user(user: User) -> Actor:
    return Actor(
        ActorKind.USER,
        user.name,
        user.role,
        GRANTED[user.role],
        user.id,
        limit_of(user.datasource_ids),
        user_id=user.id,
    )


def of_token(token: ApiToken, owner: User | None) -> Actor:
    """Returns the token's actor: role, scope and datasources are those of the token and of its owner."""
    role = token.role if owner is None else min(token.role, owner.role, key=_RANK.index)
    scope = GRANTED[role] if token.permissions is None else GRANTED[role] & _permissions(token.permissions)
    limit = limit_of(token.datasource_ids)
    return Actor(
        ActorKind.TOKEN,
        token.name,
        role,
        scope,
        token.id,
        both(limit, limit_of(owner.datasource_ids) if owner else None),
        user_id=token.user_id,
    )


def limit_of(stored: Sequence[str] | None) -> Limit:
    return None if stored is None else frozenset(uuid.UUID(text) for text in stored)


def both(one: Limit, other: Limit) -> Limit:
    """Returns what two limits leave."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def checked_limit(role: Role, limit: Iterable[uuid.UUID] | None) -> list[str] | None:
    """Returns a limit as it is stored. Raises UsageError for an administrator's: who makes users has no limits."""
    if limit is None:
        return None
    if role is Role.ADMIN:
        raise UsageError(
            "an administrator cannot be limited to some datasources", hint="choose the role operator or viewer"
        )
    return sorted(str(datasource_id) for datasource_id in set(limit))


async def check_datasources(session: AsyncSession, limit: Limit) -> None:
    """Raises NotFoundError for a limit to a datasource that is not there."""
    for datasource_id in limit or ():
        await DatasourceRepository(session).get(datasource_id)


def _permissions(stored: Iterable[str]) -> frozenset[Permission]:
    known = set(Permission)
    return frozenset(Permission(word) for word in stored if word in known)
