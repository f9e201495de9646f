"""What a database has beside its content: encoding, locale, owner, settings, privileges. Captured into plain JSON at
dump time, given back to a fresh database at restore time.

Column names differ between releases (daticulocale became datlocale in 17), so rows are read as JSON objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, LiteralString

from dataguardian.engines.postgres.server import scalar
from dataguardian.engines.postgres.settings import Setting

if TYPE_CHECKING:
    from psycopg.sql import Composable, Composed

    from dataguardian.engines.postgres.server import Connection

_ROW = """
SELECT pg_catalog.to_jsonb(d) - 'datacl' || pg_catalog.jsonb_build_object(
    'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
    'owner', pg_catalog.pg_get_userbyid(d.datdba),
    'comment', pg_catalog.shobj_description(d.oid, 'pg_database'),
    'tablespace', (SELECT spcname FROM pg_catalog.pg_tablespace t WHERE t.oid = d.dattablespace),
    'plain_acl', d.datacl IS NULL)
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
_ACL = """
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
    a.privilege_type, a.is_grantable
FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
WHERE d.datname = pg_catalog.current_database() ORDER BY 1 NULLS FIRST, 2
"""
_SETTINGS = """
SELECT count(*) FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE d.datname = pg_catalog.current_database()
"""
# Naming even the tablespace that it would get anyway takes a privilege that only superusers have.
_ANOTHER_TABLESPACE = """
SELECT 1 FROM pg_catalog.pg_tablespace t
WHERE t.spcname = %s AND pg_catalog.has_tablespace_privilege(t.oid, 'CREATE')
AND t.oid <> (SELECT dattablespace FROM pg_catalog.pg_database WHERE datname = 'template0')
"""
_TABLESPACE_OF = """
SELECT t.spcname FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
WHERE d.datname = %s
"""
_HAS_SCHEMA = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public')"
_HAS_PLPGSQL = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'plpgsql')"
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_PRIVILEGES = frozenset({"CREATE", "CONNECT", "TEMPORARY"})
_GRANT: LiteralString = "GRANT {} ON DATABASE {} TO {}"
_PROVIDERS_SINCE = 150000
_RULES_SINCE = 160000
_BUILTIN_SINCE = 170000


def capture(connection: Connection) -> dict[str, Any]:
    """Returns the properties of the connected database."""
    row = scalar(connection, _ROW)
    acl = [
        {"grantee": grantee, "privilege": privilege, "grantable": grantable}
        for grantee, privilege, grantable in connection.execute(_ACL)
    ]
    return {
        "encoding": row["encoding"],
        "collate": row["datcollate"],
        "ctype": row["datctype"],
        "locale_provider": _PROVIDERS.get(row.get("datlocprovider", "c"), "libc"),
        "locale": row.get("datlocale") or row.get("daticulocale"),
        "icu_rules": row.get("daticurules"),
        "owner": row["owner"],
        "tablespace": row["tablespace"],
        "is_template": row["datistemplate"],
        "connection_limit": row["datconnlimit"],
        "comment": row["comment"],
        "acl": None if row["plain_acl"] else acl,
        "settings": scalar(connection, _SETTINGS),
        "has_public_schema": scalar(connection, _HAS_SCHEMA),
        "has_plpgsql": scalar(connection, _HAS_PLPGSQL),
    }


def create_database(connection: Connection, name: str, properties: dict[str, Any]) -> None:
    """Creates an empty database with the recorded encoding and locale, as far as the server knows such things."""
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    options: list[Composable] = [sql.SQL("TEMPLATE template0")]
    options += [
        sql.SQL("{} {}").format(sql.SQL(key), sql.Literal(value))
        for key, value in _locale_options(connection.info.server_version, properties)
    ]
    tablespace = properties.get("tablespace")
    if tablespace and scalar(connection, _ANOTHER_TABLESPACE, tablespace):
        options.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(tablespace)))
    connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), sql.SQL(" ").join(options)))


def hasten(connection: Connection, name: str) -> None:
    """Spares whoever fills database `name` the wait for the disk after every statement.

    That is safe for a database that counts only once it has been renamed: the rename waits, and what is written to the
    log before it is then on the disk as well (PostgreSQL's documentation, "Asynchronous Commit"). It is said of the
    database and not in a connection's options, which poolers refuse.
    """
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit TO off").format(sql.Identifier(name)))


def slacken(connection: Connection, name: str) -> None:
    """Takes `hasten` back."""
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    connection.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(sql.Identifier(name)))


def fits_as_created(properties: dict[str, Any]) -> bool:
    """Tells whether `empty_out` and `create_schemas` have nothing to do."""
    brings_all = properties.get("has_plpgsql") is not False and properties.get("has_public_schema") is not False
    return brings_all and not properties.get("schemas")


def empty_out(connection: Connection, properties: dict[str, Any]) -> None:
    """Takes out of a fresh database what template0 brought and the source did not have."""
    if properties.get("has_plpgsql") is False:
        connection.execute("DROP EXTENSION IF EXISTS plpgsql")
    if properties.get("has_public_schema") is False:
        connection.execute("DROP SCHEMA IF EXISTS public")


def create_schemas(connection: Connection, properties: dict[str, Any]) -> list[str]:
    """Makes the schemas that a partial archive needs; returns those that were not there."""
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    there = {row[0] for row in connection.execute("SELECT nspname FROM pg_catalog.pg_namespace")}
    missing = [name for name in properties.get("schemas") or () if name not in there]
    for name in missing:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    return missing


