"""The stream of a database: records, each one letter, four bytes of length (little-endian), and that many bytes.

docs/sqlserver-format.md describes it for those who want to read it without us.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from dataguardian.domain.errors import IntegrityError

STREAM_KIND = "mssql"
MAGIC = b"DGMSSQL1"
STEP, TABLE, ROWS, PIECE, END, TRAILER = b"S", b"T", b"R", b"P", b"E", b"Z"
_HEAD = struct.Struct("<cI")
MAX_RECORD_BYTES = 1 << 30
"""No record comes near; a length beyond it is damage."""


def record(kind: bytes, payload: bytes) -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def document(kind: bytes, value: dict[str, Any]) -> bytes:
    """Returns a record of JSON. Unpaired surrogates survive as escapes."""
    return record(kind, json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode())


def read_records(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yields (kind, payload) from a stream that comes in any pieces; raises IntegrityError unless it is whole."""
    buffer, kind, known, begun = bytearray(), b"", (STEP, TABLE, ROWS, PIECE, END, TRAILER), False
    for chunk in chunks:
        buffer += chunk
        position = 0
        if not begun:
            if len(buffer) < len(MAGIC):
                continue
            if not buffer.startswith(MAGIC):
                raise IntegrityError("this stream is none of a SQL Server database")
            begun, position = True, len(MAGIC)
        while position + _HEAD.size <= len(buffer):
            before, (kind, size_bytes) = kind, _HEAD.unpack_from(buffer, position)
            if kind not in known or size_bytes > MAX_RECORD_BYTES or before == TRAILER:
                raise IntegrityError("the stream of a SQL Server database is damaged: it holds what is no record")
            end = position + _HEAD.size + size_bytes
            if end > len(buffer):
                kind = before
                break
            yield kind, bytes(buffer[position + _HEAD.size : end])
            position = end
        del buffer[:position]
    if kind != TRAILER or buffer:
        raise IntegrityError("the stream of a SQL Server database ends before its end")


def parsed(payload: bytes) -> dict[str, Any]:
    """Returns a record's JSON; raises IntegrityError."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise IntegrityError("the stream of a SQL Server database holds a description that cannot be read") from error
    if not isinstance(value, dict):
        raise IntegrityError("the stream of a SQL Server database holds a description of nothing")
    return value
