"""Users, their sessions, and tokens."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, or_, select, update

from dataguardian.db.accounts import ApiToken, SignIn, User
from dataguardian.db.repositories.base import Repository
from dataguardian.domain.access import Role

ACCOUNTS_LOCK = 0x646761636373
"""Of PostgreSQL's advisory locks: whoever changes who may administer takes it first."""


class UserRepository(Repository[User]):
    model = User
    noun = "user"

    async def by_name(self, name: str) -> User | None:
        return (await self.session.execute(select(User).where(User.name == name))).scalars().first()

    async def one_at_a_time(self) -> None:
        """Makes transactions that change users wait for each other; SQLite has one writer anyway."""
        if self.session.get_bind().dialect.name == "postgresql":
            await self.session.execute(select(func.pg_advisory_xact_lock(ACCOUNTS_LOCK)))

    async def others_who_administer(self, user_id: uuid.UUID) -> int:
        """Counts the enabled administrators apart from one."""
        return await self.count(User.role == Role.ADMIN, User.enabled.is_(True), User.id != user_id)


class SignInRepository(Repository[SignIn]):
    model = SignIn
    noun = "session"

    async def by_hash(self, secret_hash: str) -> tuple[SignIn, User] | None:
        statement = select(SignIn, User).join(User, User.id == SignIn.user_id).where(SignIn.secret_hash == secret_hash)
        row = (await self.session.execute(statement)).first()
        return None if row is None else (row[0], row[1])

    async def end_all(self, user_id: uuid.UUID) -> int:
        return await self.changed(delete(SignIn).where(SignIn.user_id == user_id))

    async def keep_newest(self, user_id: uuid.UUID, most: int) -> int:
        """Ends the oldest sessions of a user beyond so many."""
        newest = select(SignIn.id).where(SignIn.user_id == user_id).order_by(SignIn.id.desc()).limit(most)
        return await self.changed(delete(SignIn).where(SignIn.user_id == user_id, SignIn.id.not_in(newest)))

    async def forget_expired(self, now: datetime) -> int:
        return await self.changed(delete(SignIn).where(SignIn.expires_at <= now))

    async def lives(self, user_id: uuid.UUID, address: str, now: datetime) -> bool:
        """Tells whether the user is signed in from an address."""
        return bool(await self.count(SignIn.user_id == user_id, SignIn.address == address, SignIn.expires_at > now))

    async def seen(self, sign_in_id: uuid.UUID, moment: datetime, expires_at: datetime) -> None:
        values = {"last_seen_at": moment, "updated_at": moment, "expires_at": expires_at}
        await self.changed(update(SignIn).where(SignIn.id == sign_in_id).values(**values))


class TokenRepository(Repository[ApiToken]):
    model = ApiToken
    noun = "token"

    async def by_hash(self, secret_hash: str) -> tuple[ApiToken, User | None] | None:
        """Returns a token and whose it is."""
        statement = (
            select(ApiToken, User)
            .outerjoin(User, User.id == ApiToken.user_id)
            .where(ApiToken.secret_hash == secret_hash)
        )
        row = (await self.session.execute(statement)).first()
        return None if row is None else (row[0], row[1])

    async def live(self, user_id: uuid.UUID, now: datetime) -> int:
        """Counts a user's tokens that still open something."""
        ends = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > now)
        return await self.count(ApiToken.user_id == user_id, ApiToken.revoked_at.is_(None), ends)

    async def revoke(self, now: datetime, *where: ColumnElement[bool]) -> int:
        """Revokes those that are not; returns how many."""
        chosen = update(ApiToken).where(ApiToken.revoked_at.is_(None), *where)
        return await self.changed(chosen.values(revoked_at=now, updated_at=now))

    async def used(self, token_id: uuid.UUID, moment: datetime, address: str | None) -> None:
        values = {"last_used_at": moment, "last_used_from": address}
        await self.changed(update(ApiToken).where(ApiToken.id == token_id).values(**values))

    async def forget_local(self, name: str, before: datetime) -> int:
        """Removes rows of local tokens of earlier starts that were revoked before a time."""
        mine = (ApiToken.is_local.is_(True), ApiToken.name == name, ApiToken.revoked_at < before)
        return await self.changed(delete(ApiToken).where(*mine))

    async def of(self, user_ids: Collection[uuid.UUID]) -> Sequence[ApiToken]:
        return await self.all(ApiToken.user_id.in_(user_ids), order=ApiToken.created_at)
