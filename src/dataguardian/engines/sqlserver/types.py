"""Types as the wire has them: what a column's TYPE_INFO says, and where a value ends (MS-TDS 2.2.5.4 to 2.2.5.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from dataguardian.engines.sqlserver.wire import ProtocolError

FIXED, BYTE_LENGTH, SHORT_LENGTH, LONG_LENGTH, PARTS, TEXT = range(6)
"""How a value says its length: not at all, in one byte, in two, in four, in pieces (PLP), or as text and image do."""

INT1, BIT, INT2, INT4, SMALLDATETIME, REAL, MONEY, DATETIME, FLOAT, SMALLMONEY, INT8 = (
    0x30, 0x32, 0x34, 0x38, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x7A, 0x7F,
)  # fmt: skip
GUID, INTN, DATE, TIME, DATETIME2, DATETIMEOFFSET = 0x24, 0x26, 0x28, 0x29, 0x2A, 0x2B
BITN, DECIMALN, NUMERICN, FLOATN, MONEYN, DATETIMEN = 0x68, 0x6A, 0x6C, 0x6D, 0x6E, 0x6F
VARBINARY, VARCHAR, BINARY, CHAR, NVARCHAR, NCHAR = 0xA5, 0xA7, 0xAD, 0xAF, 0xE7, 0xEF
TEXT_, NTEXT, IMAGE, VARIANT, UDT, XML = 0x23, 0x63, 0x22, 0x62, 0xF0, 0xF1

_FIXED_BYTES = {
    0x1F: 0, INT1: 1, BIT: 1, INT2: 2, INT4: 4, SMALLDATETIME: 4, REAL: 4, MONEY: 8, DATETIME: 8, FLOAT: 8,
    SMALLMONEY: 4, INT8: 8,
}  # fmt: skip
_CHARACTERS = frozenset({VARCHAR, CHAR, NVARCHAR, NCHAR, TEXT_, NTEXT})
_IN_PARTS = 0xFFFF
_NULL_SHORT = 0xFFFF
_NULL_PARTS = 0xFFFFFFFFFFFFFFFF
NULLS = {
    BYTE_LENGTH: b"\0", SHORT_LENGTH: b"\xff\xff", LONG_LENGTH: bytes(4), PARTS: b"\xff" * 8, TEXT: b"\0",
}  # fmt: skip
"""How NULL looks; a column of fixed length holds none."""


@dataclass(frozen=True)
class Column:
    """A column of a result. `info` is its TYPE_INFO as it came, and as it goes back when rows are loaded."""

    name: str
    type: int
    info: bytes
    layout: int
    size_bytes: int
    precision: int = 0
    scale: int = 0
    collation: bytes = b""
    nullable: bool = True


class Cursor:
    """Reads little-endian numbers and texts from bytes that are all there; raises IndexError at their end."""

    def __init__(self, data: bytes | bytearray, position: int = 0) -> None:
        self.data, self.position = data, position

    def take(self, size_bytes: int) -> bytes:
        end = self.position + size_bytes
        if end > len(self.data):
            raise IndexError
        piece = bytes(self.data[self.position : end])
        self.position = end
        return piece

    def number(self, size_bytes: int) -> int:
        return int.from_bytes(self.take(size_bytes), "little")

    def text(self, length_bytes: int) -> str:
        return self.take(2 * self.number(length_bytes)).decode("utf-16-le", "surrogatepass")


def read_column(cursor: Cursor) -> Column:
    """Reads one entry of COLMETADATA."""
    cursor.take(4)
    flags = cursor.number(2)
    begin = cursor.position
    draft = read_type(cursor)
    info = bytes(cursor.data[begin : cursor.position])
    if draft.layout == TEXT:
        for _ in range(cursor.number(1)):
            cursor.text(2)
    name = cursor.text(1)
    return Column(
        name, draft.type, info, draft.layout, draft.size_bytes, draft.precision, draft.scale, draft.collation,
        nullable=bool(flags & 1),
    )  # fmt: skip


def read_type(cursor: Cursor) -> Column:
    """Reads one TYPE_INFO into a column without a name; raises ProtocolError for types that no release has."""
    code = cursor.number(1)
    if code in _FIXED_BYTES:
        return Column("", code, b"", FIXED, _FIXED_BYTES[code])
    reader = _READERS.get(code)
    if reader is None:
        raise ProtocolError(f"the server sent a column of the unknown type 0x{code:02X}")
    return reader(code, cursor)


def _short(code: int, cursor: Cursor) -> Column:
    return Column("", code, b"", BYTE_LENGTH, cursor.number(1))


def _decimal(code: int, cursor: Cursor) -> Column:
    return Column("", code, b"", BYTE_LENGTH, cursor.number(1), cursor.number(1), cursor.number(1))


def _date(code: int, cursor: Cursor) -> Column:  # noqa: ARG001 -- as the others
    return Column("", code, b"", BYTE_LENGTH, 3)


def _scaled(code: int, cursor: Cursor) -> Column:
    return Column("", code, b"", BYTE_LENGTH, 0, scale=cursor.number(1))


def _string(code: int, cursor: Cursor) -> Column:
    size_bytes = cursor.number(2)
    collation = cursor.take(5) if code in _CHARACTERS else b""
    layout = PARTS if size_bytes == _IN_PARTS else SHORT_LENGTH
    return Column("", code, b"", layout, size_bytes, collation=collation)


def _text(code: int, cursor: Cursor) -> Column:
    size_bytes = cursor.number(4)
    return Column("", code, b"", TEXT, size_bytes, collation=cursor.take(5) if code in _CHARACTERS else b"")


def _variant(code: int, cursor: Cursor) -> Column:
    return Column("", code, b"", LONG_LENGTH, cursor.number(4))


def _xml(code: int, cursor: Cursor) -> Column:
    if cursor.number(1):
        cursor.text(1), cursor.text(1), cursor.text(2)
    return Column("", code, b"", PARTS, 0)


def _udt(code: int, cursor: Cursor) -> Column:
    size_bytes = cursor.number(2)
    cursor.text(1), cursor.text(1), cursor.text(1), cursor.text(2)
    return Column("", code, b"", PARTS, size_bytes)


_READERS: dict[int, Callable[[int, Cursor], Column]] = {
    **dict.fromkeys((GUID, INTN, BITN, FLOATN, MONEYN, DATETIMEN), _short),
    **dict.fromkeys((DECIMALN, NUMERICN), _decimal),
    DATE: _date,
    **dict.fromkeys((TIME, DATETIME2, DATETIMEOFFSET), _scaled),
    **dict.fromkeys((VARBINARY, VARCHAR, BINARY, CHAR, NVARCHAR, NCHAR), _string),
    **dict.fromkeys((TEXT_, NTEXT, IMAGE), _text),
    VARIANT: _variant,
    XML: _xml,
    UDT: _udt,
}


ROW, MAPPED_ROW = 0xD1, 0xD2
"""The tokens that a row begins with: a plain one, and one whose NULLs are bits of a map before its values."""


def whole_rows(data: bytes | bytearray, position: int, columns: list[Column]) -> tuple[int, int]:
    """Returns where the last whole row ends of those that begin at `position`, and how many they are."""
    plan = [(column.layout, column.size_bytes) for column in columns]
    rows, end, size = 0, position, len(data)
    try:
        while position < size and data[position] == ROW:
            position += 1
            # The two kinds that most columns are of are worth not calling a function for.
            for layout, size_bytes in plan:
                if layout == BYTE_LENGTH:
                    position += 1 + data[position]
                elif layout == FIXED:
                    position += size_bytes
                else:
                    position = _ENDS[layout](data, position, size_bytes)
            if position > size:
                break
            rows, end = rows + 1, position
    except IndexError:
        pass
    return end, rows


def mapped_rows(data: bytes | bytearray, position: int, columns: list[Column]) -> tuple[bytes, int, int]:
    """Writes rows with a map of NULLs, as far as they are all there, as plain ones; returns them, where the last one
    ends, and how many they are.
    """
    plain, end, rows, size = bytearray(), position, 0, len(data)
    try:
        while position < size and data[position] == MAPPED_ROW:
            row, position = _unmapped(data, position + 1, columns)
            plain += row
            rows, end = rows + 1, position
    except IndexError:
        pass
    return bytes(plain), end, rows


def _unmapped(data: bytes | bytearray, position: int, columns: list[Column]) -> tuple[bytearray, int]:
    nulls, row = position, bytearray([ROW])
    position += (len(columns) + 7) // 8
    for number, column in enumerate(columns):
        if data[nulls + number // 8] & 1 << number % 8:
            row += NULLS[column.layout]
            continue
        end = _ENDS[column.layout](data, position, column.size_bytes)
        if end > len(data):
            raise IndexError
        row += data[position:end]
        position = end
    return row, position


def row_end(data: bytes | bytearray, position: int, columns: list[Column]) -> int:
    """Returns where the row whose values begin at `position` ends; raises IndexError when it is not all there."""
    for column in columns:
        position = _ENDS[column.layout](data, position, column.size_bytes)
    if position > len(data):
        raise IndexError
    return position


def value_size(data: bytes | bytearray, position: int, column: Column) -> int:
    """Returns how many bytes a value takes, not all of which need be there; raises IndexError without its length."""
    return _ENDS[column.layout](data, position, column.size_bytes) - position


def _end_of_fixed(data: bytes | bytearray, position: int, size_bytes: int) -> int:  # noqa: ARG001 -- as the others
    return position + size_bytes


def _end_of_byte(data: bytes | bytearray, position: int, _: int) -> int:
    return position + 1 + data[position]


def _end_of_short(data: bytes | bytearray, position: int, _: int) -> int:
    size_bytes = data[position] | data[position + 1] << 8
    return position + 2 + (0 if size_bytes == _NULL_SHORT else size_bytes)


def _end_of_long(data: bytes | bytearray, position: int, _: int) -> int:
    return position + 4 + _number(data, position, 4)


def _end_of_parts(data: bytes | bytearray, position: int, _: int) -> int:
    total = _number(data, position, 8)
    position += 8
    if total == _NULL_PARTS:
        return position
    while size_bytes := _number(data, position, 4):
        position += 4 + size_bytes
    return position + 4


def _end_of_text(data: bytes | bytearray, position: int, _: int) -> int:
    if not data[position]:
        return position + 1
    position += 1 + data[position] + 8
    return position + 4 + _number(data, position, 4)


def _number(data: bytes | bytearray, position: int, size_bytes: int) -> int:
    try:
        return int(_STRUCTS[size_bytes].unpack_from(data, position)[0])
    except struct.error as error:
        raise IndexError from error


_STRUCTS = {4: struct.Struct("<I"), 8: struct.Struct("<Q")}
_ENDS = {
    FIXED: _end_of_fixed,
    BYTE_LENGTH: _end_of_byte,
    SHORT_LENGTH: _end_of_short,
    LONG_LENGTH: _end_of_long,
    PARTS: _end_of_parts,
    TEXT: _end_of_text,
}
