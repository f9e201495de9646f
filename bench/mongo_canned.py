"""A MongoDB server that costs nearly nothing: `mongo_canned.py PORT MEGABYTES`.

One collection, `canned.small`, of documents of 105 bytes. Every batch is the same reply, encoded beforehand, of the
16 MiB that a server puts into one; what is left to do per batch is a header and one system call. So what a client takes
is the client's own.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from typing import Any

import bson

DATABASE, COLLECTION = "canned", "small"
DOCUMENT = {"_id": 1 << 40, "name": "Ada Lovelace", "city": "London", "active": True, "score": 0.5, "note": "x" * 12}
BATCH_BYTES = 16 << 20
FIRST_DOCUMENTS = 101
"""What a server puts into the answer to `find`."""
_HEADER = struct.Struct("<iiii")
_REPLY, _QUERY, _MESSAGE = 1, 2004, 2013
_CURSOR_ID = 4711
_HELLO = {
    "ismaster": True, "isWritablePrimary": True, "helloOk": True, "maxBsonObjectSize": BATCH_BYTES,
    "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "logicalSessionTimeoutMinutes": 30,
    "minWireVersion": 0, "maxWireVersion": 17, "readOnly": False, "ok": 1.0,
}  # fmt: skip
_INDEX = {"v": 2, "key": {"_id": 1}, "name": "_id_"}


def documents_in(size_bytes: int) -> int:
    """Returns how many documents a batch of so many bytes holds, the names of the array's elements included."""
    return size_bytes // (len(bson.encode(DOCUMENT)) + 8)


def served_bytes(megabytes: int) -> int:
    """Returns how many bytes of documents a dump gets."""
    batches = max(1, megabytes * 1_000_000 // BATCH_BYTES)
    return (FIRST_DOCUMENTS + batches * documents_in(BATCH_BYTES)) * len(bson.encode(DOCUMENT))


class Canned:
    def __init__(self, megabytes: int) -> None:
        self._batches = max(1, megabytes * 1_000_000 // BATCH_BYTES)
        self._first = _cursor("firstBatch", [DOCUMENT] * FIRST_DOCUMENTS, _CURSOR_ID)
        batch = [DOCUMENT] * documents_in(BATCH_BYTES)
        self._next, self._last = _cursor("nextBatch", batch, _CURSOR_ID), _cursor("nextBatch", batch, 0)
        self._size_bytes = served_bytes(megabytes)

    def serve(self, connection: socket.socket) -> None:
        """Answers one client until it goes."""
        left = 0
        with connection, connection.makefile("rb") as incoming:
            while header := incoming.read(_HEADER.size):
                size, request, _, kind = _HEADER.unpack(header)
                body = incoming.read(size - _HEADER.size)
                command = _command_of(kind, body)
                if kind == _MESSAGE and "find" in command and command["$db"] == DATABASE:
                    left, answer = self._batches, self._first
                elif "getMore" in command:
                    left -= 1
                    answer = self._next if left else self._last
                else:
                    answer = bson.encode(self._said(command))
                _send(connection, request, kind, answer)

    def _said(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name in ("hello", "isMaster", "ismaster"):
            return _HELLO
        entry = {"name": COLLECTION, "type": "collection", "options": {}, "info": {"readOnly": False}}
        lists: dict[str, list[dict[str, Any]]] = {"listCollections": [entry], "listIndexes": [_INDEX], "find": []}
        if name in lists:
            return {"cursor": {"id": 0, "ns": f"{DATABASE}.x", "firstBatch": lists[name]}, "ok": 1.0}
        said: dict[str, dict[str, Any]] = {
            "buildInfo": {"version": "7.0.0"},
            "dbStats": {"dataSize": self._size_bytes},
            "listDatabases": {"databases": [{"name": DATABASE}]},
            "connectionStatus": {"authInfo": {"authenticatedUsers": [], "authenticatedUserPrivileges": []}},
        }
        return {**said.get(name, {}), "ok": 1.0}


def _cursor(field: str, documents: list[dict[str, Any]], cursor_id: int) -> bytes:
    cursor = {field: documents, "id": bson.Int64(cursor_id), "ns": f"{DATABASE}.{COLLECTION}"}
    return bson.encode({"cursor": cursor, "ok": 1.0})


def _command_of(kind: int, body: bytes) -> dict[str, Any]:
    if kind == _MESSAGE:
        return dict(bson.decode(body[5:]))
    if kind == _QUERY:  # a driver's first greeting: flags, a name, two numbers
        return dict(bson.decode(body[body.index(0, 4) + 9 :]))
    raise SystemExit(f"a message of kind {kind}, which this server does not know")


def _send(connection: socket.socket, request: int, kind: int, answer: bytes) -> None:
    if kind == _MESSAGE:
        prefix, code = b"\0\0\0\0\0", _MESSAGE
    else:
        prefix, code = struct.pack("<iqii", 0, 0, 0, 1), _REPLY
    connection.sendall(_HEADER.pack(_HEADER.size + len(prefix) + len(answer), 1, request, code) + prefix)
    connection.sendall(answer)


def main() -> None:
    canned = Canned(int(sys.argv[2]))
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=canned.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
