"""The first administrator: whoever sees the console of the first start may make one, and nobody else."""

from __future__ import annotations

import base64
import hmac

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.accounts import User
from dataguardian.db.repositories.accounts import UserRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.access import Role
from dataguardian.domain.errors import ConflictError, UnauthenticatedError
from dataguardian.service.access.texts import hash_of, is_secret, new_secret, same
from dataguardian.service.access.throttle import FORGIVEN_SECONDS, FREE_FOR_ADDRESS, Throttle, network_of
from dataguardian.service.access.users import Users
from dataguardian.service.context import Context

PREFIX = "setup_"
SETTING = "setup"
_DESCRIPTION = "The hash of the setup token, while there is no user"


class Setup:
    """One token per catalogue, as long as there is no user: a load balancer may send it to another process than the
    one that showed it. The catalogue holds its hash, and a random number from which whoever has the secret key, that
    is each process of this catalogue, makes the same token.
    """

    def __init__(self, context: Context, users: Users) -> None:
        self._context = context
        self._users = users
        self._throttle = Throttle(context.clock, FREE_FOR_ADDRESS, FORGIVEN_SECONDS)

    async def issue(self) -> str | None:
        """Returns the setup token, to be shown on the console once; None when there are users.

        A start on an embedded catalogue makes a new one, since nobody else can have shown it; on a shared one it stays.
        """
        async with self._context.db.write() as session:
            settings, now = SettingRepository(session), self._context.clock.now()
            if await UserRepository(session).count():
                await settings.remove(SETTING)
                return None
            fresh, token = self._fresh()
            if self._context.db.is_sqlite:
                await settings.put(SETTING, fresh, _DESCRIPTION, now)
                return token
            await settings.put_first(SETTING, fresh, _DESCRIPTION, now)
            there = await settings.locked_value(SETTING) or fresh
            shared = self._token(there["seed"])
            if same(hash_of(shared), there["hash"]):
                return shared
            await settings.put(SETTING, fresh, _DESCRIPTION, now)  # the secret key is another one by now
            return token

    async def is_needed(self) -> bool:
        async with self._context.db.read() as session:
            return not await UserRepository(session).count()

    async def claim(self, token: SecretStr, name: str, password: SecretStr, address: str | None) -> User:
        """Makes the first administrator; of two who claim at once, one does.

        Raises UnauthenticatedError for another token, ConflictError when there is a user, UsageError for a name or a
        password that is not valid, TooManyAttemptsError.
        """
        async with self._context.db.read() as session:
            needed, stored = not await UserRepository(session).count(), await _stored_hash(session)
        if not needed:
            raise ConflictError("there is an administrator already", hint="sign in")
        network = network_of(address)
        self._throttle.check(network)
        self._throttle.count(network)
        sent = token.get_secret_value()
        if stored is None or not is_secret(sent, PREFIX) or not same(hash_of(sent), stored):
            raise UnauthenticatedError(
                "this is not the setup token", hint="the console where `dataguardian up` runs shows it"
            )
        self._throttle.take_back(network)
        user = await self._users.create(name=name, password=password, role=Role.ADMIN, first=True)
        async with self._context.db.write() as session:
            await SettingRepository(session).remove(SETTING)
        return user

    def _fresh(self) -> tuple[dict[str, str], str]:
        """Returns what is stored of a new token, and the token."""
        seed = new_secret()
        token = self._token(seed)
        return {"seed": seed, "hash": hash_of(token)}, token

    def _token(self, seed: str) -> str:
        made = hmac.digest(self._context.vault.keys[0].data, f"setup token\0{seed}".encode(), "sha256")
        return PREFIX + base64.urlsafe_b64encode(made).decode().rstrip("=")


async def _stored_hash(session: AsyncSession) -> str | None:
    document = await SettingRepository(session).value(SETTING)
    return str(document["hash"]) if document else None
