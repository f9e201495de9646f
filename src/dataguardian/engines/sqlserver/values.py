"""Values as the wire has them, turned into Python's, exactly: for looking at catalogues, checking, and T-SQL scripts.

Times keep their seven digits as ISO text; datetime and smalldatetime too. Texts may hold unpaired surrogates.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dataguardian.engines.sqlserver import types
from dataguardian.engines.sqlserver.collations import encoding_of
from dataguardian.engines.sqlserver.types import Column, Cursor

_ZERO = date(1, 1, 1)
_EPOCH = date(1900, 1, 1)
_DIGITS = 7


@dataclass(frozen=True)
class Variant:
    """A value of sql_variant: `column` has the base type."""

    column: Column
    value: Any


def decode_row(data: bytes | bytearray, position: int, columns: list[Column]) -> tuple[list[Any], int]:
    """Returns a row's values, and where it ends; raises IndexError when it is cut short."""
    values = []
    for column in columns:
        payload, position = payload_at(data, position, column)
        values.append(None if payload is None else decode(column, payload))
    return values, position


def payload_at(data: bytes | bytearray, position: int, column: Column) -> tuple[bytes | None, int]:
    """Returns a value's own bytes, None for NULL, and where it ends."""
    end = types.row_end(data, position, [column])
    whole = bytes(data[position:end])
    if column.layout == types.FIXED:
        return whole, end
    if whole == types.NULLS[column.layout]:
        return None, end
    if column.layout == types.PARTS:
        return _joined(whole), end
    if column.layout == types.TEXT:
        return whole[whole[0] + 13 :], end
    return whole[{types.BYTE_LENGTH: 1, types.SHORT_LENGTH: 2, types.LONG_LENGTH: 4}[column.layout] :], end


def decode(column: Column, payload: bytes) -> Any:  # noqa: ANN401 -- the type decides
    """Returns int, bool, float, Decimal, str (also for times), bytes, UUID or Variant."""
    return _DECODERS[column.type](payload, column)


def _joined(whole: bytes) -> bytes:
    cursor, data = Cursor(whole, 8), bytearray()
    while size_bytes := cursor.number(4):
        data += cursor.take(size_bytes)
    return bytes(data)


def _integer(payload: bytes, _: Column) -> int:
    return int.from_bytes(payload, "little", signed=len(payload) > 1)


def _bit(payload: bytes, _: Column) -> bool:
    return any(payload)


def _float(payload: bytes, _: Column) -> float:
    return float(struct.unpack("<f" if len(payload) == 4 else "<d", payload)[0])  # noqa: PLR2004 -- real


def _money(payload: bytes, _: Column) -> Decimal:
    if len(payload) == 4:  # noqa: PLR2004 -- smallmoney
        return Decimal(struct.unpack("<i", payload)[0]).scaleb(-4)
    high, low = struct.unpack("<iI", payload)
    return Decimal(high << 32 | low).scaleb(-4)


def _decimal(payload: bytes, column: Column) -> Decimal:
    digits = tuple(int(digit) for digit in str(int.from_bytes(payload[1:], "little")))
    return Decimal((0 if payload[0] else 1, digits, -column.scale))


def _guid(payload: bytes, _: Column) -> UUID:
    return UUID(bytes_le=payload)


def _datetime(payload: bytes, _: Column) -> str:
    if len(payload) == 4:  # noqa: PLR2004 -- smalldatetime
        days, minutes = struct.unpack("<HH", payload)
        return f"{_EPOCH + timedelta(days)}T{minutes // 60:02}:{minutes % 60:02}:00"
    days, ticks = struct.unpack("<iI", payload)
    # Three ticks are ten milliseconds; a day's last tick stays in its day.
    milliseconds = (ticks * 20 + 3) // 6
    seconds = milliseconds // 1000
    return f"{_EPOCH + timedelta(days)}T{_clock(seconds)}.{milliseconds % 1000:03}"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _date(payload: bytes, _: Column) -> str:
    return str(_ZERO + timedelta(int.from_bytes(payload[:3], "little")))


