"""A schema as steps: statements with a name, in the order in which they work.

`before` comes before the rows: schemas, types, sequences, synonyms, tables (and the functions that computed columns
call). `after` comes when all rows are there: keys, indexes, programs, defaults, checks, foreign keys, triggers,
descriptions. So no constraint slows the loading down, no trigger fires, and every constraint is checked once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dataguardian.engines.sqlserver.catalogue import BUILT_IN_SCHEMAS, Catalogue, Row
from dataguardian.engines.sqlserver.columns import base_type_text, column_text, is_stored
from dataguardian.engines.sqlserver.keys import (
    CLUSTERED,
    HASH,
    NONCLUSTERED,
    index_columns,
    key_steps,
    plain_indexes,
    view_indexes,
)
from dataguardian.engines.sqlserver.modules import MODULE_KINDS, module_order, module_sql
from dataguardian.engines.sqlserver.properties import property_steps
from dataguardian.engines.sqlserver.server import quoted, text

_INLINE = (CLUSTERED, NONCLUSTERED, HASH)
_FUNCTIONS = ("FN", "IF", "TF")


@dataclass(frozen=True)
class Step:
    """One object, or one property of one. `batches` are run one after the other."""

    kind: str
    name: str
    batches: tuple[str, ...]


def steps_before(catalogue: Catalogue) -> list[Step]:
    """Returns what must be there before rows can be loaded; adds to the catalogue's warnings what cannot be."""
    needed = _needed_by_computed(catalogue)
    return [
        *_schemas(catalogue),
        *_as_far_as_told(catalogue, "types", _alias_types(catalogue)),
        *_as_far_as_told(catalogue, "sequences", _sequences(catalogue)),
        *_as_far_as_told(catalogue, "synonyms", _synonyms(catalogue)),
        *_modules(catalogue, needed, only=True),
        *(_table(catalogue, row) for row in catalogue.tables if is_plain(row)),
    ]


def steps_after(catalogue: Catalogue) -> list[Step]:
    """Returns what follows the rows."""
    needed = _needed_by_computed(catalogue)
    return [
        *_made(catalogue, "sequence", _positions(catalogue)),
        *_made(catalogue, "table type", _table_types(catalogue)),
        *_made(catalogue, "key", key_steps(catalogue)),
        *_made(catalogue, "index", plain_indexes(catalogue)),
        *_as_far_as_told(catalogue, "programs", _modules(catalogue, needed, only=False)),
        *_made(catalogue, "index", view_indexes(catalogue)),
        *_made(catalogue, "default", _defaults(catalogue)),
        *_made(catalogue, "check", _checks(catalogue)),
        *_made(catalogue, "foreign key", _foreign_keys(catalogue)),
        *_as_far_as_told(catalogue, "triggers", _triggers(catalogue, of_database=False)),
        *_made(catalogue, "temporal table", _temporal(catalogue)),
        *_made(catalogue, "description", property_steps(catalogue)),
        # These fire at statements like those before them.
        *_as_far_as_told(catalogue, "triggers", _triggers(catalogue, of_database=True)),
    ]


def is_plain(table: Row) -> bool:
    """Tells whether a table's rows are its own and can be put back by loading them."""
    return not any(table.get(flag) for flag in ("is_external", "is_node", "is_edge", "is_filetable"))


def _made(catalogue: Catalogue, kind: str, found: Iterator[tuple[str, list[str]]]) -> Iterator[Step]:
    steps = (Step(kind, name, tuple(batches)) for name, batches in found)
    return _as_far_as_told(catalogue, f"{kind}s", steps)


def _as_far_as_told(catalogue: Catalogue, what: str, steps: Iterator[Step]) -> Iterator[Step]:
    """Yields steps until the catalogue turns out to say less than is needed, which becomes a warning."""
    try:
        yield from steps
    except (KeyError, ValueError, TypeError) as error:
        catalogue.warnings.append(f"this server's catalogue does not say {error}: not all {what} are in this backup")


def _schemas(catalogue: Catalogue) -> Iterator[Step]:
    for row in sorted(catalogue["schemas"], key=lambda row: str(row["name"])):
        if row["name"].casefold() not in BUILT_IN_SCHEMAS:
            yield Step("schema", row["name"], (f"CREATE SCHEMA {quoted(row['name'])}",))


