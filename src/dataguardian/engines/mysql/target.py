"""What a restore would meet: does the database exist, does it hold anything, may we replace it."""

from __future__ import annotations

from dataclasses import dataclass

from dataguardian.domain.errors import NotAllowedError, TargetInUseError, TargetNotEmptyError
from dataguardian.engines.mysql.grants import Grants
from dataguardian.engines.mysql.server import Session

TEMPORARY = "dataguardian_"

_HOLDS_ANYTHING = """
SELECT (SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s)
     + (SELECT count(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s)
     + (SELECT count(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = %s)
"""
_SCHEMA = """
SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA
WHERE SCHEMA_NAME = %s
"""
_REFERENCED_FROM = """
SELECT CONSTRAINT_SCHEMA, TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS
WHERE UNIQUE_CONSTRAINT_SCHEMA = %s AND CONSTRAINT_SCHEMA <> %s LIMIT 1
"""
_TABLES = """
SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE NOT LIKE '%%VIEW'
ORDER BY TABLE_NAME
"""


@dataclass(frozen=True)
class Target:
    """A database that a restore is to make or replace."""

    name: str
    place: str
    exists: bool
    empty: bool
    charset: str
    collation: str
    referenced_from: str | None
    missing: tuple[str, ...]

    def check(self, *, drop_existing: bool) -> None:
        """Raises TargetNotEmptyError, NotAllowedError or TargetInUseError when the restore must not begin."""
        if not self.empty and not drop_existing:
            raise TargetNotEmptyError(
                f"database {self.name!r} at {self.place} is not empty",
                hint="restore into another database, or give --drop-existing (drop_existing) to replace this one",
                database=self.name,
            )
        if self.missing:
            raise NotAllowedError(
                f"the connecting user lacks {', '.join(self.missing[:5])} at {self.place}",
                hint=f"a restore goes through databases of its own: GRANT ALL ON `{TEMPORARY}%`.* and on the target",
            )
        if self.referenced_from is not None:
            raise TargetInUseError(
                f"foreign keys of table {self.referenced_from} refer to database {self.name!r} at {self.place}",
                hint="drop them, then restore and make them again",
            )


def look_at(session: Session, name: str) -> Target:
    """Asks the server about database `name`."""
    rows = session.rows(_SCHEMA, name)
    _, charset, collation = rows[0] if rows else (name, "", "")
    empty = not rows or not session.scalar(_HOLDS_ANYTHING, name, name, name)
    referenced = [] if empty else session.rows(_REFERENCED_FROM, name, name)
    missing = Grants.of(session).missing_for_restore(f"{TEMPORARY}12345678", name)
    by = f"{referenced[0][0]}.{referenced[0][1]}" if referenced else None
    return Target(name, session.place, bool(rows), empty, str(charset), str(collation), by, tuple(missing))


def tables_of(session: Session, database: str) -> list[str]:
    """Returns its tables and sequences, without views."""
    return [str(row[0]) for row in session.rows(_TABLES, database)]