def _time(payload: bytes, column: Column) -> str:
    units = int.from_bytes(payload, "little")
    seconds, fraction = divmod(units, 10**column.scale)
    return _clock(seconds) + (f".{fraction:0{column.scale}}" if column.scale else "")


def _datetime2(payload: bytes, column: Column) -> str:
    return f"{_date(payload[-3:], column)}T{_time(payload[:-3], column)}"


def _datetimeoffset(payload: bytes, column: Column) -> str:
    """The wire has UTC and the offset in minutes; the text has the local time, as people write it."""
    (offset,) = struct.unpack("<h", payload[-2:])
    day_units = 86_400 * 10**column.scale
    units = int.from_bytes(payload[:-5], "little") + offset * 60 * 10**column.scale
    days = int.from_bytes(payload[-5:-2], "little") + units // day_units
    local = (units % day_units).to_bytes(8, "little")
    sign = "-" if offset < 0 else "+"
    return f"{_ZERO + timedelta(days)}T{_time(local, column)}{sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}"


def _unicode(payload: bytes, _: Column) -> str:
    return payload.decode("utf-16-le", "surrogatepass")


def _characters(payload: bytes, column: Column) -> str:
    return payload.decode(encoding_of(column.collation), _AS_CONTROLS)


def _as_controls(error: UnicodeError) -> tuple[str, int]:
    """Bytes that a code page leaves open are control characters of the same number to Windows, both ways."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


_AS_CONTROLS = "dataguardian.controls"
codecs.register_error(_AS_CONTROLS, _as_controls)


def _xml(payload: bytes, _: Column) -> str:
    return payload.decode("utf-16-le", "surrogatepass").removeprefix("\ufeff")


def _binary(payload: bytes, _: Column) -> bytes:
    return payload


def _variant(payload: bytes, _: Column) -> Variant:
    code, properties = payload[0], payload[2 : 2 + payload[1]]
    column = Column("", code, b"", types.SHORT_LENGTH, len(payload))
    if code in (types.DECIMALN, types.NUMERICN):
        column = Column("", code, b"", types.BYTE_LENGTH, 17, properties[0], properties[1])
    elif code in (types.TIME, types.DATETIME2, types.DATETIMEOFFSET):
        column = Column("", code, b"", types.BYTE_LENGTH, 0, scale=properties[0])
    elif code in (types.VARCHAR, types.CHAR, types.NVARCHAR, types.NCHAR):
        column = Column(
            "", code, b"", types.SHORT_LENGTH, int.from_bytes(properties[5:7], "little"), collation=properties[:5]
        )
    elif code in (types.VARBINARY, types.BINARY):
        column = Column("", code, b"", types.SHORT_LENGTH, int.from_bytes(properties[:2], "little"))
    return Variant(column, decode(column, payload[2 + payload[1] :]))


_DECODERS: dict[int, Callable[[bytes, Column], Any]] = {
    0x1F: lambda payload, column: None,  # noqa: ARG005 -- the type of a bare NULL
    **dict.fromkeys((types.INT1, types.INT2, types.INT4, types.INT8, types.INTN), _integer),
    **dict.fromkeys((types.BIT, types.BITN), _bit),
    **dict.fromkeys((types.REAL, types.FLOAT, types.FLOATN), _float),
    **dict.fromkeys((types.MONEY, types.SMALLMONEY, types.MONEYN), _money),
    **dict.fromkeys((types.DECIMALN, types.NUMERICN), _decimal),
    **dict.fromkeys((types.DATETIME, types.SMALLDATETIME, types.DATETIMEN), _datetime),
    types.GUID: _guid,
    types.DATE: _date,
    types.TIME: _time,
    types.DATETIME2: _datetime2,
    types.DATETIMEOFFSET: _datetimeoffset,
    **dict.fromkeys((types.NVARCHAR, types.NCHAR, types.NTEXT), _unicode),
    **dict.fromkeys((types.VARCHAR, types.CHAR, types.TEXT_), _characters),
    **dict.fromkeys((types.VARBINARY, types.BINARY, types.IMAGE, types.UDT), _binary),
    types.XML: _xml,
    types.VARIANT: _variant,
}
