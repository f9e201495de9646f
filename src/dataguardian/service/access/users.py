"""Users: who they are and what they may do. One enabled administrator always stays."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import User
from dataguardian.db.repositories.accounts import SignInRepository, UserRepository
from dataguardian.db.repositories.base import Page
from dataguardian.domain.access import Role
from dataguardian.domain.errors import ConflictError, UsageError
from dataguardian.domain.ids import new_id
from dataguardian.service.access.actors import Limit, check_datasources, checked_limit, limit_of
from dataguardian.service.access.known import Known
from dataguardian.service.access.names import checked_name
from dataguardian.service.access.passwords import Passwords, checked_password
from dataguardian.service.access.texts import hash_of
from dataguardian.service.access.told import ANEW, seen, tell_change, tell_user
from dataguardian.service.access.totp import matching_step, new_recovery_codes, new_totp_secret, plain_code, uri_of
from dataguardian.service.audit import diff
from dataguardian.service.context import Context

POWERS = ("role", "enabled", "datasource_ids")
"""Who changes one of these ends the user's sessions."""


class Users:
    def __init__(self, context: Context, passwords: Passwords, known: Known) -> None:
        self._context = context
        self._passwords = passwords
        self._known = known

    async def create(
        self,
        *,
        name: str,
        password: SecretStr,
        role: Role,
        datasource_ids: Limit = None,
        enabled: bool = True,
        first: bool = False,
    ) -> User:
        """`first`: only as the very first user. Raises UsageError for a name, password or limit that is not valid,
        ConflictError for a name that is taken, or when there are users and this must be the first.
        """
        name = checked_name(name)
        limit = checked_limit(role, datasource_ids)
        password_hash = await self._passwords.hashed(checked_password(password, name))
        now = self._context.clock.now()
        row = User(
            id=new_id(now),
            created_at=now,
            updated_at=now,
            name=name,
            password_hash=password_hash,
            role=role,
            enabled=enabled,
            datasource_ids=limit,
            totp_confirmed=False,
            recovery_codes=[],
            failed_sign_ins=0,
            password_changed_at=now,
        )
        async with self._context.db.write() as session:
            users = UserRepository(session)
            await users.one_at_a_time()
            await check_datasources(session, datasource_ids)
            if first and await users.count():
                raise ConflictError("there is an administrator already", hint="sign in")
            if await users.by_name(name) is not None:
                raise ConflictError(f"there is a user {name} already", hint="choose another name")
            await users.add(row)
            await tell_user(session, self._context.clock, "user.create", row, diff({}, seen(row)))
            return row

    async def change(self, user_id: uuid.UUID, fields: Mapping[str, Any]) -> User:
        """Changes `role`, `enabled` and `datasource_ids`, as far as they are sent. Other powers end every session.

        Raises NotFoundError, UsageError, ConflictError when no enabled administrator would be left.
        """
        async with self._context.db.write() as session:
            await UserRepository(session).one_at_a_time()
            row = await UserRepository(session).locked(user_id)
            before, told = {name: getattr(row, name) for name in POWERS}, seen(row)
            role, enabled = Role(fields.get("role", row.role)), bool(fields.get("enabled", row.enabled))
            wanted = fields.get("datasource_ids", limit_of(row.datasource_ids))
            if "role" in fields and role is Role.ADMIN and "datasource_ids" not in fields:
                wanted = None
            if (role, enabled) != (Role.ADMIN, True):
                await _someone_stays(session, row)
            await check_datasources(session, wanted if "datasource_ids" in fields else None)
            row.role, row.enabled, row.datasource_ids = role, enabled, checked_limit(role, wanted)
            row.updated_at = self._context.clock.now()
            if before != {name: getattr(row, name) for name in POWERS}:
                await SignInRepository(session).end_all(user_id)
            await tell_change(session, self._context.clock, row, told)
        self._known.forget()
        return row

    async def set_password(self, user_id: uuid.UUID, password: SecretStr) -> User:
        """Sets another password, which ends every session and a lock-out. Raises NotFoundError, UsageError."""
        row = await self.get(user_id)
        password_hash = await self._passwords.hashed(checked_password(password, row.name))
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            row = await UserRepository(session).locked(user_id)
            row.password_hash, row.password_changed_at, row.updated_at = password_hash, now, now
            row.failed_sign_ins, row.locked_until = 0, None
            await SignInRepository(session).end_all(user_id)
            await tell_user(session, self._context.clock, "user.update", row, ANEW)
        self._known.forget()
        return row

    async def unlock(self, user_id: uuid.UUID) -> User:
        """Ends a lock-out after failed sign-ins, in every process. Raises NotFoundError."""
        async with self._context.db.write() as session:
            row = await UserRepository(session).locked(user_id)
            row.failed_sign_ins, row.locked_until = 0, None
            row.updated_at = self._context.clock.now()
            await tell_user(session, self._context.clock, "user.unlock", row, {})
        return row

    async def delete(self, user_id: uuid.UUID) -> None:
        """Removes a user, sessions and tokens too. Raises NotFoundError; ConflictError for the last administrator."""
        async with self._context.db.write() as session:
            users = UserRepository(session)
            await users.one_at_a_time()
            row = await users.locked(user_id)
            await _someone_stays(session, row)
            await users.delete(user_id)
            await tell_user(session, self._context.clock, "user.delete", row, diff(seen(row), {}))
        self._known.forget()

    async def get(self, user_id: uuid.UUID) -> User:
        async with self._context.db.read() as session:
            return await UserRepository(session).get(user_id)

    async def page(self, page: int, limit: int) -> Page[User]:
        async with self._context.db.read() as session:
            return await UserRepository(session).page(page=page, limit=limit)

    async def enrol(self, user_id: uuid.UUID) -> tuple[str, str]:
        """Draws a secret for the second factor, which counts once it is confirmed; returns it and its `otpauth` URI.

        Raises ConflictError when there is one that counts.
        """
        secret = new_totp_secret()
        sealed = self._context.vault.seal(secret, purpose=totp_purpose(user_id))
        async with self._context.db.write() as session:
            row = await UserRepository(session).locked(user_id)
            if row.totp_confirmed:
                raise ConflictError("there is a second factor already", hint="disable it first")
            row.totp_secret, row.totp_last_step, row.updated_at = sealed, None, self._context.clock.now()
        return secret, uri_of(secret, row.name)

    async def confirm(self, user_id: uuid.UUID, code: str) -> list[str]:
        """Makes the second factor count from the next sign-in on; returns the recovery codes, which are shown once.

        Raises UsageError for a wrong code, ConflictError when nothing is to be confirmed.
        """
        now, codes = self._context.clock.now(), new_recovery_codes()
        async with self._context.db.write() as session:
            row = await UserRepository(session).locked(user_id)
            if row.totp_confirmed or row.totp_secret is None:
                raise ConflictError("no second factor waits for its confirmation", hint="enrol one first")
            secret = self._context.vault.open(row.totp_secret, purpose=totp_purpose(user_id))
            step = matching_step(secret, plain_code(code), now, row.totp_last_step)
            if step is None:
                raise UsageError("this is not the code that the app shows now", hint="check the clocks, and try again")
            before = seen(row)
            row.totp_confirmed, row.totp_last_step, row.updated_at = True, step, now
            row.recovery_codes = [hash_of(plain_code(code)) for code in codes]
            await tell_change(session, self._context.clock, row, before)
        return codes

    async def disable_totp(self, user_id: uuid.UUID) -> User:
        """Ends the second factor. Raises NotFoundError."""
        async with self._context.db.write() as session:
            row = await UserRepository(session).locked(user_id)
            before = seen(row)
            row.totp_secret, row.totp_confirmed, row.totp_last_step = None, False, None
            row.recovery_codes, row.updated_at = [], self._context.clock.now()
            await tell_change(session, self._context.clock, row, before)
        return row


def totp_purpose(user_id: uuid.UUID) -> str:
    """Returns what the vault binds a secret of the second factor to."""
    return f"totp:{user_id}"


async def _someone_stays(session: AsyncSession, row: User) -> None:
    """Raises ConflictError when `row` is the only enabled administrator."""
    if row.role is not Role.ADMIN or not row.enabled:
        return
    if not await UserRepository(session).others_who_administer(row.id):
        raise ConflictError(
            f"{row.name} is the last administrator", hint="make somebody else an administrator first", name=row.name
        )
