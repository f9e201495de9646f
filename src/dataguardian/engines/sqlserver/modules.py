"""Views, procedures, functions and triggers: their own texts, in an order in which each finds what it needs."""

from __future__ import annotations

import re
from typing import Any

from dataguardian.engines.sqlserver.babelfish import is_as_written
from dataguardian.engines.sqlserver.catalogue import Catalogue, Row
from dataguardian.engines.sqlserver.server import quoted

MODULE_KINDS = {"V": "view", "P": "procedure", "FN": "function", "IF": "function", "TF": "function"}
_CLR = {"PC", "FS", "FT", "TA", "AF"}
_PART = r"(?:\[(?:[^\]]|\]\])*\]|\"(?:[^\"]|\"\")*\"|[^\s.(\[\"]+)"
_GAP = r"(?>(?:\s|--[^\n]*\n|/\*.*?\*/)*)"
"""White space and comments, taken whole: many of them must not be tried in every grouping."""
_HEADER = re.compile(
    rf"(?P<head>{_GAP}CREATE{_GAP}(?:OR\s+ALTER{_GAP})?(?:VIEW|PROCEDURE|PROC|FUNCTION|TRIGGER)\b{_GAP})"
    rf"(?P<name>{_PART}(?:\s*\.\s*{_PART})*)",
    re.IGNORECASE | re.DOTALL,
)


def module_order(catalogue: Catalogue) -> list[Row]:
    """Returns the user's modules, triggers apart, each after those that it names."""
    rows = {
        row["object_id"]: row
        for view in ("views", "objects")
        for row in catalogue[view]
        if catalogue.is_users(row) and str(row["type"]).strip() in MODULE_KINDS
    }
    for row in catalogue["objects"]:
        if catalogue.is_users(row) and str(row["type"]).strip() in _CLR:
            catalogue.warnings.append(f"{catalogue.name(row)} is made of .NET code and is not in this backup")
    calls = catalogue.grouped("sql_expression_dependencies", "referencing_id")
    ordered: dict[Any, Row] = {}
    for start in sorted(rows, key=lambda object_id: _rank(rows[object_id])):
        _visit(start, rows, calls, ordered)
    return list(ordered.values())


def _rank(row: Row) -> tuple[int, str]:
    return ("FN", "IF", "TF", "V", "P").index(str(row["type"]).strip()), str(row["name"])


def _visit(
    start: Any,  # noqa: ANN401 -- an id, as the catalogue has it
    rows: dict[Any, Row],
    calls: dict[Any, list[Row]],
    ordered: dict[Any, Row],
) -> None:
    """Depth first without recursion; a circle is cut where it was entered."""
    waiting: list[Any] = [start]
    seen = set(ordered)
    while waiting:
        top = waiting[-1]
        wanted = [call.get("referenced_id") for call in calls.get(top, ())]
        missing = [object_id for object_id in wanted if object_id in rows and object_id not in seen]
        seen.add(top)
        if missing:
            waiting.append(missing[0])
            continue
        waiting.pop()
        ordered.setdefault(top, rows[top])


def module_sql(catalogue: Catalogue, row: Row, *, schema: str | None = "") -> list[str] | None:
    """Returns the batches that make a module; None, and a warning, when the server does not give its text away.

    `schema` is where it lives when its own row does not say; None for what lives in none.
    """
    module = next((found for found in catalogue["sql_modules"] if found["object_id"] == row["object_id"]), None)
    name = quoted(_written(catalogue, row, module))
    if schema is not None:
        name = f"{quoted(schema or catalogue.schema(row))}.{name}"
    if module is None and "sql_modules" not in catalogue.views:
        return None
    if module is None or not module.get("definition"):
        reason = "is encrypted, or this login may not see its text (VIEW DEFINITION)"
        catalogue.warnings.append(f"{name} {reason}: it is not in this backup")
        return None
    nulls = "OFF" if module.get("uses_ansi_nulls") in (False, 0) else "ON"
    quotes = "OFF" if module.get("uses_quoted_identifier") in (False, 0) else "ON"
    batches = [f"SET ANSI_NULLS {nulls}", f"SET QUOTED_IDENTIFIER {quotes}"]
    return [*batches, _renamed(catalogue, str(module["definition"]), name)]


def _written(catalogue: Catalogue, row: Row, module: Row | None) -> str:
    """Returns a module's name. Babelfish has it as it was written in the text only."""
    header = _HEADER.match(str(module.get("definition"))) if module and catalogue.is_babelfish else None
    written = _unquoted(re.findall(_PART, header["name"])[-1]) if header else ""
    return written if written and is_as_written(str(row["name"]), written) else str(row["name"])


def _renamed(catalogue: Catalogue, definition: str, name: str) -> str:
    """Returns the text under the object's present name: sp_rename and ALTER SCHEMA leave the old one in it, and a text
    without a schema would make the object in that of whoever restores.
    """
    header = _HEADER.match(definition)
    if header is None:
        return definition
    written = [_unquoted(part) for part in re.findall(_PART, header["name"])]
    wanted = [_unquoted(part) for part in re.findall(_PART, name)]
    if wanted in (written, ["dbo", *written]):
        return definition
    said = [part.casefold() for part in wanted[-len(written) :]]
    if said != [part.casefold() for part in written]:
        catalogue.warnings.append(f"{name} was renamed; its text says {header['name']}, and was put right")
    return f"{header['head']}{name}{definition[header.end() :]}"


def _unquoted(part: str) -> str:
    if part.startswith("["):
        return part[1:-1].replace("]]", "]")
    return part[1:-1].replace('""', '"') if part.startswith('"') else part
