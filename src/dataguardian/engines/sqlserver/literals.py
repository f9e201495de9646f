"""Values as T-SQL writes them, exactly: for the script that restores by hand, and for servers without bulk loading."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from dataguardian.engines.sqlserver import types
from dataguardian.engines.sqlserver.types import Column
from dataguardian.engines.sqlserver.values import Variant

_TIMES = {
    types.DATE: "date", types.TIME: "time", types.DATETIME2: "datetime2", types.DATETIMEOFFSET: "datetimeoffset",
    types.DATETIME: "datetime", types.SMALLDATETIME: "smalldatetime", types.DATETIMEN: "datetime",
}  # fmt: skip
_SCALED = (types.TIME, types.DATETIME2, types.DATETIMEOFFSET)
SCRIPT_COMMAND = r"[ \t]*(?:(?i:go|reset|ed|quit|exit)\b|:|!!)"
"""What begins a line that sqlcmd takes for itself, even in the middle of a literal."""
_UNFIT = re.compile(r"[\ud800-\udfff\x00]")
"""What a file in UTF-8 cannot hold."""
_BREAK = re.compile(rf"((?<=\\)\r?\n|[\r\n](?={SCRIPT_COMMAND}))")
"""An end of a line before such a one, or after a backslash, where T-SQL takes it for a continuation."""


def literal(column: Column, value: Any) -> str:  # noqa: ANN401 -- whatever a column holds
    """Returns an expression of a column's value."""
    if isinstance(value, Variant):
        # The rows of one INSERT would agree on one base type otherwise.
        return f"CAST({_variant(value)} AS sql_variant)"
    if value is not None and column.type in _TIMES:
        name = _TIMES[column.type]
        if column.type == types.DATETIMEN and column.size_bytes == 4:  # noqa: PLR2004 -- smalldatetime
            name = "smalldatetime"
        return f"CAST('{value}' AS {name}{f'({column.scale})' if column.type in _SCALED else ''})"
    return literal_of(value)


def literal_of(value: Any) -> str:  # noqa: ANN401 -- whatever a column holds
    """Returns an expression of a value whose Python type says what it is."""
    if value is None:
        return "NULL"
    if isinstance(value, Variant):
        return _variant(value)
    return next((write(value) for kind, write in _WRITERS if isinstance(value, kind)), None) or _text(str(value))


def _float(value: float) -> str:
    digits = repr(value)
    return digits if "e" in digits else f"{digits}e0"


_WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (bool, lambda value: "1" if value else "0"),
    (int, str),
    (float, _float),
    (Decimal, lambda value: f"{value:f}"),
    (bytes, lambda value: f"0x{value.hex()}"),
    (UUID, lambda value: f"CAST('{value}' AS uniqueidentifier)"),
)


def _text(value: str) -> str:
    """Returns a literal. Only what must goes as bytes, of which not every server makes the same text again."""
    if _UNFIT.search(value):
        return f"CAST(0x{value.encode('utf-16-le', 'surrogatepass').hex()} AS nvarchar(max))"
    pieces = _BREAK.split(value)
    if len(pieces) == 1:
        return _quoted(value)
    texts, breaks = pieces[::2], pieces[1::2]
    found = [f"CAST({_quoted(texts[0])} AS nvarchar(max))"]
    for end, piece in zip(breaks, texts[1:], strict=True):
        found += [*(f"NCHAR({ord(character)})" for character in end), f"CAST({_quoted(piece)} AS nvarchar(max))"]
    return _sum(found)


def _quoted(value: str) -> str:
    return "N'" + value.replace("'", "''") + "'"


def _sum(pieces: list[str]) -> str:
    """As many as there are, none lies deep: a server refuses an expression that does."""
    if len(pieces) == 1:
        return pieces[0]
    middle = len(pieces) // 2
    return f"({_sum(pieces[:middle])} + {_sum(pieces[middle:])})"


def _variant(value: Variant) -> str:
    """A variant keeps its base type, which a plain literal would not say."""
    return f"CAST({literal(value.column, value.value)} AS {_base_type(value.column)})"


def _base_type(column: Column) -> str:
    plain = {
        types.INT1: "tinyint", types.INT2: "smallint", types.INT4: "int", types.INT8: "bigint", types.BIT: "bit",
        types.REAL: "real", types.FLOAT: "float", types.MONEY: "money", types.SMALLMONEY: "smallmoney",
        types.GUID: "uniqueidentifier",
    }  # fmt: skip
    if column.type in plain:
        return plain[column.type]
    if column.type in _TIMES:
        return _TIMES[column.type] + (f"({column.scale})" if column.type in _SCALED else "")
    if column.type in (types.DECIMALN, types.NUMERICN):
        return f"{'decimal' if column.type == types.DECIMALN else 'numeric'}({column.precision},{column.scale})"
    names = {
        types.VARCHAR: "varchar", types.CHAR: "char", types.NVARCHAR: "nvarchar", types.NCHAR: "nchar",
        types.VARBINARY: "varbinary", types.BINARY: "binary",
    }  # fmt: skip
    length = column.size_bytes // 2 if column.type in (types.NVARCHAR, types.NCHAR) else column.size_bytes
    return f"{names.get(column.type, 'nvarchar')}({max(1, length)})"