def _alias_types(catalogue: Catalogue) -> Iterator[Step]:
    for row in catalogue["types"]:
        if not row.get("is_user_defined") or row.get("is_table_type"):
            continue
        if row.get("is_assembly_type"):
            catalogue.warnings.append(f"type {catalogue.name(row)} is made of .NET code and is not in this backup")
            continue
        null = "NULL" if row.get("is_nullable") else "NOT NULL"
        base = base_type_text(catalogue, row | {"user_type_id": row["system_type_id"]})
        yield Step("type", catalogue.name(row), (f"CREATE TYPE {catalogue.name(row)} FROM {base} {null}",))


def _sequences(catalogue: Catalogue) -> Iterator[Step]:
    for row in catalogue["sequences"]:
        name = catalogue.name(row)
        cache = "CACHE" if row.get("is_cached") else "NO CACHE"
        cache = f"CACHE {row['cache_size']}" if row.get("cache_size") else cache
        create = (
            f"CREATE SEQUENCE {name} AS {base_type_text(catalogue, row | {'max_length': 0})}"
            f" START WITH {row['start_value']} INCREMENT BY {row['increment']}"
            f" MINVALUE {row['minimum_value']} MAXVALUE {row['maximum_value']}"
            f" {'CYCLE' if row.get('is_cycling') else 'NO CYCLE'} {cache}"
        )
        yield Step("sequence", name, (create,))


