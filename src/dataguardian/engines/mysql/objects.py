"""What RENAME TABLE cannot take along: routines, views, triggers and events; read from one database, made in another.

Their texts are bytes in the character set of whoever wrote them, and are asked for and sent as that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from dataguardian.engines.mysql.server import Session, quoted, text_of

Kind = Literal["FUNCTION", "PROCEDURE", "PACKAGE", "PACKAGE BODY", "VIEW", "TRIGGER", "EVENT"]

_ROUTINES = """
SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s
ORDER BY FIELD(ROUTINE_TYPE, 'PACKAGE', 'PACKAGE BODY', 'FUNCTION', 'PROCEDURE'), ROUTINE_NAME
"""
_TRIGGERS = """
SELECT 'TRIGGER', TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = %s
ORDER BY EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER
"""
_EVENTS = "SELECT 'EVENT', EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = %s ORDER BY EVENT_NAME"
_VIEWS = "SELECT 'VIEW', TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s ORDER BY TABLE_NAME"
# Where SHOW CREATE has (statement, sql_mode, character_set_client, collation_connection, time_zone).
_COLUMNS: dict[Kind, tuple[int, int | None, int, int, int | None]] = {
    "VIEW": (1, None, 2, 3, None),
    "EVENT": (3, 1, 4, 5, 2),
}
_OTHERS = (2, 1, 3, 4, None)
_NO_SUCH = frozenset({1146, 1305, 1356, 4031})


@dataclass(frozen=True)
class StoredObject:
    """One of them: `create` is its statement, the rest what the session must be set to for it."""

    kind: Kind
    name: str
    create: bytes
    charset: str
    collation: str
    sql_mode: str | None = None
    time_zone: str | None = None

    def with_create(self, create: bytes) -> StoredObject:
        return replace(self, create=create)


@dataclass
class StoredObjects:
    """Everything of that kind in one database. `unreadable` names what the server itself cannot show any more."""

    items: list[StoredObject] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    _names: list[tuple[Kind, str]] = field(default_factory=list)

    @classmethod
    def of(cls, session: Session, database: str) -> StoredObjects:
        import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        session.use(database)
        found = cls()
        for query in (_ROUTINES, _VIEWS, _TRIGGERS, _EVENTS):
            found._names += session.rows(query, database)
        try:
            session.run("SET character_set_results = binary")
            for kind, name in found._names:
                try:
                    found.items.append(_shown(session, kind, name))
                except pymysql.err.MySQLError as error:
                    if error.args and error.args[0] not in _NO_SUCH:
                        raise
                    found.unreadable.append(f"{kind.lower()} {name}")
        finally:
            session.run("SET NAMES utf8mb4")
        return found

    def drop(self, session: Session, database: str, kinds: tuple[Kind, ...] | None = None) -> None:
        for kind, name in self._names:
            if kinds is None or kind in kinds:
                session.tell(f"sql_mode = '{'ORACLE' if kind.startswith('PACKAGE') else ''}'")
                session.run(f"DROP {kind} IF EXISTS {quoted(database)}.{quoted(name)}")

    def make(self, session: Session, database: str) -> None:
        """Makes all of them; views that need each other in the order that works."""
        session.use(database)
        try:
            waiting = self.items
            while waiting:
                waiting = self._make_round(session, waiting)
        finally:
            session.run("SET NAMES utf8mb4")
            session.tell("sql_mode = ''", "time_zone = '+00:00'")

    @staticmethod
    def _make_round(session: Session, waiting: list[StoredObject]) -> list[StoredObject]:
        """Returns what has to wait for something that is not there yet; raises when nothing could be made."""
        import pymysql  # noqa: PLC0415 -- see above

        left: list[StoredObject] = []
        trouble: pymysql.err.MySQLError | None = None
        for item in waiting:
            try:
                _make(session, item)
            except pymysql.err.MySQLError as error:
                if error.args[0] not in _NO_SUCH:
                    raise
                left.append(item)
                trouble = error
        if trouble is not None and len(left) == len(waiting):
            raise trouble
        return left


def _shown(session: Session, kind: Kind, name: str) -> StoredObject:
    row = session.rows(f"SHOW CREATE {kind} {quoted(name)}")[0]
    create, mode, charset, collation, zone = _COLUMNS.get(kind, _OTHERS)
    text = row[create]
    return StoredObject(
        kind=kind,
        name=name,
        create=text if isinstance(text, bytes) else str(text).encode(),
        charset=text_of(row[charset]),
        collation=text_of(row[collation]),
        sql_mode=None if mode is None else text_of(row[mode]),
        time_zone=None if zone is None else text_of(row[zone]),
    )


def _make(session: Session, item: StoredObject) -> None:
    session.rows("SET sql_mode = %s", item.sql_mode or "")
    if item.time_zone is not None:
        session.rows("SET time_zone = %s", item.time_zone)
    session.rows("SET character_set_client = %s, collation_connection = %s", item.charset, item.collation)
    try:
        session.run(item.create)
    finally:
        session.run("SET NAMES utf8mb4")
