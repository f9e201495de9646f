"""What the catalogue views of a database say, read as they are: whole views, joined here.

Servers differ in which views and columns they have. What is missing is told as a warning that says what is therefore
not in the backup; only without tables, columns, types and schemas there is nothing to back up.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dataguardian.domain.errors import DumpFailedError
from dataguardian.engines.sqlserver import babelfish
from dataguardian.engines.sqlserver.server import is_babelfish, quoted, text
from dataguardian.engines.sqlserver.session import ServerError, Session
from dataguardian.engines.sqlserver.values import Variant

Row = dict[str, Any]

SYSTEM_SCHEMAS = frozenset({"sys", "information_schema"})
FIXED_ROLES = frozenset({
    "db_owner", "db_accessadmin", "db_securityadmin", "db_ddladmin", "db_backupoperator", "db_datareader",
    "db_datawriter", "db_denydatareader", "db_denydatawriter",
})  # fmt: skip
BUILT_IN_SCHEMAS = SYSTEM_SCHEMAS | FIXED_ROLES | {"dbo", "guest"}
_REQUIRED = ("schemas", "tables", "columns", "types")
_OPTIONAL = {
    "objects": "objects of kinds that this program does not know",
    "sql_modules": "views, procedures, functions and triggers",
    "identity_columns": "",
    "computed_columns": "computed columns, which become plain ones",
    "default_constraints": "defaults of columns",
    "check_constraints": "check constraints",
    "key_constraints": "names of primary and unique keys",
    "indexes": "primary keys, unique keys and indexes",
    "index_columns": "primary keys, unique keys and indexes",
    "foreign_keys": "foreign keys",
    "foreign_key_columns": "foreign keys",
    "views": "views",
    "triggers": "triggers",
    "trigger_events": "which trigger comes first or last",
    "sequences": "sequences",
    "synonyms": "synonyms",
    "table_types": "table types",
    "extended_properties": "descriptions (extended properties)",
    "sql_expression_dependencies": "",
    "parameters": "",
    "xml_indexes": "XML indexes",
    "periods": "periods of system time",
    "partitions": "",
    "database_principals": "",
    "database_permissions": "",
    "assemblies": "",
    "xml_schema_collections": "",
    "fulltext_indexes": "",
    "security_policies": "",
    "partition_schemes": "",
    "stats": "",
    "certificates": "",
    "symmetric_keys": "",
    "asymmetric_keys": "",
    "database_scoped_credentials": "",
    "external_data_sources": "",
    "change_tracking_tables": "",
    "plan_guides": "",
}
"""Views, and what a backup lacks without them; '' where nothing of a database is in them alone, or nothing is taken."""


@dataclass
class Catalogue:
    """The views of one database. `warnings` is what could not be read."""

    views: dict[str, list[Row]]
    collation: str = ""
    options: Row = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    is_babelfish: bool = False
    _groups: dict[tuple[str, str], dict[Any, list[Row]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schemas = {row["schema_id"]: row["name"] for row in self.views["schemas"]}
        self.types = {row["user_type_id"]: row for row in self.views["types"]}
        self.columns = self.grouped("columns", "object_id")
        for rows in self.columns.values():
            rows.sort(key=lambda row: int(row["column_id"]))
        self.tables = sorted(
            (row for row in self.views["tables"] if self.is_users(row)), key=lambda row: (self.schema(row), row["name"])
        )
        self.objects = {row["object_id"]: row for view in ("tables", "views", "objects") for row in self[view]}

    def __getitem__(self, view: str) -> list[Row]:
        return self.views.get(view, [])

    def read_sequences_again(self, session: Session) -> None:
        with suppress(ServerError):
            self.views["sequences"] = (
                babelfish.sequences(session, self["schemas"]) if self.is_babelfish else _read(session, "sequences")
            )
            self._groups = {key: rows for key, rows in self._groups.items() if key[0] != "sequences"}

    def grouped(self, view: str, key: str) -> dict[Any, list[Row]]:
        """Returns a view's rows by one of its columns; what nobody has is an empty list."""
        if (view, key) not in self._groups:
            groups: dict[Any, list[Row]] = defaultdict(list)
            for row in self[view]:
                groups[row.get(key)].append(row)
            self._groups[view, key] = groups
        return self._groups[view, key]

    def schema(self, row: Row) -> str:
        return str(self.schemas.get(row.get("schema_id"), "dbo"))

    def is_users(self, row: Row) -> bool:
        return not row.get("is_ms_shipped") and self.schema(row).casefold() not in SYSTEM_SCHEMAS

    def name(self, row: Row) -> str:
        """Returns `[schema].[object]`."""
        return f"{quoted(self.schema(row))}.{quoted(row['name'])}"

    def column(self, object_id: int, column_id: int) -> Row:
        found = [row for row in self.columns[object_id] if row["column_id"] == column_id]
        if not found:
            raise KeyError(f"column {column_id} of object {object_id}")
        return found[0]

    def column_name(self, object_id: int, column_id: int) -> str:
        return str(self.column(object_id, column_id)["name"])

    def is_carried(self, column: Row) -> bool:
        """Tells whether a column is in the backup: not where its type is .NET code, or its clients hold its keys."""
        return self.base_type(column) != "clr" and column.get("encryption_type") is None

    @cached_property
    def uncarried(self) -> frozenset[tuple[Any, Any]]:
        """The columns that are not in the backup, by the ids of table and column."""
        rows = (row for found in self.columns.values() for row in found)
        return frozenset((row["object_id"], row["column_id"]) for row in rows if not self.is_carried(row))

    def is_foreign(self, collation: str | None) -> bool:
        """Tells whether a column's collation is another than the database's."""
        return bool(collation) and str(collation).casefold() != self.collation.casefold()

    def base_type(self, column: Row) -> str:
        """Returns the name of the system type that a column, or the alias type that it has, is made of."""
        own = self.types.get(column["user_type_id"], {})
        if own and not own.get("is_user_defined"):
            return str(own["name"]).lower()
        system = self.types.get(column["system_type_id"])
        return str(system["name"]).lower() if system and system is not own else "clr"


