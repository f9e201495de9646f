"""Passwords: argon2id, in two threads of their own, so that a flood of sign-ins takes neither memory nor the machine.

Parameters: https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html (46 MiB, one pass more than
it asks for). A stranger's password is checked against a hash of nothing, which takes the same time.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from dataguardian.domain.errors import TooManyAttemptsError, UsageError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

LEAST_CHARACTERS = 12
MOST_CHARACTERS = 256
MEMORY_KIB = 47_104
PASSES = 2
AT_ONCE = 2
MOST_WAITING = 16
"""Those who come when so many wait are told to come back: each takes about 100 ms of a processor."""
NOBODYS = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${'A' * 22}${'A' * 43}"

T = TypeVar("T")


class Passwords:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0

    async def hashed(self, password: SecretStr) -> str:
        """Returns what is stored. Raises TooManyAttemptsError when too many wait already."""
        return await self._run(lambda: _hasher().hash(_bytes_of(password)))

    async def matches(self, stored: str | None, password: SecretStr) -> bool:
        """Tells whether it is the password; `stored` of None, for a stranger, takes as long and is never right."""
        right = await self._run(lambda: _verify(stored or NOBODYS, password))
        return right and stored is not None

    async def _run(self, work: Callable[[], T]) -> T:
        """A thread goes on when its caller has left: until it ends it counts."""
        if self._waiting >= MOST_WAITING:
            raise TooManyAttemptsError("too many sign-ins are under way", hint="try again in a moment", retry_after=5)
        self._waiting += 1
        future = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda ended: self._ended(loop, ended))
        return await asyncio.wrap_future(future)

    def _ended(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        if loop.is_closed():
            self._waiting -= 1
        else:
            loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._waiting -= 1


def checked_password(password: SecretStr, name: str) -> SecretStr:
    """Raises UsageError for a password that is too short, too long, or the user's name."""
    text = _normal(password)
    if not LEAST_CHARACTERS <= len(text) <= MOST_CHARACTERS:
        raise UsageError(
            f"a password has {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters",
            hint="four words that have nothing to do with each other are easy to keep in mind",
        )
    if len(set(text)) < LEAST_CHARACTERS // 3 or (name and name in text.lower() and len(text) < 2 * len(name)):
        raise UsageError("this password is too easy to guess", hint="leave out the name, and use more characters")
    return password


def _normal(password: SecretStr) -> str:
    """One keyboard composes an é, the next one does not: https://www.rfc-editor.org/rfc/rfc8265#section-4.2."""
    return unicodedata.normalize("NFC", password.get_secret_value())


def _bytes_of(password: SecretStr) -> bytes:
    return _normal(password).encode("utf-8", "surrogatepass")[: 4 * MOST_CHARACTERS]


def _verify(stored: str, password: SecretStr) -> bool:
    from argon2.exceptions import VerificationError  # noqa: PLC0415 -- a start does without it

    try:
        return _hasher().verify(stored, _bytes_of(password))
    except VerificationError:
        return False


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # noqa: PLC0415 -- a start does without it

    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=1)
