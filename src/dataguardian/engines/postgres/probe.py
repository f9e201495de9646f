"""Is a server well, and would a dump of it be allowed? Asked in a few short queries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import AuthenticationError, DataGuardianError, UnreachableError
from dataguardian.engines.base import CheckStatus, ProbeResult
from dataguardian.engines.network import reached
from dataguardian.engines.postgres.config import user_of
from dataguardian.engines.postgres.server import Server, scalar, version_text

if TYPE_CHECKING:
    pass

CONNECT_SECONDS = 5
LIMIT_SECONDS = 10.0
_STATEMENT_TIMEOUT = "5s"
_SHOWN = 3

_STATUS: dict[type[DataGuardianError], CheckStatus] = {
    AuthenticationError: "auth_failed",
    UnreachableError: "unreachable",
}
_DATABASES = """
SELECT datname, pg_catalog.has_database_privilege(datname, 'CONNECT') FROM pg_catalog.pg_database
WHERE datallowconn AND datname <> 'template0' AND datconnlimit <> -2 ORDER BY datname
"""
# What pg_dump locks or reads; an extension's own objects are not dumped.
_LACKING = """
WITH dumped AS (
    SELECT c.oid, c.relname, c.relkind, c.relpersistence, n.oid AS schema, n.nspname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT pg_catalog.format('USAGE on schema %%I', nspname) FROM dumped
    WHERE NOT pg_catalog.has_schema_privilege(schema, 'USAGE')
UNION
SELECT pg_catalog.format('SELECT on %%s %%I.%%I', CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END,
                         nspname, relname)
    FROM dumped WHERE CASE WHEN relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(oid, 'SELECT')
                           ELSE NOT pg_catalog.has_table_privilege(oid, 'SELECT') END
UNION
SELECT pg_catalog.format('BYPASSRLS, because of the row security of table %%I.%%I', nspname, relname)
    FROM dumped WHERE relkind = 'r' AND pg_catalog.row_security_active(oid)
UNION
SELECT 'SELECT on large object ' || l.oid FROM pg_catalog.pg_largeobject_metadata l
    WHERE NOT pg_catalog.pg_has_role(l.lomowner, 'USAGE')
    AND pg_catalog.current_setting('lo_compat_privileges') = 'off'
    AND NOT (%(reads_blobs)s AND pg_catalog.pg_has_role('pg_read_all_data', 'USAGE'))
    AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
                    AND CASE a.grantee WHEN 0 THEN true ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END)
ORDER BY 1 LIMIT 100
"""
_IS_SUPERUSER = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
_ROLE_READS_BLOBS_SINCE = 190000


def probe(server: Server) -> ProbeResult:
    """Never raises for what it finds; several seconds at most, and more only when the name server is silent."""
    try:
        with reached(server.config):
            metadata = _look(server)
            lacking = _lacking_so_far(server)
    except DataGuardianError as error:
        status: CheckStatus = "timeout" if error.details.get("timeout") else _STATUS.get(type(error), "error")
        return ProbeResult(status, error.message)
    if lacking:
        return ProbeResult("error", _text(user_of(server.config), lacking), metadata)
    return ProbeResult("ok", metadata=metadata)


def _look(server: Server) -> dict[str, Any]:
    database = server.config.database
    with _connected(server, database if database is not None else server.maintenance_database()) as connection:
        size = "SELECT pg_catalog.pg_database_size(current_database())"
        if database is None:
            # Of a database that we may not connect to, we may not know the size either.
            size = (
                "SELECT coalesce(sum(pg_catalog.pg_database_size(oid)), 0)::bigint FROM pg_catalog.pg_database"
                " WHERE pg_catalog.has_database_privilege(oid, 'CONNECT')"
            )
        return {
            "version": version_text(connection.info.server_version),
            "size_bytes": scalar(connection, size),
            "connections": scalar(connection, "SELECT count(*) FROM pg_catalog.pg_stat_activity"),
        }


def _lacking_so_far(server: Server) -> list[str]:
    """Returns the privileges that are missing. A server that is too large or too busy to tell is none the worse."""
    found: list[str] = []
    try:
        for what in _lacking(server, time.monotonic() + CONNECT_SECONDS):
            found.append(what)  # noqa: PERF402 -- what was found before an error counts
    except DataGuardianError as error:
        if not error.details.get("timeout"):
            raise
    return found


def _lacking(server: Server, limit: float) -> Iterator[str]:
    """Yields the privileges that a dump would need, until `limit` on the monotonic clock."""
    if server.config.database is not None:
        yield from _lacking_in(server, server.config.database)
        return
    with _connected(server, server.maintenance_database()) as connection:
        if scalar(connection, _IS_SUPERUSER):
            return
        databases = connection.execute(_DATABASES).fetchall()
    for name, may_connect in databases:
        if not may_connect:
            yield f"CONNECT on database {name}"
        elif time.monotonic() < limit:
            yield from (f"{what} in database {name}" for what in _lacking_in(server, name))


def _lacking_in(server: Server, database: str) -> list[str]:
    with _connected(server, database) as connection:
        if scalar(connection, _IS_SUPERUSER):
            return []
        values = {"reads_blobs": connection.info.server_version >= _ROLE_READS_BLOBS_SINCE}
        return [row[0] for row in connection.execute(_LACKING, values)]


def _connected(server: Server, database: str) -> Any:  # noqa: ANN401 -- a context manager of a Connection
    return server.connect(database, seconds=CONNECT_SECONDS, statement_timeout=_STATEMENT_TIMEOUT)


def _text(user: str, lacking: list[str]) -> str:
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return f"a dump needs what user {user!r} lacks: {', '.join(lacking[:_SHOWN])}{more}; docs/engines.md has the grants"
