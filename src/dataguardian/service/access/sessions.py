"""Signing in and what follows: sessions of browsers, kept by the server, ended by it at any time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import SignIn, User
from dataguardian.db.repositories.accounts import SignInRepository, UserRepository
from dataguardian.domain.access import Actor
from dataguardian.domain.errors import (
    ForbiddenError,
    NotFoundError,
    SecretUnreadableError,
    TooManyAttemptsError,
    UnauthenticatedError,
)
from dataguardian.domain.ids import new_id
from dataguardian.service.access.actors import of_user
from dataguardian.service.access.known import Known
from dataguardian.service.access.names import name_of
from dataguardian.service.access.passwords import Passwords
from dataguardian.service.access.texts import hash_of, is_secret, new_secret, same
from dataguardian.service.access.throttle import (
    FORGIVEN_SECONDS,
    FORGOTTEN_SECONDS,
    FREE_FOR_ADDRESS,
    FREE_FOR_NAME,
    Throttle,
    is_here,
    network_of,
    refuse,
)
from dataguardian.service.access.told import tell_user
from dataguardian.service.access.totp import matching_step, plain_code
from dataguardian.service.access.users import totp_purpose
from dataguardian.service.audit import record
from dataguardian.service.context import Context
from dataguardian.service.refusals import Refusals, unknown

IDLE = timedelta(hours=12)
LONGEST = timedelta(days=7)
FORGET_SECONDS = 3600.0
MOST_SESSIONS = 100
"""Of one user; the oldest goes."""
PACE_SECONDS = 0.4
"""A sign-in that fails is answered after a multiple of this, so that no answer tells by its time what was wrong."""
MOST_NAME, MOST_AGENT = 100, 300

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Session:
    """A session that was just begun. `secret` goes into the cookie, `csrf` is what its page must send with changes."""

    id: uuid.UUID
    secret: str = field(repr=False)
    csrf: str = field(repr=False)
    expires_at: datetime
    user: User


@dataclass(frozen=True)
class SignedIn:
    """Who a session belongs to."""

    actor: Actor
    id: uuid.UUID
    csrf_hash: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    user: User

    def has_csrf(self, sent: str) -> bool:
        return same(hash_of(sent), self.csrf_hash)


@dataclass(frozen=True)
class _Attempt:
    """A sign-in that is being looked at. `user` is None for a stranger; `key` is what its failures count for."""

    name: str
    key: str
    address: str | None
    user: User | None

    @property
    def is_shared(self) -> bool:
        """Whether it counts for the name wherever it comes from, and so in the user's row."""
        return self.key == self.name


