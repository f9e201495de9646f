"""MongoDB samples, an independent look at databases, and a strict reader of archives that shares nothing with ours."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct
from typing import Any

import bson
import gridfs
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

Client = MongoClient[dict[str, Any]]
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)

EVERY_TYPE: dict[str, Any] = {
    "_id": ObjectId("65f000000000000000000001"),
    "double": 1.5,
    "nan": float("nan"),
    "minus infinity": float("-inf"),
    "minus zero": -0.0,
    "string": "ü 日本 🐘 \0 zero",
    "empty": "",
    "document": {"a": [1, "2", {"b": None}], "": {}},
    "array": [[], [[]], {}],
    "binary": Binary(b"\x00\x01\xff", 0),
    "uuid": Binary(bytes(range(16)), 4),
    "user defined": Binary(b"x", 128),
    "true": True,
    "date": dt.datetime(1969, 7, 20, 20, 17, 40, 123000, tzinfo=dt.UTC),
    "null": None,
    "regex": Regex("^a.*\\/", "imx"),
    "code": Code("function () { return 1 }"),
    "code with scope": Code("x", {"y": 1}),
    "int32": -(2**31),
    "int64": Int64(2**63 - 1),
    "small int64": Int64(7),
    "timestamp": Timestamp(5, 6),
    "empty timestamp": Timestamp(0, 0),
    "decimal": Decimal128("1.10E+6144"),
    "decimal nan": Decimal128("NaN"),
    "min": MinKey(),
    "max": MaxKey(),
    "reference": DBRef("other", 1, "elsewhere"),
    "a.dotted name": 1,
    "$dollar": 2,
    " ": "space",
}


def build_everything(client: Client, name: str) -> None:
    """Fills a database with one of everything that the engine carries over and the test server keeps."""
    db = client[name]
    db["types"].insert_one(EVERY_TYPE)
    db["odd ids"].insert_many([{"_id": value} for value in (None, "", 1.5, {"a": 1}, MinKey(), True, Timestamp(1, 1))])
    db["orders"].insert_many([{"_id": number, "sku": f"s{number % 97}", "at": number} for number in range(400)])
    db["orders"].create_index([("sku", 1), ("_id", -1)], name="by sku", partialFilterExpression={"at": {"$gt": 5}})
    db["orders"].create_index("at", expireAfterSeconds=10**8)
    db["orders"].create_index("hidden", hidden=True, sparse=True)
    db["places"].insert_one({"where": {"type": "Point", "coordinates": [1.0, 2.0]}})
    db["places"].create_index([("where", "2dsphere")])
    validator = {"email": {"$regex": "@example\\.com$", "$options": "i"}, "n": {"$type": "int"}}
    db.create_collection("validated")
    db["validated"].insert_one({"_id": 1, "email": "older than the rule"})
    db.command("collMod", "validated", validator=validator, validationLevel="strict", validationAction="error")
    db.create_collection("french", collation={"locale": "fr", "strength": 1})
    db["french"].insert_many([{"name": "Zoé"}, {"name": "zoe"}])
    db["french"].create_index("name", collation={"locale": "simple"}, unique=True)
    db["french"].create_index("other")
    db.create_collection("capped", capped=True, size=65536)
    db["capped"].insert_many([{"n": number} for number in range(20)])
    db.create_collection("empty")
    db["system.js"].insert_one({"_id": "twice", "value": Code("function (x) { return 2 * x }")})
    db.command("create", "recent", viewOn="orders", pipeline=[{"$match": {"at": {"$gt": 390}}}])
    by_three = {"sku": 1, "at": -1, "_id": 1}
    db.command("create", "sorted", viewOn="orders", pipeline=[{"$sort": by_three}])
    db.command("create", "a view of a view", viewOn="recent", pipeline=[], collation={"locale": "de"})
    gridfs.GridFS(db, "files").put(b"\x00\xffgrid" * 60_000, filename="f.bin", metadata={"a": 1})
    db["dotted.name.with $ and ünïcode 日本 🐘".replace("$", "money")].insert_one({"_id": 1})


def content(client: Client, name: str) -> dict[str, Any]:
    """Returns what a driver shows of a database: options, indexes and hashes of the raw documents.

    What restores leave behind when a server dies under them has names of its own, and is left out.
    """
    database = client[name]
    found: dict[str, Any] = {}
    for info in database.list_collections():
        collection = info["name"]
        if collection.startswith("__dataguardian_") or collection == "system.views":
            continue
        shown: dict[str, Any] = {"type": info["type"], "options": info["options"]}
        if info["type"] != "view":
            indexes = [
                {key: value for key, value in index.items() if key != "ns"}
                for index in database[collection].list_indexes()
            ]
            shown["indexes"] = sorted(indexes, key=lambda index: str(index["name"]))
        raw = client.get_database(name, codec_options=RAW)[collection]
        shown["documents"] = [hashlib.sha256(document.raw).hexdigest() for document in raw.find()]
        found[collection] = shown
    return found


# The strict reader. Written from the format's description (docs of mongo-tools), in another way than ours: all at once,
# from offsets, with a CRC of its own.

_CRC_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ 0xC96C5795D7870F42 if _value & 1 else _value >> 1
    _CRC_TABLE.append(_value)


def slow_crc64(data: bytes) -> int:
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFFFFFFFFFF


class Archive:
    """A whole archive, taken apart: `header`, `listed` documents, and per namespace its raw documents in order."""

    def __init__(self, data: bytes) -> None:
        assert struct.unpack_from("<I", data)[0] == 0x8199E26D
        self._data, self._at = data, 4
        prelude = self._block()
        self.header, *listed = [bson.decode(document) for document in prelude]
        assert list(self.header) == ["concurrent_collections", "version", "server_version", "tool_version"]
        assert isinstance(self.header["concurrent_collections"], int)
        assert self.header["version"] == "0.1"
        self.listed = listed
        self.documents: dict[tuple[str, str], list[bytes]] = {}
        self.order: list[tuple[str, str]] = []
        self._read_namespaces()

    def metadata(self, collection: str) -> dict[str, Any]:
        (found,) = [one for one in self.listed if one["collection"] == collection]
        assert list(found) in (
            ["db", "collection", "metadata", "size", "type"],
            ["db", "collection", "metadata", "size"],
        )
        parsed: dict[str, Any] = json.loads(found["metadata"])
        return parsed

    def _read_namespaces(self) -> None:
        ended: set[tuple[str, str]] = set()
        while self._at < len(self._data):
            first, *documents = self._block()
            header = bson.decode(first)
            assert list(header) == ["db", "collection", "EOF", "CRC"]
            assert isinstance(header["CRC"], Int64)
            name = (header["db"], header["collection"])
            assert name not in ended
            if name not in self.order:
                self.order.append(name)
            held = self.documents.setdefault(name, [])
            held += documents
            if header["EOF"]:
                assert not documents
                assert header["CRC"] & 0xFFFFFFFFFFFFFFFF == slow_crc64(b"".join(held)), name
                ended.add(name)
        assert ended == {(one["db"], self._data_name(one)) for one in self.listed}

    def _data_name(self, listed: dict[str, Any]) -> str:
        """Time series of servers before 8.3 have their documents under another name."""
        major, minor, *_ = map(int, self.header["server_version"].split("."))
        in_buckets = listed.get("type") == "timeseries" and (major, minor) < (8, 3)
        return f"system.buckets.{listed['collection']}" if in_buckets else str(listed["collection"])

    def _block(self) -> list[bytes]:
        documents = []
        while (size := struct.unpack_from("<I", self._data, self._at)[0]) != 0xFFFFFFFF:
            assert 5 <= size <= 16 << 20
            documents.append(self._data[self._at : self._at + size])
            assert len(documents[-1]) == size
            assert documents[-1][-1] == 0
            self._at += size
        self._at += 4
        assert documents, "a block without a header"
        return documents
