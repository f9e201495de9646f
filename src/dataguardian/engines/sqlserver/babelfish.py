"""What Babelfish does not show in the views that SQL Server has for it, found where PostgreSQL keeps it.

Its catalogue views have names in small letters, and cut; INFORMATION_SCHEMA has those of tables and columns as they
were written. Its view of sequences is always empty. It writes expressions out of what PostgreSQL made of them, with
bits of PostgreSQL's language and names that say the database; one with CASE or ISNULL makes the whole view fail.
"""

from __future__ import annotations

import re
from typing import Any

from dataguardian.engines.sqlserver.server import look, quoted
from dataguardian.engines.sqlserver.session import Session

Row = dict[str, Any]

_FUNCTIONS = ("FN", "IF", "TF")
MOST_BYTES = 63
"""Of a name; longer ones are cut and get a hash."""
_NAMES = (
    "SELECT OBJECT_ID(QUOTENAME(TABLE_SCHEMA) + '.' + QUOTENAME(TABLE_NAME)) AS object_id, TABLE_NAME AS table_name,"
    " ORDINAL_POSITION AS column_id, COLUMN_NAME AS column_name FROM INFORMATION_SCHEMA.COLUMNS"
)
_SEQUENCES = (
    "SELECT o.object_id, o.name, o.schema_id, q.seqtypid AS system_type_id, q.seqtypid AS user_type_id,"
    " q.seqstart AS start_value, q.seqincrement AS increment, q.seqmin AS minimum_value, q.seqmax AS maximum_value,"
    " q.seqcycle AS is_cycling, q.seqcache AS cache_size"
    " FROM pg_catalog.pg_sequence q JOIN sys.objects o ON o.object_id = q.seqrelid"
    # Those of identity columns are made with them.
    " WHERE q.seqrelid NOT IN (SELECT objid FROM pg_catalog.pg_depend WHERE deptype = 'i')"
)


_ATTRIBUTE = "SELECT CAST(pg_get_expr(adbin, adrelid) AS nvarchar(max)) AS definition FROM pg_catalog.pg_attrdef WHERE"
_CHECK = "SELECT CAST(pg_get_expr(conbin, conrelid) AS nvarchar(max)) AS definition FROM pg_catalog.pg_constraint WHERE"
EXPRESSIONS = {
    "default_constraints": ("name, object_id, parent_object_id, parent_column_id", f"{_ATTRIBUTE} oid = {{object_id}}"),
    "check_constraints": (
        "name, object_id, parent_object_id, is_disabled, is_not_trusted, is_not_for_replication",
        f"{_CHECK} oid = {{object_id}}",
    ),
    "computed_columns": (
        "name, object_id, column_id, is_persisted, is_nullable",
        f"{_ATTRIBUTE} adrelid = {{object_id}} AND adnum = {{column_id}}",
    ),
}
"""Views with expressions: what of a row can always be read, and where PostgreSQL has the expression."""
_OF_TYPES = (
    "SELECT '' AS name, oid AS object_id, adrelid AS parent_object_id, adnum AS parent_column_id,"
    " CAST(pg_get_expr(adbin, adrelid) AS nvarchar(max)) AS definition FROM pg_catalog.pg_attrdef"
    " WHERE adrelid IN (SELECT type_table_object_id FROM sys.table_types)"
)
"""Defaults of table types."""
_SCHEMAS = "SELECT oid AS schema_id, nspname AS name FROM pg_catalog.pg_namespace"
_TYPE = r"(?:\"\w+\"|[a-z_]\w*(?:\.\w+)?(?: (?:precision|varying|with(?:out)? time zone))*)"
_TOKEN = re.compile(
    rf"(?P<text>'(?:[^']|'')*')|(?P<cast>::{_TYPE}(?:\(\d+(?:,\s*\d+)?\))?(?: with(?:out)? time zone)?)"
    r"|(?P<collation>\s*COLLATE \"default\")|(?P<operator>!?~~\*?|\|\|)"
    r"|(?P<sequence>\bnextval\('(?P<place>[^']*)'[^)]*\))|(?P<schema>\"[^\"]+\"|\b\w+)(?=\.)",
)
_BYTES = re.compile(r"\(*'(0x[0-9A-Fa-f]*)'\)*")
_BINARY = ("binary", "varbinary", "image")
_RANGE = re.compile(r" AND \(\((.+?) >= '[^']*'\) AND \(\1 < \('[^']*' \+ '\uffff'(?: COLLATE \w+)?\)\)\)")
"""What it adds to a LIKE that knows the beginning."""
_OPERATORS = {"~~": "LIKE", "~~*": "LIKE", "!~~": "NOT LIKE", "!~~*": "NOT LIKE", "||": "+"}


