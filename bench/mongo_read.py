"""Reads all of `mongo_canned.py` and throws it away: `mongo_read.py ours|driver|wire PORT`.

`ours` is the engine's dump with everything that it does (archive, checksums), `driver` pymongo's cursor of raw batches,
and `wire` the same messages over a bare socket: the least that any client takes. On one core, whatever there is.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

import bson

from mongo_canned import COLLECTION, DATABASE

BUFFER_BYTES = 16 << 20


def ours(port: int) -> int:
    from dataguardian.bootstrap import open_datasource  # noqa: PLC0415 -- each side pays for what it uses
    from dataguardian.engines.base import DumpOptions  # noqa: PLC0415 -- as above

    source = open_datasource(f"mongodb://127.0.0.1:{port}/{DATABASE}?dump_with=driver")
    buffer, size_bytes = memoryview(bytearray(BUFFER_BYTES)), 0
    for dump in source.engine.dump(DumpOptions()):
        with dump as stream:
            while count := stream.readinto(buffer):
                size_bytes += count
            stream.finish()
    return size_bytes


def driver(port: int) -> int:
    from pymongo import MongoClient  # noqa: PLC0415 -- as above

    with MongoClient("127.0.0.1", port) as client:
        return sum(len(batch) for batch in client[DATABASE][COLLECTION].find_raw_batches())


def wire(port: int) -> int:
    size_bytes = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        buffer = memoryview(bytearray(2 * BUFFER_BYTES))
        command: dict[str, object] = {"find": COLLECTION, "$db": DATABASE}
        while True:
            body = b"\0\0\0\0\0" + bson.encode(command)
            connection.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
            count = connection.recv_into(buffer[:21], 21, socket.MSG_WAITALL)
            (whole,) = struct.unpack_from("<i", buffer)
            while count < whole:
                count += connection.recv_into(buffer[count:whole])
            size_bytes += count
            # The cursor's id follows the batch: {cursor: {firstBatch | nextBatch, id, ns}, ok}.
            tail = bytes(buffer[whole - 80 : whole])
            at = tail.index(b"\x12id\0") + 4
            (cursor_id,) = struct.unpack_from("<q", tail, at)
            if not cursor_id:
                return size_bytes
            command = {"getMore": bson.Int64(cursor_id), "collection": COLLECTION, "$db": DATABASE}


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print({"ours": ours, "driver": driver, "wire": wire}[sys.argv[1]](int(sys.argv[2])))
