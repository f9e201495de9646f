"""Every type's bytes, both ways, against python-tds; and the protocol's odder corners."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytds
import pytds.tds_types as wire_types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataguardian.domain.errors import AuthenticationError, EngineError, NotFoundError, UnreachableError
from dataguardian.engines.sqlserver import types
from dataguardian.engines.sqlserver.config import SqlServerConfig
from dataguardian.engines.sqlserver.literals import literal
from dataguardian.engines.sqlserver.server import Server
from dataguardian.engines.sqlserver.session import Session
from dataguardian.engines.sqlserver.types import Column, Cursor, read_type
from dataguardian.engines.sqlserver.values import Variant, decode_row
from tests.engines.sqlserver_double import PASSWORD, Database, Fault, Table, TdsDouble, tds_double

NAIVE = dt.datetime
"""Three of the types have no time zone."""
OFFSET = dt.timezone(dt.timedelta(hours=5, minutes=45))
SAMPLES: list[tuple[str, Any, Any, Any]] = [
    ("tinyint", wire_types.TinyIntType(), 255, 255),
    ("smallint", wire_types.SmallIntType(), -32768, -32768),
    ("int", wire_types.IntType(), -(2**31), -(2**31)),
    ("bigint", wire_types.BigIntType(), 2**63 - 1, 2**63 - 1),
    ("bit", wire_types.BitType(), True, True),
    ("float", wire_types.FloatType(), 5e-324, 5e-324),
    ("real", wire_types.RealType(), 0.5, 0.5),
    ("decimal(38,10)", wire_types.DecimalType(38, 10), Decimal("-1234567890123456789012345678.0123456789"), None),
    ("money", wire_types.MoneyType(), Decimal("-922337203685477.5808"), None),
    ("smallmoney", wire_types.SmallMoneyType(), Decimal("214748.3647"), None),
    ("date", wire_types.DateType(), dt.date(9999, 12, 31), "9999-12-31"),
    ("time(7)", wire_types.TimeType(7), dt.time(23, 59, 59, 999999), "23:59:59.9999990"),
    ("datetime", wire_types.DateTimeType(), NAIVE(1753, 1, 1, 0, 0, 0, 3000), "1753-01-01T00:00:00.003"),
    ("smalldatetime", wire_types.SmallDateTimeType(), NAIVE(2079, 6, 6, 23, 59), "2079-06-06T23:59:00"),
    (
        "datetime2(7)",
        wire_types.DateTime2Type(7),
        NAIVE(1, 1, 1, 0, 0, 0, 1),
        "0001-01-01T00:00:00.0000010",
    ),
    (
        "datetimeoffset(7)",
        wire_types.DateTimeOffsetType(7),
        dt.datetime(2024, 2, 29, 1, 2, 3, 456789, OFFSET),
        "2024-02-29T01:02:03.4567890+05:45",
    ),
    ("uniqueidentifier", wire_types.UniqueIdentifierType(), uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"), None),
    ("nvarchar(50)", wire_types.NVarCharType(50), "日本 😀", "日本 😀"),
    ("nvarchar(max)", wire_types.NVarCharMaxType(), "ü" * 70000, "ü" * 70000),
    ("varchar(50)", wire_types.VarCharType(50), "it's", "it's"),
    ("varbinary(50)", wire_types.VarBinaryType(50), b"\x00\xff", b"\x00\xff"),
    ("varbinary(max)", wire_types.VarBinaryMaxType(), b"\x00\x01" * 50000, b"\x00\x01" * 50000),
]


@pytest.fixture(scope="module")
def double() -> Iterator[TdsDouble]:
    with tds_double() as server:
        server.databases["types"] = Database()
        yield server


def server_at(double: TdsDouble, **fields: Any) -> Server:
    given_fields = {"host": "127.0.0.1", "port": double.port, "username": "sa", "password": PASSWORD}
    return Server(SqlServerConfig.model_validate(given_fields | fields))


def by_pytds(double: TdsDouble, database: str) -> Any:
    return pytds.connect(
        dsn="127.0.0.1", port=double.port, user="sa", password=PASSWORD, database=database, autocommit=True
    )


@pytest.mark.parametrize(("name", "kind", "value", "shown"), SAMPLES, ids=[sample[0] for sample in SAMPLES])
def test_types_written_by_another_client(double: TdsDouble, name: str, kind: Any, value: Any, shown: Any) -> None:
    """What python-tds writes is read here as the same value, NULL too; its bytes pass on, and it reads them again."""
    table = double.databases["types"].tables["[dbo].[t]"] = Table()
    with by_pytds(double, "types") as connection, connection.cursor() as cursor:
        columns = [pytds.Column("c", type=kind)]
        cursor.copy_to(data=[(value,), (None,)], table_or_view="t", schema="dbo", columns=columns)
    expected = value if shown is None else shown
    with server_at(double).connect("types") as session:
        assert [row["c"] for row in session.query("SELECT [c] FROM [dbo].[t]")] == [expected, None]
        result = session.stream("SELECT [c] FROM [dbo].[t]")
        rows = [block.data for block in result.blocks]
        double.databases["types"].tables["[dbo].[t2]"] = Table()
        assert session.bulk("INSERT BULK [dbo].[t2] ([c] int)", result.columns, iter(rows)) == 2
    assert double.databases["types"].tables["[dbo].[t2]"].rows == table.rows
    with by_pytds(double, "types") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT [c] FROM [dbo].[t2]")
        assert [row[0] for row in cursor.fetchall()] == [value, None]


def value_of(info: str, payload: bytes) -> Any:
    column = read_type(Cursor(bytes.fromhex(info)))
    values, end = decode_row(payload, 0, [column])
    assert end == len(payload) == types.row_end(payload, 0, [column])
    return values[0]


def test_types_that_no_other_client_writes() -> None:
    """Fixed types, legacy texts, XML, .NET types, seven digits and lone surrogates are read to the last bit."""
    long = struct.pack("<Q", 6) + struct.pack("<I", 2) + b"a\0" + struct.pack("<I", 4) + b"\x00\xd8b\0" + bytes(4)
    assert value_of("e7ffff0904d00034", long) == "a\ud800b"
    assert value_of("e7ffff0904d00034", b"\xff" * 8) is None
    assert value_of("f100", struct.pack("<QI", 6, 6) + "\ufeff<a".encode("utf-16-le") + bytes(4)) == "<a"
    assert value_of("2a07", bytes([8]) + (863999999999).to_bytes(5, "little") + b"\xda\xb9\x37") == (
        "9999-12-31T23:59:59.9999999"
    )
    assert value_of("2b00", bytes([8]) + (43200).to_bytes(3, "little") + b"\x01\x00\x00" + struct.pack("<h", -90)) == (
        "0001-01-02T10:30:00-01:30"
    )
    assert value_of("2900", bytes([3]) + (86399).to_bytes(3, "little")) == "23:59:59"
    assert value_of("3d", struct.pack("<iI", -53690, 25919999)) == "1753-01-01T23:59:59.997"
    assert value_of("38", struct.pack("<i", -5)) == -5
    assert value_of("3b", struct.pack("<f", 1e-45)) == struct.unpack("<f", struct.pack("<f", 1e-45))[0]
    assert value_of("630000ff7f0904d00034", b"\x10" + bytes(24) + struct.pack("<I", 4) + b"o\0k\0") == "ok"
    assert value_of("220000ff7f", b"\x00") is None
    assert value_of("a7" + "3200" + "0904d00034", b"\x02\x00\xe9\x80") == "é€"
    assert value_of("a7" + "3200" + "1104000000", b"\x02\x00\x83\x65") == "テ"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (bytes([0x38, 0]) + struct.pack("<i", 7), "CAST(7 AS int)"),
        (bytes([0x6A, 2, 5, 2, 1]) + struct.pack("<I", 150), "CAST(1.50 AS decimal(5,2))"),
        (
            bytes([0x2A, 1, 7]) + bytes(5) + b"\x01\0\0",
            "CAST(CAST('0001-01-02T00:00:00.0000000' AS datetime2(7)) AS datetime2(7))",
        ),
        (bytes([0xE7, 7, 9, 4, 0, 0, 52, 20, 0]) + "ü'".encode("utf-16-le"), "CAST(N'ü''' AS nvarchar(10))"),
        (bytes([0xA5, 2, 8, 0]) + b"\x01\x02", "CAST(0x0102 AS varbinary(8))"),
    ],
)  # fmt: skip
def test_a_variant_keeps_its_type(payload: bytes, text: str) -> None:
    """sql_variant is read with the type that it holds, and written as that."""
    value = value_of("6249" + "1f0000", struct.pack("<I", len(payload)) + payload)
    assert isinstance(value, Variant)
    assert literal(Column("v", types.VARIANT, b"", types.LONG_LENGTH, 8009), value) == f"CAST({text} AS sql_variant)"


@given(st.lists(st.one_of(st.none(), st.text(max_size=30), st.integers(-(2**63), 2**63 - 1)), max_size=5))
def test_literals_say_what_they_mean(values: list[Any]) -> None:
    """No text leaves its literal, whatever it holds."""
    column = read_type(Cursor(bytes.fromhex("e7ffff0904d00034")))
    for value in values:
        text = literal(column, value)
        if isinstance(value, str):
            inside = text.removeprefix("N'").removesuffix("'")
            assert text.startswith("CAST(0x") or "'" not in inside.replace("''", "")
            assert text.startswith("CAST(0x") or inside.replace("''", "'") == value


class Pieces:
    """A reply that comes in packets of a few bytes, as slow networks bring it."""

    def __init__(self, reply: bytes, size: int) -> None:
        self.packets = [reply[offset : offset + size] for offset in range(0, len(reply), size)]
        self.packet_bytes = 4096

    def send(self, kind: int, message: bytes) -> None:
        pass

    def receive_packet(self, into: bytearray) -> bool:
        into += self.packets.pop(0)
        return not self.packets


@pytest.mark.parametrize("size", [1, 7, 1000, 300_000])
def test_rows_in_pieces(size: int) -> None:
    """Rows come out the same however the network cuts them: a map of NULLs as plain ones, long rows in parts."""
    long = b"x" * 600_000 if size > 100 else b"x" * 600
    info = bytes.fromhex("2604") + bytes.fromhex("a5ffff") + bytes.fromhex("e73c000904d00034")
    meta = b"\x81\x03\x00"
    for number, part in enumerate((info[:2], info[2:5], info[5:])):
        meta += struct.pack("<IH", 0, 9) + part + b"\x01" + "abc"[number].encode("utf-16-le")
    plain = b"\x04\x05\0\0\0" + struct.pack("<QI", len(long), len(long)) + long + bytes(4) + b"\x02\x00k\0"
    mapped = b"\xd2\x02\x04\x06\0\0\0\x02\x00m\0"
    long_mapped = b"\xd2\x01" + plain[5:]
    reply = (
        meta + b"\xd1" + plain + mapped + b"\xd1" + plain + long_mapped + b"\xfd\x10\x00\xc1\x00" + struct.pack("<Q", 4)
    )
    session = Session(Pieces(reply, size))  # type: ignore[arg-type]
    result = session.stream("SELECT 1")
    blocks = list(result.blocks)
    expected = b"\xd1" + plain + b"\xd1\x04\x06\0\0\0" + b"\xff" * 8 + b"\x02\x00m\0" + b"\xd1" + plain
    expected += b"\xd1\0" + plain[5:]
    assert b"".join(block.data for block in blocks) == expected
    assert sum(block.rows for block in blocks) == 4


def test_what_a_login_asks_for(double: TdsDouble) -> None:
    """Texts with a UTF-8 collation as they are, packets that fit into one record of TLS, its parts in their order."""
    with server_at(double).connect("types") as session:
        assert session.program == "Double"
    assert double.features == [0x0A]
    assert double.places == sorted(double.places)
    assert double.packet_bytes <= 16383


def test_refusals_are_told_apart(double: TdsDouble) -> None:
    """A wrong password, a missing database, a server without TLS, and one that is no SQL Server at all."""
    with pytest.raises(AuthenticationError), server_at(double, password="wrong").connect("types"):
        pass
    with pytest.raises(NotFoundError), server_at(double).connect("nowhere"):
        pass
    with pytest.raises(UnreachableError, match="no TLS"), server_at(double, ssl_mode="require").connect("types"):
        pass
    double.faults_at_login.append((33557097, "invalid TDS authentication request"))
    with pytest.raises(AuthenticationError), server_at(double, password="").connect("types"):
        pass
    with pytest.raises(EngineError, match="128 characters"), server_at(double, username="x" * 129).connect("types"):
        pass


def test_a_connection_that_is_cut(double: TdsDouble) -> None:
    """A server that goes away in the middle of an answer is unreachable, and says so."""
    double.faults.append(fault := Fault("SELECT 'cut'", 0))
    with pytest.raises(UnreachableError), server_at(double).connect("types") as session:
        session.query("SELECT 'cut'")
    assert fault.fired == 1