def expressions(session: Session, view: str) -> list[Row]:
    """Reads one of these views row by row."""
    columns, place = EXPRESSIONS[view]
    found = []
    for row in session.query(f"SELECT {columns} FROM sys.{view}"):  # noqa: S608 -- our own names
        which = f"object_id = {row['object_id']}" + (
            f" AND column_id = {row['column_id']}" if "column_id" in row else ""
        )
        told = look(session, f"SELECT definition FROM sys.{view} WHERE {which}") or look(session, place.format(**row))  # noqa: S608 -- numbers
        found.append(row | {"definition": told[0]["definition"] if told else None})
    return found


def as_tsql(expression: str, schemas: dict[str, str]) -> str:
    """Returns an expression without the bits of PostgreSQL's language; `schemas` are ours by the names that it has."""

    def written(found: re.Match[str]) -> str:
        if found["operator"]:
            return _OPERATORS[found["operator"]]
        if found["sequence"]:
            schema, _, name = found["place"].replace('"', "").rpartition(".")
            return f"NEXT VALUE FOR {quoted(schemas.get(schema, schema or 'dbo'))}.{quoted(name)}"
        if found["schema"]:
            name = found["schema"].strip('"')
            return quoted(schemas[name]) if name in schemas else found["schema"]
        return found["text"] or ""

    return _RANGE.sub("", _TOKEN.sub(written, expression))


def complete(session: Session, views: dict[str, list[Row]]) -> None:
    """Adds to views, which have been read, what is missing in them."""
    _write_names(session, views)
    names = {row["schema_id"]: str(row["name"]) for row in views["schemas"]}
    rows = look(session, _SCHEMAS) or []
    schemas = {str(row["name"]): names[row["schema_id"]] for row in rows if row["schema_id"] in names}
    computed = {(row["object_id"], row["column_id"]) for row in views["columns"] if row.get("is_computed")}
    views.setdefault("default_constraints", []).extend(
        row
        for row in look(session, _OF_TYPES) or ()
        if (row["parent_object_id"], row["parent_column_id"]) not in computed
    )
    for view in EXPRESSIONS:
        for row in views.get(view, ()):
            row["definition"] = as_tsql(str(row["definition"]), schemas)
    _write_binary_defaults(views)
    views["sequences"] = sequences(session, views["schemas"])
    functions = [f"_{row['name']}" for row in views.get("objects", ()) if str(row["type"]).strip() in _FUNCTIONS]
    views["table_types"] = [row for row in views.get("table_types", ()) if not _is_result(str(row["name"]), functions)]


def is_as_written(name: str, written: str) -> bool:
    """Tells whether this is how a name of the catalogue was written."""
    return name.casefold() == written.casefold() or len(written.encode(errors="surrogatepass")) > MOST_BYTES


def sequences(session: Session, schemas: list[Row]) -> list[Row]:
    """Returns sequences and where they stand, as sys.sequences would."""
    names = {row["schema_id"]: str(row["name"]) for row in schemas}
    rows = look(session, _SEQUENCES) or []
    return [row | _position(session, names.get(row["schema_id"], "dbo"), str(row["name"])) for row in rows]


def _position(session: Session, schema: str, name: str) -> Row:
    rows = look(session, f"SELECT last_value, is_called FROM {quoted(schema)}.{quoted(name)}")  # noqa: S608 -- quoted
    return {"last_used_value": rows[0]["last_value"] if rows and rows[0]["is_called"] else None}


def _write_binary_defaults(views: dict[str, list[Row]]) -> None:
    """They are shown as texts."""
    types = {row["user_type_id"]: str(row["name"]) for row in views["types"]}
    binary = {
        (row["object_id"], row["column_id"]) for row in views["columns"] if types.get(row["user_type_id"]) in _BINARY
    }
    for row in views.get("default_constraints", ()):
        shown = _BYTES.fullmatch(row["definition"])
        if shown and (row["parent_object_id"], row["parent_column_id"]) in binary:
            row["definition"] = shown[1]


def _write_names(session: Session, views: dict[str, list[Row]]) -> None:
    rows = look(session, _NAMES) or []
    tables = {row["object_id"]: str(row["table_name"]) for row in rows}
    columns = {(row["object_id"], row["column_id"]): str(row["column_name"]) for row in rows}
    for view, key in {"tables": "object_id", "objects": "object_id", "table_types": "type_table_object_id"}.items():
        for row in views.get(view, ()):
            _write_name(row, tables.get(row[key]))
    for row in views["columns"]:
        _write_name(row, columns.get((row["object_id"], row["column_id"])))


def _write_name(row: Row, written: str | None) -> None:
    if written is not None and is_as_written(str(row["name"]), written):
        row["name"] = written


def _is_result(name: str, functions: list[str]) -> bool:
    """Tells whether a table type is that of a function's result, and made with the function."""
    return name.startswith("@") and name.endswith(tuple(functions))
