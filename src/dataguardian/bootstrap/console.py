"""The catalogue for commands on the machine that holds the home: beside a service that runs, or without one.

Whoever owns the home owns everything in it, so such a command signs in nowhere. It must be the same user all the same:
files that another one leaves in the home, root's included, would keep the service from its own catalogue.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dataguardian.bootstrap.keys import open_vault
from dataguardian.db import migrate
from dataguardian.db.session import Database
from dataguardian.domain.access import Actor, ActorKind, Permission, Role
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.errors import ConflictError, NotAllowedError
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.service.acting import acting
from dataguardian.service.context import Context
from dataguardian.service.home import LOCK, identity, is_held
from dataguardian.service.services import Services, assemble
from dataguardian.settings import Settings

NO_QUEUE = "unix:///nowhere"
"""What a command writes, the catalogue holds; nothing is enqueued."""
STARTING_SECONDS = 30.0
"""How long a service that is starting may take to migrate its catalogue."""


@asynccontextmanager
async def at_the_console(settings: Settings) -> AsyncIterator[Services]:
    """Everything within the block is done by whoever is signed in to this machine. The catalogue is migrated first.

    Raises NotAllowedError when the home is another user's or cannot be written, ConflictError when the service that
    runs is of another release, and what the catalogue says.
    """
    await asyncio.to_thread(_prepare, settings)
    async with AsyncExitStack() as stack:
        database = Database(settings.catalogue_url)
        stack.push_async_callback(database.close)
        queues, live = Queues(NO_QUEUE), Live(NO_QUEUE)
        stack.push_async_callback(queues.close)
        stack.push_async_callback(live.close)
        vault = await open_vault(settings, database)
        home_id = identity(settings.home)
        context = Context(settings, SystemClock(), database, queues, live, home_id, "console", vault)
        stack.enter_context(acting(somebody_here()))
        yield assemble(context)


def somebody_here() -> Actor:
    """Returns who runs this process, by the system's name for it."""
    return Actor(ActorKind.CONSOLE, _name_of(os.geteuid()), Role.ADMIN, frozenset(Permission))


def _prepare(settings: Settings) -> None:
    check_home(settings.home)
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(settings.home, error.strerror) from error
    path = settings.catalogue_path
    if not os.access(settings.home, os.R_OK | os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise _unusable(settings.home, "it cannot be written")
    _migrate(settings)


def check_home(home: Path) -> None:
    """A home is its directory's owner's, unless a service has run there as somebody else: then it is that one's.

    Raises NotAllowedError.
    """
    try:
        lock = home / LOCK
        owner = (lock if lock.exists() else home).stat().st_uid
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(home, error.strerror) from error
    if owner != os.geteuid():
        name = _name_of(owner)
        raise NotAllowedError(
            f"the home directory {home} is {name}'s, and this command runs as {_name_of(os.geteuid())}",
            hint=f"run it as that user, such as with `sudo -u {name}`, or set DATAGUARDIAN_HOME to another directory",
        )


def _unusable(home: Path, reason: str | None) -> NotAllowedError:
    return NotAllowedError(
        f"the home directory {home} cannot be used: {reason}",
        hint="run this as the user whom the service runs as, or set DATAGUARDIAN_HOME to another directory",
    )


def _migrate(settings: Settings) -> None:
    """Brings the catalogue up; but not under the feet of a service of an older release, which runs on it."""
    url, older = settings.catalogue_url, migrate.revisions()
    wanted, clock = older.pop(), SystemClock()
    limit = clock.monotonic() + STARTING_SECONDS
    while (found := migrate.current(url)) in older and settings.database_url is None and is_held(settings.home):
        if clock.monotonic() > limit:
            raise ConflictError(
                f"the service that runs on {settings.home} is of another release: its catalogue has revision {found}, "
                f"and this program's is {wanted}",
                hint="restart the service with this release, then try again",
            )
        time.sleep(0.2)
    if found != wanted:
        migrate.upgrade(url)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
