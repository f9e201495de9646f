"""What of a database a backup over TDS does not carry, said one by one: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Iterator

from dataguardian.engines.sqlserver.catalogue import BUILT_IN_SCHEMAS, FIXED_ROLES, Catalogue, Row
from dataguardian.engines.sqlserver.columns import ROWVERSION

_OWN_USERS = FIXED_ROLES | {"dbo", "guest", "sys", "information_schema", "public"}
_KNOWN_KINDS = frozenset({
    "U", "V", "P", "FN", "IF", "TF", "TR", "SN", "SO", "C", "D", "F", "PK", "UQ", "TT", "IT", "S",
    "PC", "FS", "FT", "TA", "AF",
})  # fmt: skip
_VIEWS = {
    "assemblies": ".NET assemblies",
    "xml_schema_collections": "XML schema collections (their columns become plain xml)",
    "fulltext_indexes": "full-text indexes",
    "security_policies": "row security policies (of their tables there are only the rows that this login may see)",
    "partition_schemes": "partition schemes (their tables come back whole)",
    "data_spaces": "filegroups (their tables come back in the default one)",
    "stats": "statistics that somebody made",
    "certificates": "certificates",
    "symmetric_keys": "symmetric keys",
    "asymmetric_keys": "asymmetric keys",
    "database_scoped_credentials": "credentials",
    "external_data_sources": "external data sources",
    "change_tracking_tables": "tables' change tracking",
    "plan_guides": "plan guides",
}
_SETTINGS = {
    "is_encrypted": "encryption at rest (TDE)",
    "is_trustworthy_on": "TRUSTWORTHY",
    "is_db_chaining_on": "DB_CHAINING",
    "is_cdc_enabled": "change data capture",
    "is_read_only": "READ_ONLY",
    "is_published": "replication",
    "is_merge_published": "merge replication",
    "is_recursive_triggers_on": "RECURSIVE_TRIGGERS",
    "is_parameterization_forced": "PARAMETERIZATION FORCED",
    "is_date_correlation_on": "DATE_CORRELATION_OPTIMIZATION",
    "is_cursor_close_on_commit_on": "CURSOR_CLOSE_ON_COMMIT",
    "is_local_cursor_default": "CURSOR_DEFAULT LOCAL",
    "is_ansi_null_default_on": "ANSI_NULL_DEFAULT",
    "is_ansi_nulls_on": "ANSI_NULLS",
    "is_ansi_padding_on": "ANSI_PADDING",
    "is_ansi_warnings_on": "ANSI_WARNINGS",
    "is_arithabort_on": "ARITHABORT",
    "is_concat_null_yields_null_on": "CONCAT_NULL_YIELDS_NULL",
    "is_numeric_roundabort_on": "NUMERIC_ROUNDABORT",
    "is_quoted_identifier_on": "QUOTED_IDENTIFIER",
    "is_memory_optimized_elevate_to_snapshot_on": "MEMORY_OPTIMIZED_ELEVATE_TO_SNAPSHOT",
    "is_auto_close_on": "AUTO_CLOSE",
    "is_auto_shrink_on": "AUTO_SHRINK",
    "delayed_durability": "DELAYED_DURABILITY",
    "containment": "CONTAINMENT",
}
"""Columns of sys.databases that are 0 in a database that nobody changed."""
_PADDED = frozenset({"char", "binary"})


def losses(catalogue: Catalogue) -> Iterator[str]:
    """Yields a warning for each kind of thing that is there and is not carried."""
    yield from _people(catalogue)
    for table in catalogue.tables:
        yield from _of_table(catalogue, table)
    yield from _odd_objects(catalogue)
    for view, what in _VIEWS.items():
        found = [row for row in catalogue[view] if _is_own(catalogue, view, row)]
        if found:
            yield f"{len(found)} {what} are not in this backup: {_names(catalogue, found)}"
    if settings := [what for key, what in _SETTINGS.items() if catalogue.options.get(key)]:
        yield f"the database's settings {', '.join(settings)} are not in this backup"


def _is_own(catalogue: Catalogue, view: str, row: Row) -> bool:
    if view == "assemblies":
        return bool(row.get("is_user_defined"))
    if view == "stats":
        owner = catalogue.objects.get(row["object_id"])
        return bool(row.get("user_created")) and owner is not None and catalogue.is_users(owner)
    if view == "xml_schema_collections":
        return catalogue.schema(row) != "sys"
    if view == "data_spaces":
        return not row.get("is_default") and not row.get("is_system") and row.get("type") in ("FG", "FD", "FX")
    return not row.get("is_ms_shipped") and not str(row.get("name")).startswith("##")


def _people(catalogue: Catalogue) -> Iterator[str]:
    own = [
        row
        for row in catalogue["database_principals"]
        if str(row["name"]).casefold() not in _OWN_USERS and not str(row["name"]).startswith("##")
    ]
    if own:
        yield f"{len(own)} users and roles, and what they may do, are not in this backup: {_names(catalogue, own)}"
    others = {row["principal_id"]: row for row in own}
    owned = [
        row
        for view in ("schemas", "objects", "types")
        for row in catalogue[view]
        if row.get("principal_id") in others and str(row["name"]).casefold() not in BUILT_IN_SCHEMAS
    ]
    if owned:
        yield f"{len(owned)} schemas and objects that others own come back as dbo's: {_names(catalogue, owned)}"


def _of_table(catalogue: Catalogue, table: Row) -> Iterator[str]:
    name = catalogue.name(table)
    for flag, what in {
        "is_external": "an external table: neither it nor its rows are",
        "is_node": "a graph table: neither it nor its rows are",
        "is_edge": "a graph table: neither it nor its rows are",
        "is_filetable": "a file table: neither it nor its files are",
        "ledger_type": "a ledger table: it is an ordinary one, without its proofs,",
    }.items():
        if table.get(flag):
            yield f"{name} is {what} in this backup"
    if table.get("is_memory_optimized"):
        yield f"{name} is held in memory; it comes back as an ordinary table, without its hash indexes"
    if table.get("is_tracked_by_cdc"):
        yield f"{name}: change data capture is not in this backup"
    columns = catalogue.columns[table["object_id"]]
    for column in columns:
        yield from _of_column(catalogue, name, column)
    bare = [
        column["name"]
        for column in columns
        if column.get("is_ansi_padded") in (False, 0) and catalogue.base_type(column) in _PADDED
    ]
    if bare:
        yield f"{name}: columns made with ANSI_PADDING OFF come back with it ON, and padded: {', '.join(bare)}"


def _of_column(catalogue: Catalogue, table: str, column: Row) -> Iterator[str]:
    name, base = f"{table}.{column['name']}", catalogue.base_type(column)
    if base in (ROWVERSION, "rowversion"):
        yield f"{name}: the server gives rowversion values itself; a restored table has new ones"
    if base == "clr":
        yield f"{name} is of a type made of .NET code: neither it nor its values are in this backup"
    for flag, what in {
        "is_filestream": "its values come back inside the table and not as FILESTREAM",
        "is_masked": "dynamic data masking is not in this backup, and its values are only what this login may see",
    }.items():
        if column.get(flag):
            yield f"{name}: {what}"
    if column.get("encryption_type") is not None:
        yield (
            f"{name} is encrypted by its clients (Always Encrypted): neither it nor its values are in this backup;"
            " sqlpackage can carry them"
        )
    if base == "vector":
        yield f"{name}: vectors travel as texts of eight digits, and may come back with another last bit"


def _odd_objects(catalogue: Catalogue) -> Iterator[str]:
    for row in catalogue["objects"]:
        kind = str(row["type"]).strip()
        # A default of its own (CREATE DEFAULT) is of no table, unlike a constraint.
        is_known = kind in _KNOWN_KINDS and (kind != "D" or row.get("parent_object_id"))
        if not is_known and catalogue.is_users(row):
            yield f"{catalogue.name(row)} is a {row.get('type_desc') or kind}, which is not in this backup"


def _names(catalogue: Catalogue, rows: list[Row]) -> str:
    names = [
        str(row.get("name") or catalogue.objects.get(row.get("object_id"), row).get("name") or row.get("object_id"))
        for row in rows
    ]
    return ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")  # noqa: PLR2004 -- enough to read
