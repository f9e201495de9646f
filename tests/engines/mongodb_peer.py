"""A scripted peer of MongoDB's wire protocol: it serves one collection from memory, as fast as a socket goes, and
remembers every command. For what the test server cannot show: speed, snapshots, values that it refuses.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

import bson
from bson import SON, Binary, Int64, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion

_HEADER = struct.Struct("<iiiiIB")
_OP_MSG = 2013
_ANY_DATE: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
BATCH_BYTES = 16 << 20
Command = dict[str, Any]
Answer = Callable[[Command], Command | None]


class MongoPeer:
    """Listens on a port of the kernel's choice. `answers` may replace the answer to any command; None closes the
    connection. `commands` are all that came, in order.
    """

    def __init__(
        self,
        documents: Sequence[bytes] = (),
        *,
        replica_set: bool = True,
        version: str = "7.0.14",
        answers: dict[str, Answer] | None = None,
        collection: str = "things",
        info: dict[str, Any] | None = None,
    ) -> None:
        self.commands: list[Command] = []
        self.replica_set, self.version, self.collection, self.info = replica_set, version, collection, info or {}
        self._answers = answers or {}
        self._batches = [encoded_array(batch) for batch in _batches(documents)] or [encoded_array([])]
        peer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                peer._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, query: str = "dump_with=driver") -> str:
        return f"mongodb://127.0.0.1:{self.port}/shop?directConnection=true&{query}"

    def named(self, name: str) -> list[Command]:
        """Returns the commands of that name."""
        return [command for command in self.commands if next(iter(command)) == name]

    def _serve(self, connection: Any) -> None:
        while head := _exactly(connection, 16):
            size, number, _, code = struct.unpack("<iiii", head)
            if not 16 < size <= 48_000_000:  # somebody speaks TLS: a server hangs up
                return
            body = _exactly(connection, size - 16)
            command = _command_of(code, body)
            self.commands.append(command)
            reply = self._reply(command)
            if reply is None:
                return
            _send(connection, number, code, reply)

    def _reply(self, command: Command) -> bytes | None:
        name = next(iter(command))
        if name in self._answers:
            answer = self._answers[name](command)
            return None if answer is None else bson.encode(answer)
        if name == "find" and command["find"] != self.collection:
            return bson.encode(_cursor(f"admin.{command['find']}", []) | {"ok": 1.0})
        if name in ("find", "getMore"):
            return self._batch(name, command)
        return bson.encode({"ok": 1.0} | self._plain(name))

    def _batch(self, name: str, command: Command) -> bytes:
        number = 0 if name == "find" else int(command["getMore"])
        last = number + 1 >= len(self._batches)
        cursor = _raw_document([
            (b"\x12id\0", struct.pack("<q", 0 if last else number + 1)),
            (b"\x02ns\0", _string(f"shop.{self.collection}")),
            (b"\x11atClusterTime\0", struct.pack("<II", 7, 1700000000)),
            (b"\x04firstBatch\0" if name == "find" else b"\x04nextBatch\0", self._batches[number]),
        ])  # fmt: skip
        return _raw_document([(b"\x03cursor\0", cursor), (b"\x01ok\0", struct.pack("<d", 1.0))])

    def _plain(self, name: str) -> dict[str, Any]:
        key = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
        info = {"name": self.collection, "type": "collection", "options": {}, "info": {"uuid": Binary(b"u" * 16, 4)}}
        hello: dict[str, Any] = {
            "isWritablePrimary": True, "ismaster": True, "logicalSessionTimeoutMinutes": 30, "minWireVersion": 0,
            "maxWireVersion": 21, "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
        }  # fmt: skip
        if self.replica_set:
            me = f"127.0.0.1:{self.port}"
            hello |= {
                "setName": "rs",
                "hosts": [me],
                "me": me,
                "$clusterTime": SON(clusterTime=Timestamp(1700000000, 7)),
            }
        known: dict[str, dict[str, Any]] = {
            "hello": hello,
            "isMaster": hello,
            "ismaster": hello,
            "buildInfo": {"version": self.version, "versionArray": [*map(int, self.version.split(".")), 0]},
            "atlasVersion": {"ok": 0.0, "code": 59, "codeName": "CommandNotFound", "errmsg": "no such command"},
            "connectionStatus": {"authInfo": {"authenticatedUsers": []}},
            "listCollections": _cursor("shop.$cmd.listCollections", [info | self.info]),
            "listIndexes": _cursor(f"shop.{self.collection}", [key]),
            "dbStats": {"dataSize": 1000},
            "listDatabases": {"databases": [{"name": "shop"}], "totalSize": 1000},
        }
        return known.get(name, {})


def encoded_array(documents: Sequence[bytes]) -> bytes:
    """Returns documents as the BSON array of a batch."""
    return _raw_document([(b"\x03%d\0" % number, document) for number, document in enumerate(documents)])


def _batches(documents: Sequence[bytes]) -> list[list[bytes]]:
    """The first one is of 101 documents at most, as a server's is."""
    batches: list[list[bytes]] = [list(documents[:101])]
    size_bytes = BATCH_BYTES
    for document in documents[101:]:
        size_bytes += len(document) + 8
        if size_bytes > BATCH_BYTES:
            batches.append([])
            size_bytes = 0
        batches[-1].append(document)
    return batches


def _raw_document(elements: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(part for element in elements for part in element)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def _string(text: str) -> bytes:
    return struct.pack("<i", len(text.encode()) + 1) + text.encode() + b"\0"


def _cursor(name: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cursor": {"id": Int64(0), "ns": name, "firstBatch": documents}}


def _command_of(code: int, body: bytes) -> Command:
    """Of the OP_QUERY that greets its only document; of OP_MSG the document, and beside it what came in sequences."""
    if code != _OP_MSG:
        return bson.decode(_document_at(body, body.index(b"\0", 4) + 9), _ANY_DATE)
    command: Command = {}
    position = 4
    while position < len(body):
        kind, position = body[position], position + 1
        (size,) = struct.unpack_from("<i", body, position)
        if kind == 0:
            command |= bson.decode(_document_at(body, position), _ANY_DATE)
        else:
            name_end = body.index(b"\0", position + 4)
            documents = bson.decode_all(body[name_end + 1 : position + size], _ANY_DATE)
            command[body[position + 4 : name_end].decode()] = documents
        position += size
    return command


def _document_at(data: bytes, position: int) -> bytes:
    (size,) = struct.unpack_from("<i", data, position)
    return data[position : position + size]


def _send(connection: Any, number: int, code: int, document: bytes) -> None:
    if code == _OP_MSG:
        head = struct.pack("<iiiiIB", 21 + len(document), 1, number, code, 0, 0)
    else:
        head = struct.pack("<iiiiiqii", 36 + len(document), 1, number, 1, 8, 0, 0, 1)
    connection.sendall(head)
    connection.sendall(document)


def _exactly(connection: Any, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        piece = connection.recv(size_bytes - len(data))
        if not piece:
            return b""
        data += piece
    return bytes(data)