def read_catalogue(session: Session, database: str) -> Catalogue:
    """Reads every view; raises DumpFailedError when one that everything rests on cannot be read."""
    views: dict[str, list[Row]] = {}
    warnings = []
    has_own_places = is_babelfish(session)
    for view in _REQUIRED:
        try:
            views[view] = _read(session, view)
        except ServerError as error:
            raise DumpFailedError(f"database {database!r}: sys.{view} cannot be read: {error.text}") from error
    for view, lost in _OPTIONAL.items():
        try:
            is_frail = has_own_places and view in babelfish.EXPRESSIONS
            views[view] = babelfish.expressions(session, view) if is_frail else _read(session, view)
        except ServerError as error:
            if lost:
                warnings.append(f"sys.{view} cannot be read ({error.text:.120}): {lost} are not in this backup")
    _complete(session, views, warnings)
    if has_own_places:
        babelfish.complete(session, views)
    options = _database_row(session, database)
    collation = str(options.get("collation_name") or "")
    return Catalogue(views, collation, options, warnings, has_own_places)


def _read(session: Session, view: str) -> list[Row]:
    """Numbers that a view gives as sql_variant (seeds, bounds) are plain ones here; values of properties stay."""
    rows = session.query(f"SELECT * FROM sys.{view}")  # noqa: S608 -- our own names
    if view == "extended_properties":
        return rows
    return [{key: value.value if isinstance(value, Variant) else value for key, value in row.items()} for row in rows]


def _complete(session: Session, views: dict[str, list[Row]], warnings: list[str]) -> None:
    """Finds in other places what a server without some views says there."""
    schemas = {row["schema_id"]: row["name"] for row in views["schemas"]}
    if "identity_columns" not in views:
        views["identity_columns"] = [row for row in views["columns"] if row.get("is_identity")]
    tables = {row["object_id"]: row for row in views["tables"]}
    # One row for each: Babelfish joins those of all tables with each other.
    identities = {(row["object_id"], row.get("column_id")): row for row in views["identity_columns"]}
    views["identity_columns"] = [
        row | _identity(session, tables[row["object_id"]], schemas)
        if row["object_id"] in tables and None in (row.get("seed_value"), row.get("increment_value"))
        else row
        for row in identities.values()
    ]
    if "triggers" not in views:
        found = [row for row in views.get("objects", ()) if str(row["type"]).strip() == "TR"]
        views["triggers"] = [row | {"parent_id": row["parent_object_id"], "parent_class": 1} for row in found]
        if not found and "objects" in views:
            warnings[:] = [warning for warning in warnings if not warning.startswith("sys.triggers ")]
    if not any(row.get("temporal_type") for row in views["tables"]):
        warnings[:] = [warning for warning in warnings if not warning.startswith("sys.periods ")]


def _identity(session: Session, table: Row, schemas: dict[Any, Any]) -> Row:
    name = text(f"{quoted(str(schemas.get(table['schema_id'], 'dbo')))}.{quoted(table['name'])}")
    query = f"SELECT IDENT_SEED({name}) AS seed_value, IDENT_INCR({name}) AS increment_value"
    try:
        rows = session.query(query)
    except ServerError:
        rows = []
    usual = {"seed_value": 1, "increment_value": 1}
    return {key: int(rows[0][key]) if rows and rows[0].get(key) is not None else usual[key] for key in usual}


def _database_row(session: Session, database: str) -> Row:
    try:
        rows = session.query(f"SELECT * FROM sys.databases WHERE name = {text(database)}")  # noqa: S608 -- quoted
    except ServerError:
        return {}
    return rows[0] if rows else {}
