"""What tables say of other tables by name, and what a move to another database would leave behind.

Defaults that take from a sequence name its database. Foreign keys within a database follow a move by themselves, but
those that leave it would follow the tables that are moved away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from dataguardian.engines.mysql.server import Session, quoted, text_of
from dataguardian.engines.mysql.target import tables_of

_DEFAULTS = """
SELECT TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA = %s AND COLUMN_DEFAULT LIKE '%%val(%%' AND LOCATE(%s, COLUMN_DEFAULT) > 0
"""
_OUTWARD = """
SELECT DISTINCT TABLE_NAME, CONSTRAINT_NAME FROM information_schema.KEY_COLUMN_USAGE
WHERE CONSTRAINT_SCHEMA = %s AND REFERENCED_TABLE_SCHEMA IS NOT NULL AND REFERENCED_TABLE_SCHEMA <> CONSTRAINT_SCHEMA
"""
_FOREIGN_KEY = r"^\s*(CONSTRAINT {} FOREIGN KEY .*?),?$"


@dataclass
class References:
    """(table, clause of ALTER TABLE) for each; `mend` makes them again where the tables are now."""

    _outward: list[tuple[str, str]] = field(default_factory=list)
    _clauses: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, session: Session, temporary: str, target: str, replaced: set[str]) -> References:
        """Looks into `temporary`; `replaced` are the databases whose tables are about to move."""
        found = cls()
        prefix = f"{quoted(temporary)}."
        tables = set(tables_of(session, temporary))  # the columns of views inherit defaults
        for table, column, default in session.rows(_DEFAULTS, temporary, prefix):
            if table not in tables:
                continue
            expression = str(default).replace(prefix, f"{quoted(target)}.")
            found._clauses.append((table, f"ALTER COLUMN {quoted(column)} SET DEFAULT ({expression})"))
        for table, name in session.rows(_OUTWARD, temporary):
            definition = text_of(session.rows(f"SHOW CREATE TABLE {quoted(temporary)}.{quoted(table)}")[0][1])
            match = re.search(_FOREIGN_KEY.format(re.escape(quoted(name))), definition, re.MULTILINE)
            if match and replaced:
                found._outward.append((table, name))
                found._clauses.append((table, f"ADD {match[1]}"))
        return found

    def take(self, session: Session, temporary: str) -> None:
        """Drops the foreign keys that lead out of the database, until the move is done."""
        for table, name in self._outward:
            session.run(f"ALTER TABLE {quoted(temporary)}.{quoted(table)} DROP FOREIGN KEY {quoted(name)}")

    def mend(self, session: Session, target: str) -> None:
        for table, clause in self._clauses:
            session.run(f"ALTER TABLE {quoted(target)}.{quoted(table)} {clause}")
