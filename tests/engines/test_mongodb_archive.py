"""mongodump's archive format: what we write is read by a reader that shares nothing with ours, and damage is found."""

from __future__ import annotations

import random
from collections.abc import Iterator

import bson
import pytest
from bson import Int64, Regex

from dataguardian.domain.errors import IntegrityError
from dataguardian.engines.mongodb import validate
from dataguardian.engines.mongodb.archive import (
    KIND,
    ArchiveReader,
    Documents,
    Ended,
    Event,
    Listed,
    Namespace,
    Prelude,
    crc64,
    encoded_end,
    encoded_header,
    encoded_prelude,
)
from dataguardian.engines.mongodb.metadata import Metadata, as_json, from_json
from tests.engines.mongodb_tools import Archive, slow_crc64

ONE, TWO, VIEW = (Namespace("shop", name) for name in ("one", "two", "a view"))
DOCUMENTS = [bson.encode({"_id": number, "text": "x" * number}) for number in range(60)]


def interleaved(server_version: str = "7.0.14", kind: str = "") -> bytes:
    """An archive as mongodump writes it of several collections at once: their blocks take turns."""
    listed = tuple(Listed(name, as_json(Metadata(collection=name.collection)), kind) for name in (ONE, TWO))
    prelude = Prelude(server_version, "test", (*listed, Listed(VIEW, as_json(Metadata()), "view")), 4)
    one, two = prelude.data_name(listed[0]), prelude.data_name(listed[1])
    parts = [encoded_prelude(prelude), encoded_header(one), *DOCUMENTS[:20], b"\xff\xff\xff\xff"]
    parts += [encoded_header(two), *DOCUMENTS[20:50], b"\xff\xff\xff\xff", encoded_header(one), *DOCUMENTS[50:]]
    parts += [encoded_end(one, crc64(b"".join(DOCUMENTS[:20] + DOCUMENTS[50:])))]
    parts += [encoded_header(VIEW), encoded_end(VIEW, 0)]
    end = encoded_end(two, crc64(b"".join(DOCUMENTS[20:50])))
    return b"".join([*parts, end[4:]])  # its block has ended before


def events(data: bytes, size_bytes: int) -> Iterator[Event]:
    reader = ArchiveReader()
    for start in range(0, len(data), size_bytes):
        yield from reader.feed(data[start : start + size_bytes])
    reader.finish()


def checked(data: bytes, size_bytes: int = 1 << 20) -> None:
    validate(KIND, {}, (data[start : start + size_bytes] for start in range(0, len(data), size_bytes)))


def test_the_checksum_is_the_one_of_go_and_xz() -> None:
    """The catalogue's check value, and any cut of the data gives the same."""
    assert crc64(b"123456789") == 0x995DC9BBDF1939FA == slow_crc64(b"123456789")
    assert crc64(b"") == 0
    assert crc64(b"6789", crc64(memoryview(b"12345"))) == 0x995DC9BBDF1939FA


def test_a_stranger_reads_what_we_write() -> None:
    """Magic, prelude, headers, ends and checksums are as the format says, also where the CRC's highest bit is set."""
    archive = Archive(interleaved())
    assert archive.documents[ONE] == DOCUMENTS[:20] + DOCUMENTS[50:]
    assert archive.documents[TWO] == DOCUMENTS[20:50]
    assert archive.documents[VIEW] == []
    assert archive.metadata("one") == {"indexes": [], "collectionName": "one"}


@pytest.mark.parametrize("size_bytes", [1, 3, 64, 1 << 20])
def test_any_cut_is_read_alike(size_bytes: int) -> None:
    """Interleaved collections come back whole, in whatever pieces the archive arrives."""
    found: dict[Namespace, list[bytes]] = {}
    ended = []
    for event in events(interleaved(), size_bytes):
        if isinstance(event, Documents):
            starts = [0, *event.ends]
            found.setdefault(event.name, []).extend(
                bytes(event.data[start:end]) for start, end in zip(starts, event.ends, strict=False)
            )
        elif isinstance(event, Ended):
            ended.append(event.name)
    assert found == {ONE: DOCUMENTS[:20] + DOCUMENTS[50:], TWO: DOCUMENTS[20:50]}
    assert ended == [ONE, VIEW, TWO]


