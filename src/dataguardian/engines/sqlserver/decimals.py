"""Decimals of full width, for servers that read no others in a bulk load, whatever length a value says: Babelfish takes
the bytes after a short one for a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from dataguardian.engines.sqlserver import types
from dataguardian.engines.sqlserver.types import Column

_DECIMALS = (types.DECIMALN, types.NUMERICN)
FULL_BYTES = 17
"""A sign and sixteen bytes of magnitude."""


def has_decimals(columns: list[Column]) -> bool:
    return any(column.type in _DECIMALS for column in columns)


def full_columns(columns: list[Column]) -> list[Column]:
    """Returns the columns as rows from `full_rows` have them."""
    return [
        replace(column, info=bytes([column.type, FULL_BYTES, column.precision, column.scale]))
        if column.type in _DECIMALS
        else column
        for column in columns
    ]


def full_rows(blocks: Iterable[bytes], columns: list[Column]) -> Iterator[bytes]:
    """Yields rows whose decimals have all their bytes; of rows that come in pieces, each when it is whole."""
    pending = bytearray()
    for block in blocks:
        pending += block
        end, _ = types.whole_rows(pending, 0, columns)
        if end:
            yield _full(pending, end, columns)
            del pending[:end]
    if pending:
        yield bytes(pending)  # damaged, which the server says


def _full(data: bytearray, end: int, columns: list[Column]) -> bytes:
    rows, position = bytearray(), 0
    while position < end:
        rows += data[position : position + 1]
        position += 1
        for column in columns:
            size_bytes = types.value_size(data, position, column)
            value = data[position : position + size_bytes]
            if column.type in _DECIMALS and size_bytes > 1:
                value[0] = FULL_BYTES
                value += bytes(FULL_BYTES + 1 - size_bytes)
            rows += value
            position += size_bytes
    return bytes(rows)
