"""Columns as T-SQL writes them, and how the rows of each travel."""

from __future__ import annotations

from dataclasses import dataclass

from dataguardian.engines.sqlserver.catalogue import Catalogue, Row
from dataguardian.engines.sqlserver.server import quoted

ROWVERSION = "timestamp"
_BYTES = frozenset({"char", "varchar", "binary", "varbinary"})
_UTF16 = frozenset({"nchar", "nvarchar"})
_SCALED = frozenset({"time", "datetime2", "datetimeoffset"})
CHARACTERS = frozenset({"char", "varchar", "nchar", "nvarchar", "text", "ntext"})
_NON_UNICODE = frozenset({"char", "varchar", "text"})
# What the rows of a type are asked for as, and how they are put back. Everything else travels as it is.
_AS_OTHERS = {
    "text": ("varchar(max)", "{0}"),
    "ntext": ("nvarchar(max)", "{0}"),
    "image": ("varbinary(max)", "{0}"),
    # Style 1 keeps white space between elements, which the plain conversion drops.
    "xml": ("nvarchar(max)", "CONVERT(xml, {0}, 1)"),
    "hierarchyid": ("varbinary(max)", "CAST({0} AS hierarchyid)"),
    "geometry": ("varbinary(max)", "CAST({0} AS geometry)"),
    "geography": ("varbinary(max)", "CAST({0} AS geography)"),
}
_AS_THEY_ARE = frozenset({
    "bigint", "int", "smallint", "tinyint", "bit", "decimal", "numeric", "money", "smallmoney", "float", "real", "date",
    "time", "datetime", "datetime2", "smalldatetime", "datetimeoffset", "char", "varchar", "nchar", "nvarchar",
    "binary", "varbinary", "uniqueidentifier", "sql_variant",
})  # fmt: skip


@dataclass(frozen=True)
class Travel:
    """How a column's values travel: `select` asks for them, `type` is what they are on the way, and `load` makes of
    that (as `{0}`) what the column holds; None when it is that already.
    """

    name: str
    select: str
    type: str
    load: str | None


def type_text(catalogue: Catalogue, column: Row) -> str:
    """Returns a column's type as CREATE TABLE wants it: an alias type by its name, others with length and scale."""
    own = catalogue.types.get(column["user_type_id"])
    if own is not None and own.get("is_user_defined"):
        return catalogue.name(own)
    return base_type_text(catalogue, column)


def base_type_text(catalogue: Catalogue, column: Row) -> str:
    """The same by system types only."""
    name = catalogue.base_type(column)
    length = int(column.get("max_length") or 0)
    if name in _BYTES or name in _UTF16:
        size = length if name in _BYTES or length < 0 else length // 2
        return f"{name}({'max' if size < 0 else max(1, size)})"
    if name in ("decimal", "numeric"):
        return f"{name}({column['precision']},{column['scale']})"
    if name in _SCALED:
        return f"{name}({column['scale']})"
    return f"vector({column['vector_dimensions']})" if name == "vector" else name


def is_stored(catalogue: Catalogue, column: Row) -> bool:
    """Tells whether a column has values that somebody put there."""
    if column.get("is_column_set"):
        return False
    is_given = column.get("is_computed") or catalogue.base_type(column) in (ROWVERSION, "rowversion")
    return not is_given and catalogue.is_carried(column)


def travel(catalogue: Catalogue, column: Row) -> Travel:
    """Returns how a stored column's values travel."""
    name, base = quoted(column["name"]), catalogue.base_type(column)
    if base == "sysname":
        return Travel(column["name"], name, "nvarchar(128)", None)
    if base in _AS_THEY_ARE:
        return Travel(column["name"], name, base_type_text(catalogue, column) + _collate(catalogue, column), None)
    way, load = _AS_OTHERS.get(base, ("nvarchar(max)", "CAST({0} AS " + base_type_text(catalogue, column) + ")"))
    return Travel(column["name"], f"CAST({name} AS {way}) AS {name}", way + _collate(catalogue, column), load)


def _collate(catalogue: Catalogue, column: Row) -> str:
    """The bytes of non-Unicode texts mean something in their own collation only, and not in that which a restored
    database may have instead.
    """
    collation = column.get("collation_name")
    return f" COLLATE {collation}" if collation and catalogue.base_type(column) in _NON_UNICODE else ""


def column_text(catalogue: Catalogue, column: Row, identity: Row | None, computed: Row | None) -> str:
    """Returns one line of CREATE TABLE."""
    name = quoted(column["name"])
    if computed is not None:
        stored = " PERSISTED" if computed.get("is_persisted") else ""
        null = " NOT NULL" if stored and not column.get("is_nullable") else ""
        return f"{name} AS {computed['definition']}{stored}{null}"
    if column.get("is_column_set"):
        return f"{name} xml COLUMN_SET FOR ALL_SPARSE_COLUMNS"
    words = [name, type_text(catalogue, column)]
    own_type = catalogue.types.get(column["user_type_id"], {})
    collation = column.get("collation_name")
    if catalogue.is_foreign(collation) and not own_type.get("is_user_defined"):
        # No other type of the server's than this alias refuses to be given a collation.
        words[1] = "nvarchar(128)" if words[1] == "sysname" else words[1]
        words.append(f"COLLATE {collation}")
    if column.get("is_sparse"):
        words.append("SPARSE")
    if identity is not None:
        words.append(f"IDENTITY({identity['seed_value']},{identity['increment_value']})")
        words += ["NOT FOR REPLICATION"] * bool(identity.get("is_not_for_replication"))
    words += ["ROWGUIDCOL"] * bool(column.get("is_rowguidcol"))
    words.append("NULL" if column.get("is_nullable") and identity is None else "NOT NULL")
    return " ".join(words)
