"""The sessions of a database on Babelfish, which must be gone before it can be renamed.

It has no SINGLE_USER, so sessions are ended one by one. And it counts those that have ended: it keeps a place for every
session, never empties it, and refuses to rename the database that the session in it used last ("could not be
exclusively locked"), until another session happens to take the place. New ones take the first that is free. Its view of
sessions shows hardly more places than there are sessions alive, so those further on are taken unseen.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from dataguardian.domain.errors import DataGuardianError
from dataguardian.engines.sqlserver.server import MASTER, Server, attempt, is_babelfish, look, text
from dataguardian.engines.sqlserver.session import Session

MOST_SESSIONS = 40
"""Opened at once, and few of all that a server allows; beyond, the rename itself says what is in the way."""
ENDING_SECONDS, LOOK_SECONDS = 2.0, 0.1
_IN = "FROM sys.dm_exec_sessions WHERE database_id = DB_ID({}) AND session_id"
_ALIVE = f"SELECT session_id {_IN} IS NOT NULL"
_ENDED = f"SELECT COUNT(*) AS found {_IN} IS NULL"


def lay(server: Server, session: Session, database: str, *, unseen: bool = False) -> None:
    """Ends a database's sessions and has their places taken, of `unseen` ones too; does nothing on other servers, and
    as much as it can where the server allows no more.
    """
    if not is_babelfish(session):
        return
    with ExitStack() as stack:
        if unseen:  # with so many sessions, the view shows as many places more
            all(_is_taken(server, stack) for _ in range(MOST_SESSIONS))
        _end_sessions(session, database)
        for _ in range(MOST_SESSIONS):
            rows = look(session, _ENDED.format(text(database)))
            if not (rows and rows[0]["found"] and _is_taken(server, stack)):
                return


def _is_taken(server: Server, stack: ExitStack) -> bool:
    """Takes one place; false when the server allows no more."""
    try:
        stack.enter_context(server.connect(MASTER))
    except DataGuardianError:
        return False
    return True


def _end_sessions(session: Session, database: str) -> None:
    """As SINGLE_USER WITH ROLLBACK IMMEDIATE does elsewhere; some are on their way out by themselves."""
    limit = time.monotonic() + ENDING_SECONDS
    while (alive := look(session, _ALIVE.format(text(database)))) and time.monotonic() < limit:
        for row in alive:
            attempt(session, f"KILL {row['session_id']}")
        time.sleep(LOOK_SECONDS)
