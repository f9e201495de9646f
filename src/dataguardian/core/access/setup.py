"""The first administrator: whoever sees the console of the first start may make one, and nobody else."""

from __future__ import annotations

from pydantic import SecretStr

from dataguardian.core.access.texts import hash_of, is_secret, new_secret, same
from dataguardian.core.access.throttle import FORGIVEN_SECONDS, FREE_FOR_ADDRESS, Throttle, network_of
from dataguardian.core.access.users import Users
from dataguardian.core.context import Context
from dataguardian.db.accounts import User
from dataguardian.db.repositories.accounts import UserRepository
from dataguardian.domain.access import Role
from dataguardian.domain.errors import ConflictError, UnauthenticatedError

PREFIX = "setup_"


class Setup:
    """The token lives in this process, as a hash, as long as there is no user."""

    def __init__(self, context: Context, users: Users) -> None:
        self._context = context
        self._users = users
        self._hash: str | None = None
        self._throttle = Throttle(context.clock, FREE_FOR_ADDRESS, FORGIVEN_SECONDS)

    async def issue(self) -> str | None:
        """Returns a new setup token, to be shown on the console once; None when there are users."""
        if not await self.is_needed():
            return None
        secret = new_secret(PREFIX)
        self._hash = hash_of(secret)
        return secret

    async def is_needed(self) -> bool:
        async with self._context.db.read() as session:
            return not await UserRepository(session).count()

    async def claim(self, token: SecretStr, name: str, password: SecretStr, address: str | None) -> User:
        """Makes the first administrator; of two who claim at once, one does.

        Raises UnauthenticatedError for another token, ConflictError when there is a user, UsageError for a name or a
        password that is not valid, TooManyAttemptsError.
        """
        if not await self.is_needed():
            raise ConflictError("there is an administrator already", hint="sign in")
        network = network_of(address)
        self._throttle.check(network)
        self._throttle.count(network)
        sent = token.get_secret_value()
        if self._hash is None or not is_secret(sent, PREFIX) or not same(hash_of(sent), self._hash):
            raise UnauthenticatedError(
                "this is not the setup token", hint="the console where `dataguardian up` runs shows it"
            )
        self._throttle.take_back(network)
        user = await self._users.create(name=name, password=password, role=Role.ADMIN, first=True)
        self._hash = None
        return user
