"""What of a database a backup over TDS does not carry, said one by one: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Iterator

from dataguardian.engines.sqlserver.catalogue import Catalogue, Row
from dataguardian.engines.sqlserver.columns import ROWVERSION

_FIXED_ROLES = 16384
_OWN_USERS = frozenset({"dbo", "guest", "sys", "information_schema", "public"})
_KNOWN_KINDS = frozenset({
    "U", "V", "P", "FN", "IF", "TF", "TR", "SN", "SO", "C", "D", "F", "PK", "UQ", "TT", "IT", "S", "SQ",
    "PC", "FS", "FT", "TA", "AF",
})  # fmt: skip


def losses(catalogue: Catalogue) -> Iterator[str]:
    """Yields a warning for each kind of thing that is there and is not carried."""
    yield from _people(catalogue)
    for table in catalogue.tables:
        yield from _of_table(catalogue, table)
    yield from _odd_objects(catalogue)
    for view, what in {
        "assemblies": ".NET assemblies",
        "xml_schema_collections": "XML schema collections (their columns become plain xml)",
        "fulltext_indexes": "full-text indexes",
        "security_policies": "row security policies",
        "partition_schemes": "partition schemes (their tables come back whole)",
    }.items():
        found = [row for row in catalogue[view] if _is_own(catalogue, view, row)]
        if found:
            yield f"{len(found)} {what} are not in this backup: {_names(found)}"


def _is_own(catalogue: Catalogue, view: str, row: Row) -> bool:
    if view == "assemblies":
        return bool(row.get("is_user_defined"))
    if view == "xml_schema_collections":
        return catalogue.schema(row) != "sys"
    return not row.get("is_ms_shipped")


def _people(catalogue: Catalogue) -> Iterator[str]:
    own = [
        row
        for row in catalogue["database_principals"]
        if not row.get("is_fixed_role") and str(row["name"]).casefold() not in _OWN_USERS and _is_somebody(row)
    ]
    if own:
        yield f"{len(own)} users and roles, and what they may do, are not in this backup: {_names(own)}"


def _is_somebody(row: Row) -> bool:
    fixed = int(row["principal_id"]) >= _FIXED_ROLES
    return not fixed and not str(row["name"]).startswith("##")


def _of_table(catalogue: Catalogue, table: Row) -> Iterator[str]:
    name = catalogue.name(table)
    for flag, what in {
        "is_external": "an external table: neither it nor its rows are",
        "is_node": "a graph table: neither it nor its rows are",
        "is_edge": "a graph table: neither it nor its rows are",
        "is_filetable": "a file table: neither it nor its files are",
    }.items():
        if table.get(flag):
            yield f"{name} is {what} in this backup"
    if table.get("is_memory_optimized"):
        yield f"{name} is held in memory; it comes back as an ordinary table, without its hash indexes"
    if table.get("is_tracked_by_cdc"):
        yield f"{name}: change data capture is not in this backup"
    for column in catalogue.columns[table["object_id"]]:
        yield from _of_column(catalogue, name, column)


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
        yield f"{name} is encrypted by its clients (Always Encrypted): only sqlpackage can carry it"


def _odd_objects(catalogue: Catalogue) -> Iterator[str]:
    for row in catalogue["objects"]:
        kind = str(row["type"]).strip()
        if kind not in _KNOWN_KINDS and catalogue.is_users(row):
            yield f"{catalogue.name(row)} is a {row.get('type_desc') or kind}, which is not in this backup"


def _names(rows: list[Row]) -> str:
    names = [str(row.get("name") or row.get("object_id")) for row in rows]
    return ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")  # noqa: PLR2004 -- enough to read
