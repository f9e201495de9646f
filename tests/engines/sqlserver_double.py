"""A TDS server of our own, for what no server in any package does: taking bulk loads, making and renaming databases.

It is held to the protocol by python-tds, an independent client, in test_sqlserver_wire.py. It understands no SQL but
the shapes that a dump and a restore send, keeps the rows it is sent as they came, and gives them back.
"""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from dataguardian.engines.sqlserver.types import Column, Cursor, read_column, row_end

NAME = r"\[(?:[^\]]|\]\])+\]"
TABLE = rf"{NAME}\.{NAME}"
SESSIONS = r"sys\.dm_exec_sessions WHERE database_id = DB_ID\(N'(.*)'\)"
INT4, NVARCHAR = b"\x26\x04", b"\xe7\x40\x1f\x09\x04\xd0\x00\x34"
BIT, BIGINT = b"\x68\x01", b"\x26\x08"
COLLATION = b"\xe3\x08\x00\x07\x05\x09\x04\xd0\x00\x34\x00"
PASSWORD = "pä ss'w\"or=d/@:#%&\\"


@dataclass
class Table:
    columns: list[Column] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)


@dataclass
class Database:
    tables: dict[str, Table] = field(default_factory=dict)
    views: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    batches: list[str] = field(default_factory=list)


@dataclass
class Seat:
    """A session's place, which Babelfish never empties: `client` is None when the session has ended."""

    database: str
    client: _Client | None


@dataclass
class Fault:
    """Answers the first `times` batches that match with an error, or by closing the connection (number 0)."""

    pattern: str
    number: int
    text: str = "refused by the test"
    times: int = 1
    fired: int = 0


class TdsDouble(socketserver.ThreadingTCPServer):
    """Listens on a port of its own. `databases` is all there is."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.databases: dict[str, Database] = {"master": Database()}
        self.faults: list[Fault] = []
        self.logins = {"sa": PASSWORD}
        self.lock = threading.RLock()
        self.depth = 1
        self.is_babelfish = False
        self.seats: list[Seat] = []
        self.faults_at_login: list[tuple[int, str]] = []
        self.features: list[int] = []
        self.packet_bytes = 0
        self.places: list[int] = []
        """What the last login asked for."""
        self.lossy = False
        """Forgets the last row of every bulk load, and says that it did not."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def fault_for(self, text: str) -> Fault | None:
        for fault in self.faults:
            if fault.fired < fault.times and re.search(fault.pattern, text, re.DOTALL):
                fault.fired += 1
                return fault
        return None


@contextmanager
def tds_double() -> Iterator[TdsDouble]:
    with TdsDouble() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class RefusedError(Exception):
    def __init__(self, *errors: tuple[int, str]) -> None:
        self.errors = errors


