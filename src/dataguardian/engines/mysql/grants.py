"""What the connecting user may do, as SHOW GRANTS tells it.

It must be known beforehand: without TRIGGER, or without a look at routines, the dump program leaves them out and ends
well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dataguardian.engines.mysql.server import Session, text_of

DUMP_PRIVILEGES = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")
RESTORE_PRIVILEGES = ("SELECT", "INSERT", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES", "LOCK TABLES",
                      "CREATE VIEW", "SHOW VIEW", "TRIGGER", "EVENT", "CREATE ROUTINE", "ALTER ROUTINE")  # fmt: skip

_NAME = r"(?:`(?:[^`]|``)*`|\*)"
_GRANT = re.compile(rf"GRANT (.+?) ON (?:TABLE )?({_NAME})\.({_NAME}) TO ", re.DOTALL)
_COLUMNS = re.compile(r"\([^)]*\)")
_ALL = "ALL PRIVILEGES"


@dataclass(frozen=True)
class Grants:
    """Privileges by scope: (database pattern or *, table or *)."""

    by_scope: dict[tuple[str, str], frozenset[str]]

    @classmethod
    def of(cls, session: Session) -> Grants:
        lines = [text_of(row[0]) for row in session.rows("SHOW GRANTS")]
        lines += _of_roles(session)
        found: dict[tuple[str, str], frozenset[str]] = {}
        for line in lines:
            if match := _GRANT.match(line):
                scope = (_unquoted(match[2]), _unquoted(match[3]))
                found[scope] = found.get(scope, frozenset()) | _privileges(match[1])
        return cls(found)

    def has(self, privilege: str, database: str | None = None, table: str | None = None) -> bool:
        """Tells whether it is given for all of `database` (None: everywhere), or for that table of it."""
        for (schema, name), privileges in self.by_scope.items():
            fits = schema == "*" or (database is not None and _matches(schema, database, exact=name != "*"))
            if fits and name in ("*", table) and {privilege, _ALL} & privileges:
                return True
        return False

    def missing_for_dump(self, session: Session, database: str | None) -> list[str]:
        """Returns the privileges that a dump of `database` (None: of all) would lack."""
        missing = [privilege for privilege in DUMP_PRIVILEGES if not self.has(privilege, database)]
        return missing + ([] if self._sees_routines(session, database) else [_routine_privilege(session)])

    def missing_for_restore(self, *databases: str) -> list[str]:
        """Returns what a restore into all of `databases` would lack, as `PRIVILEGE on database`."""
        return [
            f"{privilege} on {database}"
            for database in databases
            for privilege in RESTORE_PRIVILEGES
            if not self.has(privilege, database)
        ]

    def _sees_routines(self, session: Session, database: str | None) -> bool:
        if session.flavour == "MySQL" and session.release[0] >= 8:  # noqa: PLR2004 -- the release that moved them
            return self.has("SELECT") or self.has("SHOW_ROUTINE")
        if self.has("SELECT", "mysql", "proc"):
            return True
        return session.flavour == "MariaDB" and self.has("SHOW CREATE ROUTINE", database)


def _routine_privilege(session: Session) -> str:
    """Names what lets a user read routines: the releases differ."""
    if session.flavour == "MySQL" and session.release[0] >= 8:  # noqa: PLR2004 -- see above
        return "SHOW_ROUTINE (on *.*)"
    return "SELECT on mysql.proc"


def _of_roles(session: Session) -> list[str]:
    role = session.scalar("SELECT CURRENT_ROLE()") if _knows_roles(session) else None
    if role is None or text_of(role) in ("", "NONE"):
        return []
    if session.flavour == "MySQL":
        return [text_of(row[0]) for row in session.rows(f"SHOW GRANTS FOR CURRENT_USER() USING {text_of(role)}")]
    return [text_of(row[0]) for row in session.rows("SHOW GRANTS FOR CURRENT_ROLE")]


def _knows_roles(session: Session) -> bool:
    return session.flavour == "MariaDB" or session.release[0] >= 8  # noqa: PLR2004 -- see above


def _privileges(text: str) -> frozenset[str]:
    """Privileges on columns only are not privileges on the table."""
    pieces = re.split(r",\s*(?![^(]*\))", text)
    return frozenset(piece.strip().upper() for piece in pieces if not _COLUMNS.search(piece))


def _matches(pattern: str, name: str, *, exact: bool) -> bool:
    """In grants on databases `_` and `%` are wildcards unless a backslash precedes them."""
    if exact:
        return pattern == name
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    expression = "".join(wild.get(part, re.escape(part[-1])) for part in parts)
    return re.fullmatch(expression, name, re.DOTALL | re.IGNORECASE) is not None


def _unquoted(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name