def drop_schemas(connection: Connection, names: Iterable[str]) -> None:
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    for name in names:
        connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(name)))


def apply(
    connection: Connection,
    name: str,
    properties: dict[str, Any],
    *,
    owner: str | None,
    settings: Iterable[Setting] = (),
) -> list[str]:
    """Gives database `name` its owner, settings, privileges and comment; returns what could not be given, and why."""
    roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    known = owner if owner is not None and owner in roles else None
    given = _Properties(name, properties, known, roles, settings)
    warnings = []
    if lost := _lost_tablespace(connection, name, properties):
        warnings.append(lost)
    if owner and not known:
        warnings.append(f"{name}: there is no role {owner!r} here, so the connecting role owns the database")
    for what, statement in given.statements():
        try:
            connection.execute(statement)
        except connection.Error as error:
            warnings.append(f"{name}: {what} not restored: {error.diag.message_primary or type(error).__name__}")
    return [
        *warnings,
        *(f"{name}: {what} not restored: there is no role {role!r} here" for what, role in given.skipped),
    ]


def _lost_tablespace(connection: Connection, name: str, properties: dict[str, Any]) -> str | None:
    wanted = properties.get("tablespace")
    given = scalar(connection, _TABLESPACE_OF, name)
    if not wanted or wanted in (given, "pg_default"):
        return None
    return f"{name}: tablespace {wanted!r} is not there or not allowed, so the database lies in {given!r}"


class _Properties:
    """The statements that give a database its properties. `skipped` names what belongs to roles that are missing."""

    def __init__(
        self, name: str, properties: dict[str, Any], owner: str | None, roles: set[str], settings: Iterable[Setting]
    ) -> None:
        from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        self.skipped: list[tuple[str, str]] = []
        self._sql = sql
        self._database = sql.Identifier(name)
        self._properties = properties
        self._owner = owner
        self._roles = roles
        self._settings = settings

    def statements(self) -> Iterator[tuple[str, Composed]]:
        """Yields (what it is about, statement). The owner comes first: privileges are granted by it."""
        if self._owner:
            yield "owner", self._alter("OWNER TO {}", self._sql.Identifier(self._owner))
        yield from self._privileges()
        for setting in self._settings:
            yield from self._setting(setting)
        if self._properties.get("comment") is not None:
            comment = self._sql.Literal(str(self._properties["comment"]))
            yield "comment", self._sql.SQL("COMMENT ON DATABASE {} IS {}").format(self._database, comment)
        limit = int(self._properties.get("connection_limit", -1))
        if limit >= 0:
            yield "connection limit", self._alter("CONNECTION LIMIT {}", self._sql.Literal(limit))
        if self._properties.get("is_template"):
            yield "is_template", self._alter("IS_TEMPLATE {}", self._sql.SQL("true"))

    def _alter(self, tail: LiteralString, *values: Composable) -> Composed:
        return self._sql.SQL("ALTER DATABASE {} ").format(self._database) + self._sql.SQL(tail).format(*values)

    def _privileges(self) -> Iterator[tuple[str, Composed]]:
        entries = self._properties.get("acl")
        if entries is None:
            return
        for role in (None, self._owner) if self._owner else (None,):
            revoke = self._sql.SQL("REVOKE ALL ON DATABASE {} FROM {}")
            yield "privileges", revoke.format(self._database, self._grantee(role))
        for entry in entries:
            role, privilege = entry["grantee"], entry["privilege"]
            if role is not None and role not in self._roles:
                self.skipped.append((f"privilege {privilege}", role))
            elif privilege in _PRIVILEGES:
                tail = "GRANT {} ON DATABASE {} TO {} WITH GRANT OPTION" if entry["grantable"] else _GRANT
                values = (self._sql.SQL(privilege), self._database, self._grantee(role))
                yield f"privilege {privilege}", self._sql.SQL(tail).format(*values)

    def _grantee(self, role: str | None) -> Composable:
        return self._sql.SQL("PUBLIC") if role is None else self._sql.Identifier(role)

    def _setting(self, setting: Setting) -> Iterator[tuple[str, Composed]]:
        place = self._sql.SQL("DATABASE {}").format(self._database)
        if setting.role is not None:
            place = self._sql.SQL("ROLE {} IN DATABASE {}").format(self._sql.Identifier(setting.role), self._database)
        if setting.role is not None and setting.role not in self._roles:
            self.skipped.append((f"setting {setting.name}", setting.role))
        else:
            assignment = self._sql.SQL(setting.assignment)
            yield f"setting {setting.name}", self._sql.SQL("ALTER {} SET {}").format(place, assignment)


def _locale_options(version: int, properties: dict[str, Any]) -> Iterator[tuple[LiteralString, str]]:
    """Yields CREATE DATABASE's options; the server takes each as a string literal."""
    provider = properties.get("locale_provider", "libc")
    if provider == "builtin" and version < _BUILTIN_SINCE:
        provider = "libc"  # its LC_COLLATE and LC_CTYPE are recorded too, and sort alike
    for option, key in (("ENCODING", "encoding"), ("LC_COLLATE", "collate"), ("LC_CTYPE", "ctype")):
        if properties.get(key):
            yield option, properties[key]
    if version >= _PROVIDERS_SINCE:
        yield "LOCALE_PROVIDER", provider
    if provider != "libc" and properties.get("locale"):
        yield ("ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE"), properties["locale"]
    if properties.get("icu_rules") and version >= _RULES_SINCE:
        yield "ICU_RULES", properties["icu_rules"]