class _Client(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server: TdsDouble = cast("TdsDouble", self.server)  # type: ignore[misc]
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bulk: Table | None = None
        try:
            while True:
                kind, message = self.receive()
                if not self.answer(kind, message):
                    return
        except OSError:
            return
        finally:
            for seat in self.server.seats:
                if seat.client is self:
                    seat.client = None

    def receive(self) -> tuple[int, bytes]:
        message, last = bytearray(), False
        kind = 0
        while not last:
            kind, status, size, *_ = struct.unpack(">BBHHBB", self.exactly(8))
            message += self.exactly(size - 8)
            last = bool(status & 1)
        return kind, bytes(message)

    def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.request.recv(size - len(data))
            if not piece:
                raise OSError
            data += piece
        return bytes(data)

    def send(self, payload: bytes) -> None:
        room = 4096 - 8
        for offset in range(0, max(1, len(payload)), room):
            piece = payload[offset : offset + room]
            last = offset + room >= len(payload)
            self.request.sendall(struct.pack(">BBHHBB", 4, last, len(piece) + 8, 0, 1, 0) + piece)

    def answer(self, kind: int, message: bytes) -> bool:
        if kind == 0x12:
            table = struct.pack(">BHHBHHB", 0, 11, 6, 1, 17, 1, 0xFF)
            self.send(table + bytes([16, 0, 0, 1, 0, 0]) + b"\x02")
            return True
        try:
            if kind == 0x10:
                self.send(self.login(message))
            elif kind == 0x07:
                self.send(self.load(message))
            elif kind == 0x01:
                headers = struct.unpack_from("<I", message)[0]
                self.send(self.batch(message[headers:].decode("utf-16-le", "surrogatepass")))
            elif kind == 0x0E:
                self.send(done())
            else:
                return False
        except RefusedError as refusal:
            self.send(b"".join(error(*pair) for pair in refusal.errors) + done(status=2))
            return kind != 0x10
        return True

    def login(self, message: bytes) -> bytes:
        def text(place: int) -> bytes:
            offset, length = struct.unpack_from("<HH", message, place)
            return message[offset : offset + 2 * length]

        mangled = text(44)
        password = bytes(((byte ^ 0xA5) << 4 | (byte ^ 0xA5) >> 4) & 0xFF for byte in mangled).decode("utf-16-le")
        user, name = text(40).decode("utf-16-le"), text(68).decode("utf-16-le") or "master"
        if self.server.faults_at_login:
            raise RefusedError(self.server.faults_at_login.pop())
        if self.server.logins.get(user) != password:
            raise RefusedError((18456, f"Login failed for user '{user}'."))
        if name not in self.server.databases:
            raise RefusedError((4060, f'Cannot open database "{name}".'), (18456, "Login failed."))
        self.database = name
        with self.server.lock:
            self.sit_down(name)
        self.server.places = [place for place, length in struct.iter_unpack("<HH", message[36:72]) if length]
        self.server.packet_bytes = struct.unpack_from("<I", message, 8)[0]
        program = "Double".encode("utf-16-le")
        body = b"\x01\x74\x00\x00\x04" + bytes([6]) + program + bytes([16, 0, 0, 0])
        features = b"\xae\x0a\x01\0\0\0\x01\xff" if self.features_of(message) == [0x0A] else b""
        changes = changed(1, name, "master") + COLLATION
        return b"\xad" + struct.pack("<H", len(body)) + body + changes + features + done()

    def sit_down(self, name: str) -> None:
        seat = next((seat for seat in self.server.seats if seat.client is None), None)
        if seat is None:
            self.server.seats.append(seat := Seat(name, self))
        seat.database, seat.client = name, self

    def features_of(self, message: bytes) -> list[int]:
        """Returns the features that a login asks for, and remembers them."""
        found: list[int] = []
        if message[27] & 0x10:
            cursor = Cursor(message, struct.unpack_from("<I", message, struct.unpack_from("<H", message, 56)[0])[0])
            while (feature := cursor.number(1)) != 0xFF:
                found.append(feature)
                cursor.take(cursor.number(4))
            assert cursor.position == len(message)
        self.server.features = found
        return found

    def load(self, message: bytes) -> bytes:
        table = self.bulk
        assert table is not None
        cursor = Cursor(message)
        assert cursor.number(1) == 0x81
        table.columns = [read_column(cursor) for _ in range(cursor.number(2))]
        position, count = cursor.position, 0
        while message[position] == 0xD1:
            end = row_end(message, position + 1, table.columns)
            table.rows.append(message[position:end])
            position, count = end, count + 1
        assert message[position] == 0xFD
        if self.server.lossy and table.rows:
            table.rows.pop()
        return done(count)

    def batch(self, sql: str) -> bytes:
        with self.server.lock:
            database = self.server.databases[self.database]
            database.batches.append(sql)
            if (fault := self.server.fault_for(sql)) is not None:
                if fault.number == 0:
                    self.request.shutdown(socket.SHUT_RDWR)
                    raise OSError
                raise RefusedError((fault.number, fault.text))
            for pattern, answer in _SHAPES:
                if (match := re.fullmatch(pattern, sql, re.DOTALL)) is not None:
                    return cast("bytes", answer(self, database, *match.groups()))
            return done()

    def view(self, database: Database, name: str, where: str | None) -> bytes:
        if name == "databases":
            rows = [{"name": found, "database_id": n, "state": 0, "collation_name": "SQL_Latin1_General_CP1_CI_AS",
                     "snapshot_isolation_state": 1} for n, found in enumerate(self.server.databases, 1)]  # fmt: skip
            if where is not None:
                rows = [row for row in rows if row["name"] == where.replace("''", "'")]
            return result(rows)
        if name not in database.views:
            raise RefusedError((208, f"Invalid object name 'sys.{name}'."))
        return result(database.views[name])

    def rename(self, database: Database, old: str, new: str) -> bytes:
        if self.server.is_babelfish and any(seat.database == plain(old) for seat in self.server.seats):
            raise RefusedError((33557097, "The database could not be exclusively locked to perform the operation."))
        self.server.databases[plain(new)] = self.server.databases.pop(plain(old))
        return done()

    def create(self, database: Database, name: str) -> bytes:
        if plain(name) in self.server.databases:
            raise RefusedError((1801, "Database exists."))
        views = dict.fromkeys(("objects", "tables", "schemas"), cast("list[dict[str, Any]]", []))
        self.server.databases[plain(name)] = Database(views=views)
        return done()

    def drop(self, database: Database, name: str) -> bytes:
        del self.server.databases[plain(name)]
        return done()

    def make_table(self, database: Database, name: str) -> bytes:
        database.tables[name] = Table()
        return done()

    def drop_table(self, database: Database, name: str) -> bytes:
        if database.tables.pop(name, None) is None:
            raise RefusedError((3701, "Cannot drop it."))
        return done()

    def begin_bulk(self, database: Database, name: str) -> bytes:
        self.bulk = database.tables[name]
        return done()

    def move(self, database: Database, target: str, source: str) -> bytes:
        database.tables[target].columns = database.tables[source].columns
        database.tables[target].rows += database.tables[source].rows
        return done(len(database.tables[source].rows))

    def insert(self, database: Database, name: str, values: str) -> bytes:
        rows = values.split("\n")
        database.tables[name].rows += [row.encode() for row in rows]
        return done(len(rows))

    def count(self, database: Database, name: str) -> bytes:
        return result([{"held": len(database.tables[name].rows)}])

    def depth(self, database: Database) -> bytes:
        return result([{"depth": self.server.depth}])

    def babelfish(self, database: Database) -> bytes:
        return result([{"found": int(self.server.is_babelfish)}])

    def visible(self, name: str) -> dict[int, Seat]:
        """Of the places, Babelfish shows about as many as there are sessions."""
        shown = self.server.seats[: sum(seat.client is not None for seat in self.server.seats)]
        return {number: seat for number, seat in enumerate(shown) if seat.database == name}

    def ended(self, database: Database, name: str) -> bytes:
        return result([{"found": sum(seat.client is None for seat in self.visible(name).values())}])

    def alive(self, database: Database, name: str) -> bytes:
        seats = self.visible(name)
        return result([{"session_id": number} for number, seat in seats.items() if seat.client is not None])

    def kill(self, database: Database, number: str) -> bytes:
        if (client := self.server.seats[int(number)].client) is not None:
            client.request.shutdown(socket.SHUT_RDWR)
        return done()

    def objects(self, database: Database) -> bytes:
        return result([{"objects": len(database.tables)}])

    def select(self, database: Database, name: str) -> bytes:
        table = database.tables[name]
        table.columns = table.columns or [Column("c", 0x26, b"\x26\x04", 1, 4)]
        return metadata(table.columns) + b"".join(table.rows) + done(len(table.rows))


_SHAPES = [
    (r"SELECT \* FROM sys\.(\w+)(?: WHERE name = N'(.*)')?", _Client.view),
    (r"SELECT name FROM sys\.(databases) WHERE name = N'(.*)'", _Client.view),
    (rf"ALTER DATABASE ({NAME}) MODIFY NAME = ({NAME})", _Client.rename),
    (rf"CREATE DATABASE ({NAME}).*", _Client.create),
    (rf"DROP DATABASE ({NAME})", _Client.drop),
    (rf"CREATE TABLE ({TABLE}) \(.*", _Client.make_table),
    (rf"DROP TABLE ({TABLE})", _Client.drop_table),
    (rf"INSERT BULK ({TABLE}) ?\(.*", _Client.begin_bulk),
    (rf"INSERT INTO ({TABLE}) \(.*\) SELECT .* FROM ({TABLE})", _Client.move),
    (rf"INSERT INTO ({TABLE}) \(.*?\) VALUES\n(.*)", _Client.insert),
    (rf"SELECT COUNT_BIG\(\*\) AS \w+ FROM ({TABLE})", _Client.count),
    (r"SELECT @@TRANCOUNT AS depth", _Client.depth),
    (r"SELECT CAST\(SERVERPROPERTY\('babelfish'\) AS int\) AS found", _Client.babelfish),
    (rf"SELECT COUNT\(\*\) AS found FROM {SESSIONS} AND session_id IS NULL", _Client.ended),
    (rf"SELECT session_id FROM {SESSIONS} AND session_id IS NOT NULL", _Client.alive),
    (r"KILL (\d+)", _Client.kill),
    (r"SELECT COUNT\(\*\) AS objects FROM sys\.objects.*", _Client.objects),
    (rf"SELECT [^*]+ FROM ({TABLE})", _Client.select),
]


def plain(name: str) -> str:
    return name[1:-1].replace("]]", "]")


def done(count: int | None = None, *, status: int = 0) -> bytes:
    return struct.pack("<BHHQ", 0xFD, status | (0x10 if count is not None else 0), 0xC1, count or 0)


def error(number: int, text: str) -> bytes:
    encoded = text.encode("utf-16-le")
    body = struct.pack("<iBBH", number, 1, 14, len(encoded) // 2) + encoded + b"\0\0" + struct.pack("<I", 1)
    return b"\xaa" + struct.pack("<H", len(body)) + body


def changed(kind: int, new: str, old: str) -> bytes:
    texts = b"".join(bytes([len(text)]) + text.encode("utf-16-le") for text in (new, old))
    return b"\xe3" + struct.pack("<HB", len(texts) + 1, kind) + texts


def metadata(columns: list[Column]) -> bytes:
    data = struct.pack("<BH", 0x81, len(columns))
    for column in columns:
        data += struct.pack("<IH", 0, 9) + column.info + bytes([len(column.name)]) + column.name.encode("utf-16-le")
    return data


def result(rows: list[dict[str, Any]]) -> bytes:
    """A result set of numbers, flags and texts; a column's first value tells its type."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["nothing"]
    infos = {}
    for name in names:
        sample = next((row[name] for row in rows if row.get(name) is not None), None)
        infos[name] = BIT if isinstance(sample, bool) else BIGINT if isinstance(sample, int) else NVARCHAR
    data = struct.pack("<BH", 0x81, len(names))
    for name in names:
        data += struct.pack("<IH", 0, 9) + infos[name] + bytes([len(name)]) + name.encode("utf-16-le")
    for row in rows:
        data += b"\xd1" + b"".join(_value(row.get(name), infos[name]) for name in names)
    return data + done(len(rows))


def _value(value: Any, info: bytes) -> bytes:
    if value is None:
        return b"\xff\xff" if info == NVARCHAR else b"\0"
    if info == BIT:
        return bytes([1, value])
    if info == BIGINT:
        return b"\x08" + struct.pack("<q", value)
    encoded = str(value).encode("utf-16-le", "surrogatepass")
    return struct.pack("<H", len(encoded)) + encoded
