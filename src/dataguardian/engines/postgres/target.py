"""What a restore would meet: does the database exist, does it hold anything, may we replace it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataguardian.domain.errors import NotAllowedError, TargetInUseError, TargetNotEmptyError
from dataguardian.engines.postgres.server import Server, scalar

if TYPE_CHECKING:
    from dataguardian.engines.postgres.server import Connection

# 16384 is FirstNormalObjectId: what initdb and template0 bring has smaller numbers. Temporary objects do not count.
_HOLDS_ANYTHING = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_' AND nspname <> 'public')
    OR EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE c.oid >= 16384 AND n.nspname !~ '^pg_')
    OR EXISTS (SELECT FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
               WHERE t.oid >= 16384 AND n.nspname !~ '^pg_')
    OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
               WHERE p.oid >= 16384 AND n.nspname !~ '^pg_')
    OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE oid >= 16384 AND extname <> 'plpgsql')
    OR EXISTS (SELECT FROM pg_catalog.pg_operator WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_collation WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_conversion WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_cast WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_ts_config WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_ts_dict WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_publication)
    OR EXISTS (SELECT FROM pg_catalog.pg_event_trigger)
    OR EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
    OR EXISTS (SELECT FROM pg_catalog.pg_default_acl WHERE oid >= 16384)
"""
_DATABASE = """
SELECT pg_catalog.pg_get_userbyid(datdba), datallowconn, pg_catalog.pg_has_role(datdba, 'USAGE')
FROM pg_catalog.pg_database WHERE datname = %s
"""
_SESSIONS = """
SELECT count(*) FROM pg_catalog.pg_stat_activity
WHERE datname = %s AND backend_type = 'client backend' AND application_name <> 'dataguardian'
"""
_ROLE = "SELECT rolsuper, rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user"
_SUBSCRIPTION = """
SELECT subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
WHERE d.datname = %s LIMIT 1
"""
# DROP DATABASE would refuse each of these, after the swap.
_HELD_BY = (
    ("a prepared transaction", "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s LIMIT 1"),
    ("a replication slot", "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE database = %s LIMIT 1"),
    ("a subscription", _SUBSCRIPTION),
)


@dataclass(frozen=True)
class Target:
    """A database that a restore is to make or replace. `in_place` when we may not create databases."""

    name: str
    place: str
    exists: bool
    empty: bool
    owner: str | None
    in_place: bool
    allowed: bool
    held_by: str | None
    sessions: int = 0

    def check(self, *, drop_existing: bool) -> None:
        """Raises TargetNotEmptyError, NotAllowedError or TargetInUseError when the restore must not begin."""
        if not self.empty and not drop_existing:
            raise TargetNotEmptyError(
                f"database {self.name!r} at {self.place} is not empty",
                hint="restore into another database, or give --drop-existing (drop_existing) to replace this one",
                database=self.name,
            )
        if not self.allowed and not self.in_place:
            raise NotAllowedError(
                f"the connecting role may not create and rename databases at {self.place}",
                hint=f"ALTER ROLE … CREATEDB, or create database {self.name!r} empty and restore into it",
            )
        if self.sessions and not drop_existing and not self.in_place:
            raise TargetInUseError(
                f"{self.sessions} sessions work with database {self.name!r} at {self.place}",
                hint="end them, or give --drop-existing (drop_existing), which ends them",
            )
        if self.held_by and not self.in_place:
            raise TargetInUseError(
                f"database {self.name!r} at {self.place} is held by {self.held_by}", hint="end it, then restore again"
            )


def look_at(connection: Connection, server: Server, name: str) -> Target:
    """Asks the server, over a connection to another database, about database `name`."""
    _, creates = connection.execute(_ROLE).fetchone() or (False, False)
    row = connection.execute(_DATABASE, (name,)).fetchone()
    if row is None:
        return Target(name, server.place, False, True, None, False, bool(creates), None)
    owner, connectable, is_ours = row
    sessions = scalar(connection, _SESSIONS, name)
    empty = bool(connectable) and is_empty(server, name)
    allowed = bool(creates and is_ours)
    held_by = _held_by(connection, name)
    return Target(name, server.place, True, empty, owner, empty and not allowed, allowed, held_by, sessions)


def is_empty(server: Server, name: str) -> bool:
    with server.connect(name) as connection:
        return not scalar(connection, _HOLDS_ANYTHING)


def _held_by(connection: Connection, name: str) -> str | None:
    import psycopg  # noqa: PLC0415 -- an optional package, loaded when it is needed

    for what, query in _HELD_BY:
        try:
            found = scalar(connection, query, name)
        except psycopg.errors.InsufficientPrivilege:
            continue
        if found is not None:
            return f"{what}, {found!r}"
    return None
