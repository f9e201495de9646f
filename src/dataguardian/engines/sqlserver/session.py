"""A session with a server: batches of T-SQL, the rows they give as the wire has them, and bulk loading."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dataguardian.engines.sqlserver import types
from dataguardian.engines.sqlserver.types import MAPPED_ROW, ROW, Column, Cursor
from dataguardian.engines.sqlserver.values import decode_row
from dataguardian.engines.sqlserver.wire import (
    BATCH,
    BULK,
    HEADER,
    LOGIN,
    Credentials,
    ProtocolError,
    Wire,
    login_message,
)

T = TypeVar("T")

COLUMNS = 0x81
ERROR, INFO, LOGIN_ACK, ENVIRONMENT, FEATURES, SESSION_STATE = 0xAA, 0xAB, 0xAD, 0xE3, 0xAE, 0xE4
RETURN_STATUS, RETURN_VALUE = 0x79, 0xAC
DONE = (0xFD, 0xFE, 0xFF)
_SHORT_TOKENS = (0xA4, 0xA5, 0xA9, 0xED)
"""Those that say their length in two bytes, and say nothing that we want to know."""
_DONE_COUNT = 0x10
_PACKET_SIZE, _BEGIN, _COMMIT, _ROLLBACK, _ROUTING, _RESET = 4, 8, 9, 10, 20, 18
_LARGE_BYTES = 256 * 1024
"""A row that is longer is handed on in pieces, so that memory does not grow with it."""
_NOBODY = bytes(8)
_VERSION_7_2 = 0x72


class ServerError(Exception):
    """What the server said. `number` is that of the first message, which is the cause of those after it."""

    def __init__(self, messages: list[tuple[int, int, str]]) -> None:
        self.messages = messages
        self.numbers = tuple(number for number, _, _ in messages)
        self.number, self.state, self.text = messages[0]
        super().__init__(f"{self.text} (error {self.number})")

    def about(self, what: str) -> ServerError:
        """Returns the same, its messages begun by what they are about, which a server seldom says."""
        return ServerError([(number, state, f"{what}: {text}") for number, state, text in self.messages])


@dataclass
class Block:
    """`data` holds `rows` rows, each with its token; of a row that is long, a piece, and `rows` is 1 with the last."""

    data: bytes
    rows: int


@dataclass
class Result:
    """A result set as it comes. `blocks` must be read to the end before anything else is asked."""

    columns: list[Column]
    blocks: Iterator[Block]


@dataclass
class Session:
    """One signed-in connection."""

    wire: Wire
    program: str = ""
    _buffer: bytearray = field(default_factory=bytearray, repr=False)
    _position: int = 0
    _ended: bool = True
    _transaction: bytes = _NOBODY
    _errors: list[tuple[int, int, str]] = field(default_factory=list)
    _rows_affected: int = 0

    def login(self, who: Credentials) -> None:
        """Raises ServerError when the server refuses."""
        self.wire.send(LOGIN, login_message(who))
        self._finish()
        if not self.program:
            raise ProtocolError("the server did not confirm the login")

    def run(self, sql: str) -> int:
        """Runs a batch to its end, rows ignored; returns the number of rows that it touched. Raises ServerError."""
        self._ask(sql)
        self._finish()
        return self._rows_affected

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Returns the first result set's rows, by the columns' names in lower case."""
        return self._rows_of(self.stream(sql))

    def scalar(self, sql: str) -> Any:  # noqa: ANN401 -- SQL decides
        """Returns the first column of the first row, None when there is none."""
        rows = self.query(sql)
        return next(iter(rows[0].values())) if rows else None

    def stream(self, sql: str) -> Result:
        """Begins a batch and returns its first result set. Raises ServerError, also from `blocks`."""
        self._ask(sql)
        columns = self._next_columns()
        if columns is None:
            self._raise_errors()
            return Result([], iter(()))
        return Result(columns, self._blocks(columns))

    def bulk(self, statement: str, columns: list[Column], blocks: Iterator[bytes]) -> int:
        """Runs an INSERT BULK statement and sends rows as they came from a server; returns how many it took."""
        self.run(statement)
        pending = bytearray(bulk_metadata(columns))
        room = self.wire.packet_bytes - HEADER.size
        for block in blocks:
            pending += block
            offset = 0
            while len(pending) - offset > room:
                self.wire.send_packet(BULK, bytes(pending[offset : offset + room]), last=False)
                offset += room
            del pending[:offset]
            if self.wire.has_news():  # it can only be a refusal
                self._begin_reply()
                self._finish()
                raise ProtocolError("the server ended a bulk load before its end")
        pending += struct.pack("<BHHQ", DONE[0], 0, 0, 0)
        self.wire.send(BULK, bytes(pending))
        self._begin_reply()
        self._finish()
        return self._rows_affected

    def close(self) -> None:
        self.wire.close()

    def _ask(self, sql: str) -> None:
        headers = struct.pack("<IIH", 22, 18, 2) + self._transaction + struct.pack("<I", 1)
        self._begin_reply()
        self.wire.send(BATCH, headers + sql.encode("utf-16-le", "surrogatepass"))

    def _begin_reply(self) -> None:
        self._buffer.clear()
        self._position, self._ended = 0, False
        self._errors.clear()
        self._rows_affected = 0

    def _rows_of(self, result: Result) -> list[dict[str, Any]]:
        names = [column.name.lower() for column in result.columns]
        data = b"".join(block.data for block in result.blocks)
        rows, position = [], 0
        while position < len(data):
            values, position = decode_row(data, position + 1, result.columns)
            rows.append(dict(zip(names, values, strict=True)))
        return rows

    def _finish(self) -> None:
        """Reads the reply to its end, and raises what it complains of."""
        if self._ended and self._position >= len(self._buffer):
            self._begin_reply()
        while (columns := self._next_columns()) is not None:
            for _ in self._rows(columns):
                pass
        self._raise_errors()

    def _blocks(self, columns: list[Column]) -> Iterator[Block]:
        yield from self._rows(columns)
        self._finish_quietly()
        self._raise_errors()

    def _finish_quietly(self) -> None:
        while (columns := self._next_columns()) is not None:
            for _ in self._rows(columns):
                pass

    def _raise_errors(self) -> None:
        if self._errors:
            raise ServerError(list(self._errors))

    # The reply, token by token.

    def _at_end(self) -> bool:
        while self._position >= len(self._buffer):
            if self._ended:
                return True
            self._more()
        return False

    def _more(self) -> None:
        if self._ended:
            raise ProtocolError("the server's reply ends in the middle")
        del self._buffer[: self._position]
        self._position = 0
        self._ended = self.wire.receive_packet(self._buffer)

    def _parse(self, function: Callable[[Cursor], T]) -> T:
        while True:
            cursor = Cursor(self._buffer, self._position)
            try:
                result = function(cursor)
            except IndexError:
                self._more()
            else:
                self._position = cursor.position
                return result

    def _next_columns(self) -> list[Column] | None:
        """Reads up to the next result set, whose columns it returns; None at the end of the reply."""
        while not self._at_end():
            token = self._buffer[self._position]
            if token == COLUMNS:
                columns = self._parse(_columns)
                if columns is not None:
                    return columns
            elif token in (ROW, MAPPED_ROW):
                raise ProtocolError("the server sent rows of nothing")
            else:
                self._other(token)
        return None

    def _other(self, token: int) -> None:
        """Reads a token that is neither rows nor their description."""
        if token in DONE:
            status, count = self._parse(_done)
            if status & _DONE_COUNT:
                self._rows_affected = count
        elif token == ERROR:
            self._errors.append(self._parse(_message))
        elif token == ENVIRONMENT:
            self._change(self._parse(_short_token))
        elif token == LOGIN_ACK:
            self.program = self._acknowledged(self._parse(_short_token))
        else:
            self._parse(_skip)

    def _acknowledged(self, body: bytes) -> str:
        if body[1] < _VERSION_7_2:
            raise ProtocolError("the server speaks a protocol older than that of SQL Server 2005")
        return Cursor(body, 5).text(1) or "SQL Server"

    def _change(self, body: bytes) -> None:
        cursor = Cursor(body)
        kind = cursor.number(1)
        if kind == _PACKET_SIZE:
            self.wire.packet_bytes = int(cursor.text(1))
        elif kind == _BEGIN:
            self._transaction = cursor.take(cursor.number(1)).ljust(8, b"\0")
        elif kind in (_COMMIT, _ROLLBACK, _RESET):
            self._transaction = _NOBODY
        elif kind == _ROUTING:
            raise ProtocolError("the server sends its clients elsewhere: connect to that place directly")

    # Rows.

    def _rows(self, columns: list[Column]) -> Iterator[Block]:
        """Yields rows until something else comes; those with a map of NULLs are written out as plain ones."""
        while not self._at_end():
            token = self._buffer[self._position]
            if token in (ROW, MAPPED_ROW):
                if (block := self._whole_rows(token, columns)) is not None:
                    yield block
                elif len(self._buffer) - self._position <= _LARGE_BYTES:
                    self._more()
                elif token == MAPPED_ROW:
                    yield from self._row_with_map(columns)
                else:
                    self._position += 1
                    yield from self._long_row(columns, b"")
            elif token in (COLUMNS, *DONE):
                return
            else:
                self._other(token)

    def _whole_rows(self, token: int, columns: list[Column]) -> Block | None:
        begin = self._position
        if token == MAPPED_ROW:
            data, self._position, rows = types.mapped_rows(self._buffer, begin, columns)
            return Block(data, rows) if rows else None
        self._position, rows = types.whole_rows(self._buffer, begin, columns)
        return Block(bytes(self._buffer[begin : self._position]), rows) if rows else None

    def _row_with_map(self, columns: list[Column]) -> Iterator[Block]:
        size_bytes = (len(columns) + 7) // 8
        nulls = self._parse(lambda cursor: cursor.take(1 + size_bytes))[1:]
        pieces = bytearray()
        for block in self._long_row(columns, nulls):
            pieces += block.data
            if len(pieces) > _LARGE_BYTES or block.rows:
                yield Block(bytes(pieces), block.rows)
                pieces.clear()

    def _long_row(self, columns: list[Column], nulls: bytes) -> Iterator[Block]:
        yield Block(bytes([ROW]), 0)
        for number, column in enumerate(columns):
            if nulls and nulls[number // 8] & 1 << number % 8:
                yield Block(types.NULLS[column.layout], 0)
            elif column.layout == types.PARTS:
                yield from self._parts()
            else:
                yield from self._counted(self._size_of(column))
        yield Block(b"", 1)

    def _size_of(self, column: Column) -> int:
        """Returns how many bytes the value at hand takes, its length included."""
        while True:
            try:
                return types.value_size(self._buffer, self._position, column)
            except IndexError:
                self._more()

    def _parts(self) -> Iterator[Block]:
        head = self._parse(lambda cursor: cursor.take(8))
        yield Block(head, 0)
        if head == types.NULLS[types.PARTS]:
            return
        while True:
            length = self._parse(lambda cursor: cursor.take(4))
            yield Block(length, 0)
            if not any(length):
                return
            yield from self._counted(int.from_bytes(length, "little"))

    def _counted(self, size_bytes: int) -> Iterator[Block]:
        while size_bytes:
            while self._position >= len(self._buffer):
                self._more()
            piece = bytes(self._buffer[self._position : self._position + size_bytes])
            self._position += len(piece)
            size_bytes -= len(piece)
            yield Block(piece, 0)


def bulk_metadata(columns: list[Column]) -> bytes:
    """Returns COLMETADATA for a bulk load of rows that came with these columns."""
    data = bytearray(struct.pack("<BH", COLUMNS, len(columns)))
    for column in columns:
        data += struct.pack("<IH", 0, 0x08 | column.nullable) + column.info
        data += bytes([len(column.name)]) + column.name.encode("utf-16-le", "surrogatepass")
    return bytes(data)


def _columns(cursor: Cursor) -> list[Column] | None:
    cursor.take(1)
    count = cursor.number(2)
    return None if count == 0xFFFF else [types.read_column(cursor) for _ in range(count)]  # noqa: PLR2004 -- none


def _done(cursor: Cursor) -> tuple[int, int]:
    cursor.take(1)
    status = cursor.number(2)
    cursor.take(2)
    return status, cursor.number(8)


def _short_token(cursor: Cursor) -> bytes:
    cursor.take(1)
    return cursor.take(cursor.number(2))


def _message(cursor: Cursor) -> tuple[int, int, str]:
    body = Cursor(_short_token(cursor))
    number, state, _ = body.number(4), body.number(1), body.number(1)
    return number, state, body.text(2)


def _skip(cursor: Cursor) -> None:
    token = cursor.number(1)
    if token == RETURN_STATUS:
        cursor.take(4)
    elif token == SESSION_STATE:
        cursor.take(cursor.number(4))
    elif token == FEATURES:
        while cursor.number(1) != 0xFF:  # noqa: PLR2004 -- the list's end
            cursor.take(cursor.number(4))
    elif token in (INFO, *_SHORT_TOKENS):
        cursor.take(cursor.number(2))
    else:
        raise ProtocolError(f"the server sent the unknown token 0x{token:02X}")
