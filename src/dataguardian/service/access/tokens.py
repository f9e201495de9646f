"""Tokens of the API: shown once, hashed, scoped, expiring, revocable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import ApiToken, User
from dataguardian.db.repositories.accounts import TokenRepository, UserRepository
from dataguardian.db.repositories.base import Page
from dataguardian.db.session import Database
from dataguardian.domain.access import GRANTED, Actor, ActorKind, Permission, Role
from dataguardian.domain.clock import Clock
from dataguardian.domain.errors import (
    CatalogUnavailableError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
    UsageError,
)
from dataguardian.domain.ids import new_id
from dataguardian.service.access.actors import Limit, check_datasources, checked_limit, of_token
from dataguardian.service.access.known import Known
from dataguardian.service.access.texts import SHOWN_CHARACTERS, TOKEN_PREFIX, hash_of, is_secret, new_secret, same
from dataguardian.service.access.told import tell_token

LOCAL_TOKEN = "local-token"  # noqa: S105 -- a file's name
USED_SECONDS = 60.0
"""Uses are written at most so often per token."""
LOCAL_SECONDS = 0.15
"""How long the local token waits for a catalogue that hangs: whoever holds it may then see what is wrong."""
MOST_TOKENS = 200
"""Of one user."""
NOBODY = uuid.UUID(int=0)
_KEPT_LOCAL = timedelta(days=30)

REFUSED = "this token is not valid: it is unknown, expired or revoked"
REFUSED_HINT = "make a new one with `dataguardian token create` on the machine that holds the home directory"


class Tokens:
    """Needs the catalogue and a clock only, so that a command can make a token while no service runs."""

    def __init__(self, db: Database, clock: Clock, known: Known | None = None) -> None:
        self._db = db
        self._clock = clock
        self._known = known or Known(clock)
        self._local: tuple[str, Actor] | None = None
        self._used: dict[uuid.UUID, tuple[datetime, str | None]] = {}

    async def create(
        self,
        *,
        name: str,
        role: Role,
        permissions: Iterable[Permission] | None = None,
        datasource_ids: Limit = None,
        expires_at: datetime | None = None,
        user_id: uuid.UUID | None = None,
    ) -> tuple[ApiToken, str]:
        """Returns the row and the token itself, which is nowhere else from then on.

        `permissions` of None are all of the role's. Raises UsageError for a scope that the role lacks, an end in the
        past or a limit of an administrator; NotFoundError for an unknown owner.
        """
        scope = None if permissions is None else frozenset(permissions)
        if scope is not None and not (scope and scope <= GRANTED[role]):
            raise UsageError(
                f"a token of the role {role} cannot have that scope",
                hint=f"one or more of: {', '.join(sorted(GRANTED[role]))}",
            )
        if expires_at is not None and expires_at <= self._clock.now():
            raise UsageError("the token would have expired already", hint="choose a time in the future")
        row, secret = self._new(name, role, user_id)
        row.permissions = None if scope is None else sorted(scope)
        row.datasource_ids = checked_limit(role, datasource_ids)
        row.expires_at = expires_at
        async with self._db.write() as session:
            if user_id is not None:
                await UserRepository(session).get(user_id)
                await _check_number(session, user_id, self._clock.now())
            await check_datasources(session, datasource_ids)
            await TokenRepository(session).add(row)
            await tell_token(session, self._clock, "token.create", row)
        return row, secret

    async def page(self, page: int, limit: int, *, user_id: uuid.UUID | None = None) -> Page[ApiToken]:
        """Returns tokens, newest first: all, or those of one user. Local ones of earlier starts are left out."""
        where = [~(ApiToken.is_local & ApiToken.revoked_at.is_not(None))]
        where += [ApiToken.user_id == user_id] if user_id is not None else []
        async with self._db.read() as session:
            return await TokenRepository(session).page(*where, page=page, limit=limit)

    async def create_for(
        self,
        actor: Actor,
        *,
        name: str,
        role: Role,
        permissions: Iterable[Permission] | None = None,
        datasource_ids: Limit = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiToken, str]:
        """Does the same for somebody, whose token it becomes: it may never do more than its maker, nor live longer.

        Raises ForbiddenError besides: for more, and for tokens that make tokens, unless they are an administrator's.
        """
        if actor.kind is ActorKind.TOKEN and not actor.may(Permission.ADMINISTER):
            raise ForbiddenError("a token does not make tokens", hint="sign in, or ask an administrator")
        scope = GRANTED[role] if permissions is None else frozenset(permissions)
        limit = actor.datasources if datasource_ids is None else datasource_ids
        if not scope <= actor.permissions or (
            actor.datasources is not None and not (limit or frozenset()) <= actor.datasources
        ):
            raise ForbiddenError(
                f"{actor.name} cannot make a token that may do more than {actor.name}",
                hint="choose a smaller role or scope, and datasources within your own limit",
            )
        if actor.kind is ActorKind.TOKEN and actor.id is not None:
            ends = (await self.get(actor.id)).expires_at
            expires_at = ends if expires_at is None else min(expires_at, ends or expires_at)
        return await self.create(
            name=name,
            role=role,
            permissions=permissions,
            datasource_ids=limit,
            expires_at=expires_at,
            user_id=actor.user_id,
        )

    async def page_for(self, actor: Actor, page: int, limit: int) -> Page[ApiToken]:
        """Returns everybody's tokens to those who administer, their own ones to others."""
        if actor.may(Permission.ADMINISTER):
            return await self.page(page, limit)
        return await self.page(page, limit, user_id=actor.user_id or NOBODY)

    async def revoke_for(self, actor: Actor, token_id: uuid.UUID) -> ApiToken:
        """Ends anybody's token for those who administer, their own ones for others. Raises NotFoundError."""
        row = await self.get(token_id)
        is_own = token_id == actor.id or (row.user_id is not None and row.user_id == actor.user_id)
        if not actor.may(Permission.ADMINISTER) and not is_own:
            raise NotFoundError(f"there is no token {token_id}", hint="a list shows what there is", id=str(token_id))
        return await self.revoke(token_id)

    async def get(self, token_id: uuid.UUID) -> ApiToken:
        """Raises NotFoundError."""
        async with self._db.read() as session:
            return await TokenRepository(session).get(token_id)

    async def revoke(self, token_id: uuid.UUID) -> ApiToken:
        """Ends a token at once; one that is revoked already keeps its time. Raises NotFoundError."""
        now = self._clock.now()
        async with self._db.write() as session:
            row = await TokenRepository(session).locked(token_id)
            if row.revoked_at is None:
                row.revoked_at = row.updated_at = now
                await tell_token(session, self._clock, "token.revoke", row)
        if self._local is not None and self._local[1].id == token_id:
            self._local = None
        self._known.forget()
        return row

    async def authenticate(self, secret: str, address: str | None = None) -> Actor:
        """Returns who holds this token. Raises UnauthenticatedError, CatalogUnavailableError."""
        if not is_secret(secret, TOKEN_PREFIX):
            raise UnauthenticatedError(REFUSED, hint=REFUSED_HINT)
        hashed = hash_of(secret)
        actor = self._known.peek(hashed, Actor) or await self._found(hashed)
        if actor is None:
            raise UnauthenticatedError(REFUSED, hint=REFUSED_HINT)
        if actor.id is not None:
            self._used[actor.id] = (self._clock.now(), address)
        return actor

    async def make_local(self, home: Path, home_id: str) -> Path:
        """Makes the token for commands on this machine, ends the former ones of this home, writes it to a file."""
        name = f"local {home_id}"
        row, secret = self._new(name, Role.ADMIN, None)
        row.is_local = True
        async with self._db.write() as session:
            tokens = TokenRepository(session)
            await tokens.revoke(row.created_at, ApiToken.is_local.is_(True), ApiToken.name == name)
            await tokens.forget_local(name, row.created_at - _KEPT_LOCAL)
            await tokens.add(row)
        self._known.forget()
        self._local = hash_of(secret), of_token(row, None)
        path = home / LOCAL_TOKEN
        await asyncio.to_thread(_write_alone, path, secret)
        return path

    async def write_uses(self) -> None:
        """Writes down when tokens were used, all in one transaction. Called once per USED_SECONDS, and at the end."""
        used, self._used = self._used, {}
        if not used:
            return
        async with self._db.write() as session:
            for token_id, (moment, address) in used.items():
                await TokenRepository(session).used(token_id, moment, address)

    async def _found(self, hashed: str) -> Actor | None:
        def look() -> asyncio.Future[Actor | None]:
            return asyncio.ensure_future(self._known.get(hashed, Actor, lambda: self._load(hashed)))

        local = self._local
        if local is None or not same(local[0], hashed):
            return await look()
        looking = look()
        with contextlib.suppress(CatalogUnavailableError):
            done, _ = await asyncio.wait({looking}, timeout=LOCAL_SECONDS)
            if done:
                return looking.result()
            looking.add_done_callback(_heard)
        return local[1]

    async def _load(self, hashed: str) -> Actor | None:
        async with self._db.read() as session:
            found = await TokenRepository(session).by_hash(hashed)
        return of_token(*found) if found and _is_valid(*found, self._clock.now()) else None

    def _new(self, name: str, role: Role, user_id: uuid.UUID | None) -> tuple[ApiToken, str]:
        now, secret = self._clock.now(), new_secret(TOKEN_PREFIX)
        row = ApiToken(
            id=new_id(now),
            created_at=now,
            updated_at=now,
            name=name,
            secret_hash=hash_of(secret),
            shown_as=secret[:SHOWN_CHARACTERS],
            role=role,
            user_id=user_id,
            is_local=False,
        )
        return row, secret


async def _check_number(session: AsyncSession, user_id: uuid.UUID, now: datetime) -> None:
    """Raises ConflictError for a user who has so many tokens that nobody knows any more what they are for."""
    if await TokenRepository(session).live(user_id, now) >= MOST_TOKENS:
        raise ConflictError(f"this user has {MOST_TOKENS} tokens", hint="revoke those that nobody needs")


def _is_valid(token: ApiToken, owner: User | None, now: datetime) -> bool:
    if token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now):
        return False
    return token.user_id is None or (owner is not None and owner.enabled)


def _heard(looking: asyncio.Future[Actor | None]) -> None:
    """What becomes of a look that nobody waits for any more must be looked at."""
    if not looking.cancelled():
        looking.exception()


def _write_alone(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, whole or not at all."""
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
