"""Documents as the server sends them: whole batches, cut out of its replies without looking into any document.

The driver's own cursor of raw batches makes an object of every document on the way: 30 to 60 MB/s of small ones. So
here is a cursor of `find` and `getMore` commands, whose replies stay bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bson import Timestamp
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

_DOCUMENT, _ARRAY, _TIMESTAMP, _INT64, _STRING = 0x03, 0x04, 0x11, 0x12, 0x02
_SIZES = {0x01: 8, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, _TIMESTAMP: 8, _INT64: 8, 0x13: 16}
"""Bytes of the BSON types that have a fixed size."""


@dataclass
class Moment:
    """The cluster time that reads are of: the server names it in the answer to the first one."""

    time: Timestamp | None = None

    def read_concern(self) -> dict[str, Any]:
        return {"level": "snapshot"} | ({} if self.time is None else {"atClusterTime": self.time})


@dataclass(frozen=True)
class Reply:
    """The cursor of a reply: `batch` is a BSON array."""

    cursor_id: int
    batch: memoryview
    time: Timestamp | None


def raw_batches(
    database: Database[Any], collection: str, query: Mapping[str, Any] | None, moment: Moment | None
) -> Iterator[bytes]:
    """Yields whole documents one after the other, some 16 MiB at a time, in natural order."""
    from bson import _array_of_documents_to_buffer  # noqa: PLC0415 -- an optional package, loaded when it is needed

    find: dict[str, Any] = {"find": collection, "filter": dict(query or {}), "noCursorTimeout": True}
    find |= {} if query else {"hint": {"$natural": 1}}
    find |= {} if moment is None else {"readConcern": moment.read_concern()}
    with database.client.start_session(causal_consistency=False) as session:
        reply = _command(database, find, session)
        if moment is not None and moment.time is None:
            moment.time = reply.time
        try:
            while True:
                if documents := _array_of_documents_to_buffer(reply.batch):
                    yield documents
                if not reply.cursor_id:
                    return
                cursor_id = reply.cursor_id
                reply = _command(database, {"getMore": cursor_id, "collection": collection}, session)
        finally:
            _kill(database, collection, reply.cursor_id, session)


def _command(database: Database[Any], command: dict[str, Any], session: ClientSession) -> Reply:
    from bson import Int64  # noqa: PLC0415 -- see above
    from bson.codec_options import CodecOptions  # noqa: PLC0415 -- see above
    from bson.raw_bson import RawBSONDocument  # noqa: PLC0415 -- see above

    if "getMore" in command:
        command["getMore"] = Int64(command["getMore"])
    raw: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
    answer = database.command(command, codec_options=raw, session=session)
    # Only the outer document is looked into: the documents lie in the inner one.
    return parsed_cursor(memoryview(answer["cursor"].raw))


def _kill(database: Database[Any], collection: str, cursor_id: int, session: ClientSession) -> None:
    """Lets the server forget a cursor that was left in its middle; politely, so without waiting for it."""
    import pymongo  # noqa: PLC0415 -- see above
    from bson import Int64  # noqa: PLC0415 -- see above

    if cursor_id:
        try:
            with pymongo.timeout(1.0):
                database.command({"killCursors": collection, "cursors": [Int64(cursor_id)]}, session=session)
        except pymongo.errors.PyMongoError:
            return


def parsed_cursor(document: memoryview) -> Reply:
    """Takes the `cursor` of a reply apart: {id, firstBatch or nextBatch, atClusterTime, …}; raises InvalidBSON."""
    from bson import Timestamp  # noqa: PLC0415 -- see above

    fields = dict(_elements(document))
    batch = fields.get(b"firstBatch", fields.get(b"nextBatch", memoryview(b"\x05\0\0\0\0")))
    time = None
    if b"atClusterTime" in fields:
        increment, seconds = struct.unpack("<II", fields[b"atClusterTime"])
        time = Timestamp(seconds, increment)
    return Reply(int.from_bytes(fields.get(b"id", b""), "little", signed=True), batch, time)


def _elements(document: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yields name and undecoded value of every element."""
    from bson.errors import InvalidBSON  # noqa: PLC0415 -- see above

    position, end = 4, len(document) - 1
    while position < end:
        kind, name = document[position], _name(document, position + 1)
        position += len(name) + 2
        if kind in (_DOCUMENT, _ARRAY):
            size = int.from_bytes(document[position : position + 4], "little")
        elif kind == _STRING:
            size = int.from_bytes(document[position : position + 4], "little") + 4
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise InvalidBSON(f"the server's cursor has a field of type {kind:#x}")
        if position + size > end:
            raise InvalidBSON("the server's cursor is cut short")
        yield name, document[position : position + size]
        position += size


def _name(document: memoryview, position: int) -> bytes:
    name = bytes(document[position : position + 128])
    return name[: name.index(0)]