def test_time_series_lie_in_buckets_before_8_3() -> None:
    """The prelude names the collection; where its data stands depends on the server that it came from."""
    old, new = Archive.__new__(Archive), list(events(interleaved("8.3.0", "timeseries"), 1 << 20))
    del old
    assert Ended(Namespace("shop", "one")) in new
    assert Ended(Namespace("shop", "system.buckets.one")) in list(events(interleaved("8.2.1", "timeseries"), 1 << 20))


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    """A single bit anywhere, or a missing end, does not pass for a whole archive; names and options are not covered by
    the format's checksums, but a name that changed belongs to no collection any more.
    """
    data = interleaved()
    body = data.index(b"\xff\xff\xff\xff") + 4
    random.seed(4)
    for place in random.sample(range(body, len(data)), 400):
        damaged = bytearray(data)
        damaged[place] ^= 1 << random.randrange(8)
        if b"EOF\0\x01" in data[place - 12 : place + 1] or b"CRC\0" in data[place - 12 : place]:
            continue  # true may be any number but zero; the CRC of a block's header means nothing
        with pytest.raises(IntegrityError):
            checked(bytes(damaged))
    for length in random.sample(range(len(data)), 200):
        with pytest.raises(IntegrityError):
            checked(data[:length])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda data: b"PGDMP" + data[5:], "not a mongodump archive"),
        (lambda data: data + b"\xff\xff\xff\xff", "no header"),
        (lambda data: data + encoded_header(ONE) + DOCUMENTS[0] + b"\xff\xff\xff\xff", "goes on behind its end"),
        (lambda data: data + encoded_header(Namespace("shop", "else")), "not in the archive's list"),
        (lambda data: data + b"\x04\0\0\0", "no document's length"),
        (lambda data: data.replace(b"0.1\0", b"0.2\0"), "format '0.2'"),
        (lambda data: data.replace(b'"indexes": [], "', b'"indexes": [}, "', 1), "options cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(wrong: object, said: str) -> None:
    """Each kind of damage has a sentence of its own."""
    assert callable(wrong)
    with pytest.raises(IntegrityError, match=said):
        checked(wrong(interleaved()))


def test_options_survive_their_json() -> None:
    """Types of numbers, dates out of Python's range and patterns come back; a validator's $regex stays an operator."""
    options = {
        "capped": True,
        "size": Int64(1 << 40),
        "max": 5,
        "validator": {"email": {"$regex": "x$", "$options": "i"}, "n": {"$type": "int"}, "p": Regex("^a", "i")},
        "expireAfterSeconds": 3600.0,
    }
    indexes = ({"v": 2, "key": {"a": 1, "b": -1.0, "c": "text"}, "name": "n", "weights": {"c": Int64(3)}},)
    text = as_json(Metadata(options, indexes, "00ff", "c", "collection"))
    again = from_json(text)
    assert bson.encode(again.options) == bson.encode(options)
    assert [bson.encode(index) for index in again.indexes] == [bson.encode(index) for index in indexes]
    assert (again.uuid, again.collection, again.type) == ("00ff", "c", "collection")
    assert '{"$numberInt": "5"}' in text


def test_old_metadata_is_read() -> None:
    """What mongodump wrote before extended JSON 2 had plain numbers, and sometimes no options at all."""
    metadata = from_json('{"options":{"capped":true,"size":4096},"indexes":[{"v":1,"key":{"_id":1},"name":"_id_"}]}')
    assert metadata.options == {"capped": True, "size": 4096}
    assert from_json("") == Metadata()