def _positions(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    for row in catalogue["sequences"]:
        if batches := _sequence_position(catalogue, row):
            yield catalogue.name(row), batches


def _sequence_position(catalogue: Catalogue, row: Row) -> list[str]:
    """Returns what makes a sequence go on where it was. Before SQL Server 2017 nobody says whether it gave its first
    value yet; then that one is left out, rather than given twice.
    """
    last = row["last_used_value"] if "last_used_value" in row else row.get("current_value")
    if last is None:
        return []
    following = int(last) + int(row["increment"])
    if not int(row["minimum_value"]) <= following <= int(row["maximum_value"]):
        if not row.get("is_cycling"):
            catalogue.warnings.append(
                f"sequence {catalogue.name(row)} is exhausted; the restored one would begin anew: look at it"
            )
            return []
        following = int(row["minimum_value"] if int(row["increment"]) > 0 else row["maximum_value"])
    return [f"ALTER SEQUENCE {catalogue.name(row)} RESTART WITH {following}"]


def _synonyms(catalogue: Catalogue) -> Iterator[Step]:
    for row in catalogue["synonyms"]:
        name = catalogue.name(row)
        yield Step("synonym", name, (f"CREATE SYNONYM {name} FOR {row['base_object_name']}",))


def _table(catalogue: Catalogue, table: Row) -> Step:
    object_id = table["object_id"]
    lines = _lines(catalogue, object_id)
    return Step("table", catalogue.name(table), (f"CREATE TABLE {catalogue.name(table)} (\n  {_listed(lines)}\n)",))


def _listed(lines: list[str]) -> str:
    return ",\n  ".join(lines)


def _lines(catalogue: Catalogue, object_id: int) -> list[str]:
    identities = {row["column_id"]: row for row in catalogue.grouped("identity_columns", "object_id")[object_id]}
    computed = {row["column_id"]: row for row in catalogue.grouped("computed_columns", "object_id")[object_id]}
    return [
        column_text(catalogue, column, identities.get(column["column_id"]), computed.get(column["column_id"]))
        for column in _carried(catalogue, object_id)
    ]


def _carried(catalogue: Catalogue, object_id: int) -> list[Row]:
    return [column for column in catalogue.columns[object_id] if catalogue.is_carried(column)]


def _table_types(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    for row in catalogue["table_types"]:
        object_id = row["type_table_object_id"]
        defaults = {
            found["parent_column_id"]: f" DEFAULT {found['definition']}"
            for found in catalogue["default_constraints"]
            if found["parent_object_id"] == object_id
        }
        lines = [
            line + defaults.get(column["column_id"], "")
            for line, column in zip(_lines(catalogue, object_id), _carried(catalogue, object_id), strict=True)
        ]
        lines += [
            f"CHECK {found['definition']}"
            for found in catalogue["check_constraints"]
            if found["parent_object_id"] == object_id
        ]
        indexes = [row for row in catalogue.grouped("indexes", "object_id")[object_id] if row["type"] in _INLINE]
        lines += [_inline(catalogue, index) for index in indexes]
        yield catalogue.name(row), [f"CREATE TYPE {catalogue.name(row)} AS TABLE (\n  {_listed(lines)}\n)"]


def _inline(catalogue: Catalogue, index: Row) -> str:
    """Returns a key or an index of a table type, which has no statements of its own."""
    keys, included = index_columns(catalogue, index)
    unique = "UNIQUE " if index.get("is_unique") else ""
    kind = f"INDEX {quoted(str(index['name']))} {unique}".rstrip()
    if index.get("is_primary_key") or index.get("is_unique_constraint"):
        kind = "PRIMARY KEY" if index.get("is_primary_key") else "UNIQUE"
    extra = f" INCLUDE ({included})" if included else ""
    condition = f" WHERE {index['filter_definition']}" if index.get("filter_definition") else ""
    return f"{kind} {'CLUSTERED' if index['type'] == CLUSTERED else 'NONCLUSTERED'} ({keys}){extra}{condition}"


def _tables_by_id(catalogue: Catalogue) -> dict[Any, Row]:
    return {row["object_id"]: row for row in catalogue.tables if is_plain(row)}


def _defaults(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    tables = _tables_by_id(catalogue)
    for row in catalogue["default_constraints"]:
        table = tables.get(row["parent_object_id"])
        if table is None:
            continue
        column = catalogue.column(table["object_id"], row["parent_column_id"])
        # Babelfish says that a rowversion has one, and lets nobody make it.
        if is_stored(catalogue, column):
            what = f"{quoted(row['name'])} DEFAULT {row['definition']} FOR {quoted(column['name'])}"
            yield row["name"], [f"ALTER TABLE {catalogue.name(table)} ADD CONSTRAINT {what}"]


def _checks(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    tables = _tables_by_id(catalogue)
    for row in catalogue["check_constraints"]:
        if (table := tables.get(row["parent_object_id"])) is None:
            continue
        if _needs_uncarried(catalogue, row["object_id"]):
            catalogue.warnings.append(f"check {quoted(row['name'])} has a column that is not in this backup, nor is it")
        else:
            what = f"CHECK {'NOT FOR REPLICATION ' if row.get('is_not_for_replication') else ''}{row['definition']}"
            yield row["name"], _constraint(catalogue.name(table), row, what)


def _needs_uncarried(catalogue: Catalogue, object_id: int) -> bool:
    calls = catalogue.grouped("sql_expression_dependencies", "referencing_id")[object_id]
    return any((call.get("referenced_id"), call.get("referenced_minor_id")) in catalogue.uncarried for call in calls)


def _constraint(table: str, row: Row, what: str) -> list[str]:
    """Adds a constraint in the state it has: checked against the rows unless the server does not trust it either."""
    unchecked = " WITH NOCHECK" if row.get("is_not_trusted") or row.get("is_disabled") else ""
    name = quoted(row["name"])
    batches = [f"ALTER TABLE {table}{unchecked} ADD CONSTRAINT {name} {what}"]
    if row.get("is_disabled"):
        batches.append(f"ALTER TABLE {table} NOCHECK CONSTRAINT {name}")
    return batches


def _foreign_keys(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    tables = _tables_by_id(catalogue)
    parts = catalogue.grouped("foreign_key_columns", "constraint_object_id")
    for row in catalogue["foreign_keys"]:
        table, other = tables.get(row["parent_object_id"]), tables.get(row["referenced_object_id"])
        if table is None or other is None:
            catalogue.warnings.append(f"foreign key {quoted(row['name'])}: its table is not in this backup, nor is it")
            continue
        pairs = sorted(parts[row["object_id"]], key=lambda pair: int(pair["constraint_column_id"]))
        if any((table["object_id"], pair["parent_column_id"]) in catalogue.uncarried for pair in pairs):
            catalogue.warnings.append(
                f"foreign key {quoted(row['name'])} has a column that is not in this backup, nor is it"
            )
            continue
        own = [quoted(catalogue.column_name(table["object_id"], pair["parent_column_id"])) for pair in pairs]
        far = [quoted(catalogue.column_name(other["object_id"], pair["referenced_column_id"])) for pair in pairs]
        what = f"FOREIGN KEY ({', '.join(own)}) REFERENCES {catalogue.name(other)} ({', '.join(far)})"
        for event in ("delete", "update"):
            action = str(row.get(f"{event}_referential_action_desc") or "NO_ACTION").replace("_", " ")
            what += f" ON {event.upper()} {action}" if action.upper() != "NO ACTION" else ""
        what += " NOT FOR REPLICATION" if row.get("is_not_for_replication") else ""
        yield row["name"], _constraint(catalogue.name(table), row, what)


def _needed_by_computed(catalogue: Catalogue) -> set[Any]:
    """Returns the functions that must be there before the tables, with what they call in turn."""
    modules = {row["object_id"] for row in catalogue["sql_modules"]}
    waiting = [row["object_id"] for row in catalogue["computed_columns"]]
    needed: set[Any] = set()
    while waiting:
        called = _called(catalogue, waiting.pop()) & modules - needed
        needed |= called
        waiting += called
    return needed


def _called(catalogue: Catalogue, object_id: int) -> set[Any]:
    """Returns what an object calls. Where the server keeps no account of it, functions whose names are in its text."""
    if catalogue["sql_expression_dependencies"]:
        rows = catalogue.grouped("sql_expression_dependencies", "referencing_id")[object_id]
        return {row.get("referenced_id") for row in rows}
    texts = [
        str(row.get("definition"))
        for view in ("computed_columns", "sql_modules")
        for row in catalogue.grouped(view, "object_id")[object_id]
    ]
    words = {word.casefold() for text in texts for word in re.findall(r"\w+", text)}
    return {
        row["object_id"]
        for row in catalogue["objects"]
        if str(row["type"]).strip() in _FUNCTIONS and words >= set(re.findall(r"\w+", str(row["name"]).casefold()))
    }


def _modules(catalogue: Catalogue, needed: set[Any], *, only: bool) -> Iterator[Step]:
    for row in module_order(catalogue):
        if (row["object_id"] in needed) == only:
            definition = module_sql(catalogue, row)
            if definition is not None:
                yield Step(MODULE_KINDS[row["type"].strip()], catalogue.name(row), tuple(definition))


def _triggers(catalogue: Catalogue, *, of_database: bool) -> Iterator[Step]:
    events = catalogue.grouped("trigger_events", "object_id")
    for row in catalogue["triggers"]:
        on_database = row.get("parent_class") == 0
        if row.get("is_ms_shipped") or on_database != of_database:
            continue
        parent = catalogue.objects.get(row["parent_id"])
        if parent is None and not on_database:
            continue
        schema = "dbo" if on_database or parent is None else catalogue.schema(parent)
        name = quoted(row["name"]) if on_database else f"{quoted(schema)}.{quoted(row['name'])}"
        definition = module_sql(catalogue, row, schema=None if on_database else schema)
        if definition is None:
            continue
        batches = list(definition)
        where = "DATABASE" if on_database or parent is None else catalogue.name(parent)
        if row.get("is_disabled"):
            batches.append(f"DISABLE TRIGGER {name} ON {where}")
        for event in events[row["object_id"]]:
            order = "First" if event.get("is_first") else "Last" if event.get("is_last") else None
            if order:
                space = ", @namespace = 'DATABASE'" if on_database else ""
                batches.append(
                    f"EXEC sys.sp_settriggerorder @triggername = {text(name)}, @order = '{order}',"
                    f" @stmttype = {text(str(event['type_desc']))}{space}"
                )
        yield Step("trigger", name, tuple(batches))


def _temporal(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    tables = _tables_by_id(catalogue)
    for period in catalogue["periods"]:
        table = tables.get(period["object_id"])
        if table is None:
            continue
        name, object_id = catalogue.name(table), table["object_id"]
        begin = quoted(catalogue.column_name(object_id, period["start_column_id"]))
        end = quoted(catalogue.column_name(object_id, period["end_column_id"]))
        batches = [f"ALTER TABLE {name} ADD PERIOD FOR SYSTEM_TIME ({begin}, {end})"]
        batches += [
            f"ALTER TABLE {name} ALTER COLUMN {quoted(column['name'])} ADD HIDDEN"
            for column in catalogue.columns[object_id]
            if column.get("is_hidden")
        ]
        history = tables.get(table.get("history_table_id"))
        if history is not None:
            words = f"HISTORY_TABLE = {catalogue.name(history)}{_retention(table)}"
            batches.append(f"ALTER TABLE {name} SET (SYSTEM_VERSIONING = ON ({words}))")
        yield name, batches


def _retention(table: Row) -> str:
    """Returns how long a table's history is kept, where that is not for ever (SQL Server 2017)."""
    count, unit = table.get("history_retention_period"), str(table.get("history_retention_period_unit_desc") or "")
    if not count or int(count) < 0 or unit not in ("DAY", "WEEK", "MONTH", "YEAR"):
        return ""
    return f", HISTORY_RETENTION_PERIOD = {int(count)} {unit}"
