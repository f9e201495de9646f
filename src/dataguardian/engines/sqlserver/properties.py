"""Descriptions: extended properties of the database and of what is in it."""

from __future__ import annotations

from collections.abc import Iterator

from dataguardian.engines.sqlserver.catalogue import Catalogue, Row
from dataguardian.engines.sqlserver.literals import literal_of
from dataguardian.engines.sqlserver.server import quoted, text

DATABASE, OBJECT, PARAMETER, SCHEMA, TYPE, INDEX = 0, 1, 2, 3, 6, 7
_LEVEL = {
    "U": "TABLE", "V": "VIEW", "P": "PROCEDURE", "FN": "FUNCTION", "IF": "FUNCTION", "TF": "FUNCTION",
    "SN": "SYNONYM", "SO": "SEQUENCE",
}  # fmt: skip
_CONSTRAINTS = {"C", "D", "F", "PK", "UQ"}
Level = tuple[str, str]


def property_steps(catalogue: Catalogue) -> Iterator[tuple[str, list[str]]]:
    """Yields one call per property; what it hangs on and we do not know becomes a warning."""
    for row in catalogue["extended_properties"]:
        levels = _levels(catalogue, row)
        if levels is None:
            catalogue.warnings.append(
                f"the description {row['name']!r} of a {row.get('class_desc') or row['class']} is not in this backup"
            )
            continue
        words = [f"@name = {text(row['name'])}", "@value = @value"]
        for number, (kind, name) in enumerate(levels):
            words += [f"@level{number}type = {text(kind)}", f"@level{number}name = {text(name)}"]
        value = literal_of(row["value"])
        call = f"DECLARE @value sql_variant = {value}; EXEC sys.sp_addextendedproperty {', '.join(words)}"
        yield f"{row['name']} of {'.'.join(quoted(name) for _, name in levels) or 'the database'}", [call]


def _levels(catalogue: Catalogue, row: Row) -> list[Level] | None:
    kind, major, minor = row["class"], row["major_id"], row["minor_id"]
    if kind == DATABASE:
        return []
    if kind == SCHEMA:
        return [("SCHEMA", str(catalogue.schemas[major]))] if major in catalogue.schemas else None
    if kind == TYPE:
        found = catalogue.types.get(major)
        return [("SCHEMA", catalogue.schema(found)), ("TYPE", found["name"])] if found else None
    if kind not in (OBJECT, PARAMETER, INDEX) or (owner := catalogue.objects.get(major)) is None:
        return None
    return _of_object(catalogue, owner, kind, minor)


def _of_object(catalogue: Catalogue, owner: Row, kind: int, minor: int) -> list[Level] | None:
    code = str(owner["type"]).strip()
    if code in _CONSTRAINTS or code == "TR":
        parent = catalogue.objects.get(owner.get("parent_object_id"))
        above = _of_object(catalogue, parent, OBJECT, 0) if parent else None
        return [*above, ("TRIGGER" if code == "TR" else "CONSTRAINT", owner["name"])] if above else None
    if code not in _LEVEL:
        return None
    levels = [("SCHEMA", catalogue.schema(owner)), (_LEVEL[code], str(owner["name"]))]
    if kind == OBJECT and minor == 0:
        return levels
    view, word, key = {
        OBJECT: ("columns", "COLUMN", "column_id"),
        PARAMETER: ("parameters", "PARAMETER", "parameter_id"),
        INDEX: ("indexes", "INDEX", "index_id"),
    }[kind]
    found = [row for row in catalogue[view] if row["object_id"] == owner["object_id"] and row[key] == minor]
    return [*levels, (word, str(found[0]["name"]))] if found else None