class Sessions:
    def __init__(self, context: Context, passwords: Passwords, known: Known, refusals: Refusals) -> None:
        self._context = context
        self._refusals = refusals
        self._passwords = passwords
        self._known = known
        self._names = Throttle(context.clock, FREE_FOR_NAME)
        self._addresses = Throttle(context.clock, FREE_FOR_ADDRESS, FORGIVEN_SECONDS)
        self._written: set[str] = set()
        """Names whose failures this process has written into their rows."""
        self._seen: dict[uuid.UUID, tuple[datetime, datetime]] = {}
        self._forgot_at: float | None = None

    async def sign_in(
        self, name: str, password: SecretStr, code: str | None = None, address: str | None = None, agent: str = ""
    ) -> Session:
        """Begins a session. Raises UnauthenticatedError, of one text and pace whatever was wrong, and
        TooManyAttemptsError before anything is looked at.
        """
        began = asyncio.get_running_loop().time()
        try:
            attempt = await self._admitted(name_of(name)[:MOST_NAME], address)
        except TooManyAttemptsError:
            self._note(address, None, "too many attempts")
            raise
        user = await self._proven(attempt, password, code or "")
        session = None if user is None else await self._begin(attempt, user, code or "", agent)
        if session is None:
            await self._failed(attempt)
            self._note(address, attempt.user, "wrong name, password or code")
            await _pace(began)
            raise UnauthenticatedError(
                "the name, the password or the code is not right",
                hint="those who have a second factor send its code, too",
            )
        self._names.forget(attempt.key)
        self._written.discard(attempt.key)
        self._addresses.take_back(network_of(address))
        return session

    async def confirm(self, user_id: uuid.UUID, password: SecretStr, address: str | None) -> User:
        """Asks who is signed in for the password once more, before what a stolen session must not do.

        Raises ForbiddenError, TooManyAttemptsError, NotFoundError.
        """
        async with self._context.db.read() as session:
            name = (await UserRepository(session).get(user_id)).name
        began = asyncio.get_running_loop().time()
        attempt = await self._admitted(name, address)
        if attempt.user is not None and await self._passwords.matches(attempt.user.password_hash, password):
            self._names.forget(attempt.key)
            self._addresses.take_back(network_of(address))
            return attempt.user
        await self._failed(attempt)
        await _pace(began)
        raise ForbiddenError("this is not the password", hint="give the password that you signed in with")

    async def authenticate(self, secret: str) -> SignedIn:
        """Returns whose session this is. Raises UnauthenticatedError, CatalogUnavailableError."""
        hashed = hash_of(secret)
        found = None
        if is_secret(secret):
            found = await self._known.get(hashed, SignedIn, lambda: self._load(hashed))
        now = self._context.clock.now()
        if found is None or found.expires_at <= now:
            raise UnauthenticatedError("this session has ended", hint="sign in again")
        self._seen[found.id] = now, min(now + IDLE, found.created_at + LONGEST)
        return found

    async def sign_out(self, session_id: uuid.UUID) -> None:
        async with self._context.db.write() as session:
            await SignInRepository(session).delete(session_id)
            await record(session, self._context.clock, "session.delete", "session", session_id)
        self._known.forget()

    async def of_user(self, user_id: uuid.UUID) -> Sequence[SignIn]:
        """Returns a user's sessions that have not ended, newest first. Raises NotFoundError."""
        async with self._context.db.read() as session:
            await UserRepository(session).get(user_id)
            where = (SignIn.user_id == user_id, SignIn.expires_at > self._context.clock.now())
            return await SignInRepository(session).all(*where, order=SignIn.created_at.desc())

    async def end(self, user_id: uuid.UUID, session_id: uuid.UUID) -> None:
        """Ends one session of a user. Raises NotFoundError."""
        async with self._context.db.write() as session:
            row = await SignInRepository(session).get(session_id)
            if row.user_id != user_id:
                raise NotFoundError(f"there is no session {session_id}", hint="a list shows what there is")
            await SignInRepository(session).delete(session_id)
            await record(session, self._context.clock, "session.delete", "session", session_id)
        self._known.forget()

    async def end_all(self, user_id: uuid.UUID) -> int:
        """Ends every session of a user; returns how many there were."""
        async with self._context.db.write() as session:
            ended = await SignInRepository(session).end_all(user_id)
            changes = {"sessions": [ended, 0]}
            await record(session, self._context.clock, "session.delete", "user", user_id, changes=changes)
        self._known.forget()
        return ended

    async def write_uses(self) -> None:
        """Writes down, in one transaction, when sessions were used; now and then removes those that have ended."""
        seen, self._seen = self._seen, {}
        moment = self._context.clock.monotonic()
        forgetting = self._forgot_at is None or moment - self._forgot_at > FORGET_SECONDS
        if not seen and not forgetting:
            return
        async with self._context.db.write() as session:
            for session_id, (last_seen_at, expires_at) in seen.items():
                await SignInRepository(session).seen(session_id, last_seen_at, expires_at)
            if forgetting:
                await SignInRepository(session).forget_expired(self._context.clock.now())
                self._forgot_at = moment

    async def _admitted(self, name: str, address: str | None) -> _Attempt:
        """Counts the attempt, or raises TooManyAttemptsError. Attempts from this machine, and from where the user is
        signed in already, count by themselves: nobody elsewhere can keep them out.
        """
        network = network_of(address)
        self._addresses.check(network)
        now = self._context.clock.now()
        async with self._context.db.read() as session:
            user = await UserRepository(session).by_name(name)
            is_familiar = user is not None and await SignInRepository(session).lives(user.id, address or "", now)
        key = f"{name} {network}" if is_here(address) or is_familiar else name
        attempt = _Attempt(name, key, address, user if user is not None and user.enabled else None)
        shared = attempt.user if attempt.is_shared else None
        if shared is not None and not shared.failed_sign_ins and key in self._written:
            self._written.discard(key)  # somebody unlocked the user since, or set another password
            self._names.forget(key)
        self._names.check(key)
        if shared is not None and shared.locked_until is not None:
            refuse((shared.locked_until - now).total_seconds())
        self._addresses.count(network)
        self._names.count(key, _failures(shared, now) if shared is not None else 0)
        return attempt

    async def _proven(self, attempt: _Attempt, password: SecretStr, code: str) -> User | None:
        """Returns the user whose password and code these are."""
        user = attempt.user
        right = await self._passwords.matches(user.password_hash if user else None, password)
        return user if right and user is not None and self._second(user, code) is not None else None

    def _second(self, user: User, code: str) -> tuple[int | None, str | None] | None:
        """Returns what the second factor spends: a step, or the hash of a recovery code. None when it is not right."""
        if not user.totp_confirmed or user.totp_secret is None:
            return None, None
        plain = plain_code(code)
        recovery = hash_of(plain)
        if any([same(recovery, stored) for stored in user.recovery_codes]):  # noqa: C419 -- looks at all of them
            return None, recovery
        try:
            secret = self._context.vault.open(user.totp_secret, purpose=totp_purpose(user.id))
        except SecretUnreadableError as error:
            log.error("a second factor cannot be read", user=user.name, message=error.message)  # noqa: TRY400 -- says all
            return None
        step = matching_step(secret, plain, self._context.clock.now(), user.totp_last_step)
        return None if step is None else (step, None)

    async def begin(self, user: User, address: str | None, agent: str) -> Session:
        """Begins a session of somebody who has just proved to be that user. Raises UnauthenticatedError when the user
        has changed meanwhile.
        """
        async with self._context.db.write() as session:
            if await self._still(session, user) is None:
                raise UnauthenticatedError("this user has changed meanwhile", hint="sign in again")
            return await self._add(session, user, address, agent)

    async def _begin(self, attempt: _Attempt, proven: User, code: str, agent: str) -> Session | None:
        """Begins the session and spends the code, unless something has changed since the password was looked at."""
        now = self._context.clock.now()
        async with self._context.db.write() as session:
            user = await self._still(session, proven)
            spent = None if user is None else self._second(user, code)
            if user is None or spent is None:
                return None
            step, recovery = spent
            user.totp_last_step = user.totp_last_step if step is None else step
            user.recovery_codes = [stored for stored in user.recovery_codes if stored != recovery]
            if attempt.is_shared:  # what others do elsewhere is not forgotten because somebody signs in at home
                user.failed_sign_ins, user.locked_until = 0, None
            user.last_sign_in_at = user.updated_at = now
            await tell_user(session, self._context.clock, "session.create", user, {}, actor=_as(user, attempt.address))
            return await self._add(session, user, attempt.address, agent)

    def _note(self, address: str | None, user: User | None, reason: str) -> None:
        """Has a refused sign-in told. A name that nobody has is not: it may be a password in the wrong field."""
        who = unknown(address, user.name) if user else unknown(address)
        self._refusals.note("session.refused", actor=who, changes={"reason": [None, reason]})

    @staticmethod
    async def _still(session: AsyncSession, proven: User) -> User | None:
        """Returns the user's row, locked; None when its password is another one by now, or it is disabled."""
        user = await UserRepository(session).find_locked(proven.id)
        is_same = user is not None and user.enabled and user.password_hash == proven.password_hash
        return user if is_same else None

    async def _add(self, session: AsyncSession, user: User, address: str | None, agent: str) -> Session:
        now, secret = self._context.clock.now(), new_secret()
        csrf = csrf_of(secret)
        row = SignIn(
            id=new_id(now),
            created_at=now,
            updated_at=now,
            user_id=user.id,
            secret_hash=hash_of(secret),
            csrf_hash=hash_of(csrf),
            expires_at=now + IDLE,
            last_seen_at=now,
            address=(address or "")[:MOST_NAME],
            user_agent=printable(agent)[:MOST_AGENT],
        )
        await SignInRepository(session).add(row)
        await SignInRepository(session).keep_newest(user.id, MOST_SESSIONS)
        return Session(row.id, secret, csrf, row.expires_at, user)

    async def _failed(self, attempt: _Attempt) -> None:
        """Remembers a failure of a user in the row, so that a restart does not forget it."""
        if attempt.user is None or not attempt.is_shared:
            return
        now = self._context.clock.now()
        attempts, pause = self._names.state(attempt.key)
        async with self._context.db.write() as session:
            user = await UserRepository(session).find_locked(attempt.user.id)
            if user is not None:
                user.failed_sign_ins = attempts
                user.locked_until = now + timedelta(seconds=pause) if pause > 0 else None
        self._written.add(attempt.key)

    async def _load(self, hashed: str) -> SignedIn | None:
        async with self._context.db.read() as session:
            found = await SignInRepository(session).by_hash(hashed)
        if found is None or not found[1].enabled:
            return None
        row, user = found
        return SignedIn(of_user(user), row.id, row.csrf_hash, row.created_at, row.expires_at, user)


def _failures(user: User, now: datetime) -> int:
    """Returns the failures that still count: after as long as those of a name that nobody has are remembered, none."""
    is_recent = user.locked_until is not None and now - user.locked_until < timedelta(seconds=FORGOTTEN_SECONDS)
    return user.failed_sign_ins if is_recent else 0


def csrf_of(secret: str) -> str:
    """Returns the token against forged requests that belongs to a session: its page may ask for it again."""
    return hash_of(f"csrf {secret}")


def printable(text: str) -> str:
    """Returns what can be stored and shown of a text that a stranger has sent."""
    return "".join(character for character in text if character.isprintable())


def _as(user: User, address: str | None) -> Actor:
    return replace(of_user(user), address=address)


async def _pace(began: float) -> None:
    passed = asyncio.get_running_loop().time() - began
    await asyncio.sleep(PACE_SECONDS - passed % PACE_SECONDS)
