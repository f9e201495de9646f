"""Reading a whole stream without a server, and writing it as a T-SQL script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from dataguardian.domain.errors import IntegrityError
from dataguardian.engines.sqlserver import types
from dataguardian.engines.sqlserver.literals import SCRIPT_COMMAND, literal_of
from dataguardian.engines.sqlserver.load import insert_statements
from dataguardian.engines.sqlserver.server import SETTINGS
from dataguardian.engines.sqlserver.stream import (
    END,
    PIECE,
    ROWS,
    STEP,
    TABLE,
    TRAILER,
    parsed,
    read_records,
)
from dataguardian.engines.sqlserver.tables import STAGE, TravellingTable, from_document

_UNFIT = re.compile(rf"[\ud800-\udfff]|[\r\n]{SCRIPT_COMMAND}")


def validate_stream(chunks: Iterable[bytes]) -> None:
    """Raises IntegrityError unless every record, row and count is as it must be."""
    records = read_records(chunks)
    tables = rows = 0
    for kind, payload in records:
        if kind == TABLE:
            tables, rows = tables + 1, rows + _count_rows(from_document(parsed(payload)), records)
        elif kind == STEP:
            _expect_step(parsed(payload))
        elif kind == TRAILER:
            trailer = parsed(payload)
            if (trailer.get("tables"), trailer.get("rows")) != (tables, rows):
                raise IntegrityError("the stream does not hold as many tables and rows as it says")
        else:
            raise IntegrityError("the stream has rows of no table")


def _expect_step(value: dict[str, Any]) -> None:
    batches = value.get("batches")
    if not isinstance(batches, list) or not all(isinstance(batch, str) for batch in batches):
        raise IntegrityError("the stream has a step that does nothing")


def _count_rows(table: TravellingTable, records: Iterator[tuple[bytes, bytes]]) -> int:
    count, long_row = 0, bytearray()
    for kind, payload in records:
        if kind == END:
            if parsed(payload).get("rows") != count or long_row:
                raise IntegrityError(f"the stream does not hold as many rows of {table.quoted} as it says")
            return count
        if kind not in (ROWS, PIECE):
            break
        long_row += payload
        rows, end = _whole_rows(long_row, table)
        count += rows
        del long_row[:end]
        if kind == ROWS and long_row:
            break
    raise IntegrityError(f"the stream has rows of {table.quoted} that cannot be read")


def _whole_rows(data: bytearray, table: TravellingTable) -> tuple[int, int]:
    """Counts the whole rows at the beginning, and tells where the rest begins."""
    end, rows = types.whole_rows(data, 0, table.columns)
    if end < len(data) and data[end] != types.ROW:
        raise IntegrityError(f"the stream has something else among the rows of {table.quoted}")
    return rows, end


def script(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yields a T-SQL script for `sqlcmd`, batch by batch, that makes the schema and the rows in an empty database."""
    yield "; ".join(SETTINGS)
    records = read_records(chunks)
    for kind, payload in records:
        if kind == STEP:
            yield from _batches(list(map(str, parsed(payload)["batches"])))
        elif kind == TABLE:
            yield from _script_of(from_document(parsed(payload)), records)


def _batches(batches: list[str]) -> Iterator[str]:
    """Yields a step's batches. What sqlcmd would cut in the middle, or a file cannot hold, goes as a text; settings
    that one step needs do not stay for the next.
    """
    for batch in batches:
        if _UNFIT.search(f"\n{batch}"):
            yield f"DECLARE @batch nvarchar(max) = {literal_of(batch)}; EXEC (@batch)"
        else:
            yield batch
    if any(batch.startswith("SET ") for batch in batches):
        yield "; ".join(SETTINGS)


def _script_of(table: TravellingTable, records: Iterator[tuple[bytes, bytes]]) -> Iterator[str]:
    where = STAGE if table.is_staged else table.quoted
    identity = f"SET IDENTITY_INSERT {table.quoted}"
    if table.is_staged:
        yield table.stage()
    elif table.identity:
        yield f"{identity} ON"
    pending = bytearray()
    for kind, payload in records:
        if kind == END:
            break
        pending += payload
        if kind == ROWS:
            yield from insert_statements(where, table.names, table.columns, bytes(pending))
            pending.clear()
    if table.is_staged:
        insert = f"INSERT INTO {table.quoted} ({table.names}) SELECT {table.loads} FROM {STAGE}"  # noqa: S608 -- quoted
        yield f"{identity} ON; {insert}; {identity} OFF" if table.identity else insert
        yield f"DROP TABLE {STAGE}"
    elif table.identity:
        yield f"{identity} OFF"
