"""The format of `mongodump --archive`, both ways: `mongorestore` reads what we write, and we read mongodump's.

    archive = magic, block of the prelude, block*         (all numbers little-endian)
    block   = header document, document*, FF FF FF FF
    prelude = {concurrent_collections, version, server_version, tool_version}, one document per collection
              {db, collection, metadata, size, type}; `metadata` is canonical extended JSON (metadata.py)
    data    = {db, collection, EOF: false, CRC: 0}, documents of that collection
    end     = {db, collection, EOF: true, CRC}, no document; the CRC is CRC-64/XZ of all its documents

Every collection of the prelude has an end, also an empty one and a view, whose `create` the end triggers. The data of a
time series collection stands under `system.buckets.<name>` when the server was older than 8.3. A mongodump that reads
several collections at once interleaves their blocks. Users, roles and the version of their schema come first, because
mongorestore reads them before anything else. Source: common/archive/ of github.com/mongodb/mongo-tools.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dataguardian.domain.errors import IntegrityError

KIND = "mongoarchive"
"""Of the streams that are such archives."""
MAGIC = bytes.fromhex("6de29981")
TERMINATOR = b"\xff\xff\xff\xff"
FORMAT_VERSION = "0.1"
MAX_DOCUMENT_BYTES = (16 << 20) + (16 << 10)
"""What a server admits: 16 MiB, and 16 KiB more for documents of its own."""
BUCKETS = "system.buckets."
USERS, ROLES, AUTH_VERSION = "system.users", "system.roles", "system.version"
OF_ADMIN = "$admin."
"""Before the names of the three above in the archive of another database: its own users and roles."""

_LENGTH = struct.Struct("<I")
_MIN_DOCUMENT_BYTES = 5
_END = 0xFFFFFFFF
_HEADER_TYPES: dict[str, type] = {"db": str, "collection": str, "EOF": bool, "CRC": int}
_NEEDED = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Namespace(NamedTuple):
    database: str
    collection: str

    def __str__(self) -> str:
        return f"{self.database}.{self.collection}"


@dataclass(frozen=True)
class Listed:
    """A collection as the prelude lists it. `type` is '', 'view', 'timeseries' or, by some servers, 'collection'."""

    name: Namespace
    metadata: str = ""
    type: str = ""


@dataclass(frozen=True)
class Prelude:
    """The beginning of an archive. `server_version` is like 7.0.14; mongorestore refuses one that is not."""

    server_version: str
    tool_version: str
    collections: tuple[Listed, ...] = ()
    concurrent_collections: int = 1

    def data_names(self) -> dict[Namespace, Listed]:
        """Returns every listed collection by the name that its data stands under."""
        return {self.data_name(listed): listed for listed in self.collections}

    def data_name(self, listed: Listed) -> Namespace:
        database, collection = listed.name
        in_buckets = listed.type == "timeseries" and not has_raw_data(self.server_version)
        return Namespace(database, BUCKETS + collection) if in_buckets else listed.name


class Documents(NamedTuple):
    """Whole documents of one collection, one after the other in `data`; `ends` are the offsets behind each."""

    name: Namespace
    data: memoryview
    ends: list[int]


class Ended(NamedTuple):
    """A collection is complete, and its CRC was right."""

    name: Namespace


Event = Prelude | Documents | Ended


def has_raw_data(server_version: str) -> bool:
    """Tells whether a server of that version keeps time series under their own names."""
    return version_tuple(server_version) >= (8, 3, 0)


def version_tuple(text: str) -> tuple[int, int, int]:
    """Returns (7, 0, 14) for 7.0.14-rc1; zeros for what is no version."""
    match = _NEEDED.match(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def is_special(name: Namespace) -> bool:
    """Tells whether a collection holds users, roles or their version: mongorestore wants these first."""
    plain = name.collection.removeprefix(OF_ADMIN)
    return plain in (USERS, ROLES, AUTH_VERSION) and (name.database == "admin" or plain != name.collection)


def crc64(data: bytes | memoryview, crc: int = 0) -> int:
    """Returns CRC-64/XZ, which Go calls ECMA, of what `crc` covered and `data`."""
    from fastcrc import crc64 as crcs  # noqa: PLC0415 -- an optional package, loaded when it is needed

    return int(crcs.xz(bytes(data) if isinstance(data, memoryview) else data, crc))


def encoded_prelude(prelude: Prelude) -> bytes:
    header = {
        "concurrent_collections": prelude.concurrent_collections,
        "version": FORMAT_VERSION,
        "server_version": prelude.server_version,
        "tool_version": prelude.tool_version,
    }
    listed = [
        {"db": one.name.database, "collection": one.name.collection, "metadata": one.metadata, "size": 0}
        | {"type": one.type}
        for one in prelude.collections
    ]
    return b"".join([MAGIC, *map(_encode, [header, *listed]), TERMINATOR])


def encoded_header(name: Namespace) -> bytes:
    """Returns what comes before a collection's documents."""
    return _encode_header(name, crc=0, end=False)


def encoded_end(name: Namespace, crc: int) -> bytes:
    """Returns what comes after a collection's documents, whose block it ends."""
    return TERMINATOR + _encode_header(name, crc=crc, end=True) + TERMINATOR


def _encode_header(name: Namespace, *, crc: int, end: bool) -> bytes:
    from bson import Int64  # noqa: PLC0415 -- an optional package, loaded when it is needed

    signed = crc - (1 << 64) if crc >> 63 else crc
    return _encode({"db": name.database, "collection": name.collection, "EOF": end, "CRC": Int64(signed)})


def _encode(document: dict[str, Any]) -> bytes:
    import bson  # noqa: PLC0415 -- see above

    return bson.encode(document)


@dataclass
class _Open:
    crc: int = 0


@dataclass
class ArchiveReader:
    """Reads an archive as it comes: `feed` every chunk, then `finish`. Both raise IntegrityError.

    It is as strict as mongorestore's own reader: order, lengths, last bytes, a CRC and an end for every collection.
    """

    prelude: Prelude | None = None
    _rest: bytes = b""
    _offset: int = 0
    _in_block: bool = False
    _header: dict[str, Any] | None = None
    _listed: list[Listed] = field(default_factory=list)
    _current: Namespace | None = None
    _names: dict[Namespace, Listed] = field(default_factory=dict)
    _open: dict[Namespace, _Open] = field(default_factory=dict)
    _ended: set[Namespace] = field(default_factory=set)

    def feed(self, chunk: bytes | memoryview) -> Iterator[Event]:
        data = self._rest + bytes(chunk) if self._rest else bytes(chunk)
        view = memoryview(data)
        position = self._after_magic(data)
        while True:
            start = position
            position, ends, at_end = self._run(view, position)
            if ends:
                yield from self._documents(view[start:position], [end - start for end in ends])
            if at_end:
                position += len(TERMINATOR)
                yield from self._end_block()
            elif not ends:
                break
        self._rest = data[position:]
        self._offset += position

    def finish(self) -> None:
        """Called after the last chunk: raises unless the archive ended where one may end."""
        if self._rest or self._in_block or self.prelude is None:
            raise self._damaged("it ends in the middle")
        if missing := [str(name) for name in self._names if name not in self._ended]:
            raise self._damaged(f"the end of {', '.join(missing[:3])} is missing ({len(missing)} in all)")

    def _after_magic(self, data: bytes) -> int:
        if self._offset or len(data) < len(MAGIC):
            return 0
        if not data.startswith(MAGIC):
            raise IntegrityError("this is not a mongodump archive: its first bytes are others")
        return len(MAGIC)

    def _run(self, view: memoryview, position: int) -> tuple[int, list[int], bool]:
        """Returns the offset behind the whole documents from `position`, all their ends, and whether a block ends.

        Outside of a block's documents, where each one means something, it stops after one.
        """
        ends: list[int] = []
        if not self._offset and len(view) < len(MAGIC):
            return position, ends, False
        limit, unpack, single = len(view), _LENGTH.unpack_from, not self._in_block
        while position + 4 <= limit:
            (size,) = unpack(view, position)
            end = position + size
            if not _MIN_DOCUMENT_BYTES <= size <= MAX_DOCUMENT_BYTES:
                if size == _END:
                    return position, ends, True
                raise self._damaged(f"{size} is no document's length", position)
            if end > limit:
                break
            if view[end - 1]:
                raise self._damaged("a document does not end with a zero byte", position)
            ends.append(end)
            position = end
            if single:
                break
        return position, ends, False

    def _documents(self, run: memoryview, ends: list[int]) -> Iterator[Event]:
        if not self._in_block:
            self._in_block = True
            self._begin_block(_decoded(run))
            return
        if self.prelude is None:
            starts = [0, *ends]
            self._listed += [_listed(_decoded(run[start:end])) for start, end in zip(starts, ends, strict=False)]
            return
        if self._current is None:
            raise self._damaged("documents stand behind a collection's end")
        opened = self._open[self._current]
        opened.crc = crc64(run, opened.crc)
        yield Documents(self._current, run, ends)

    def _begin_block(self, header: dict[str, Any]) -> None:
        if self._header is None:
            self._header = header
            return
        name, end, crc = _header_of(header)
        if name not in self._names:
            raise self._damaged(f"{name} is not in the archive's list of collections")
        if name in self._ended:
            raise self._damaged(f"{name} goes on behind its end")
        opened = self._open.setdefault(name, _Open())
        self._current = name
        if end:
            if opened.crc != crc:
                raise self._damaged(f"the CRC of {name} is {opened.crc:016x}, not {crc:016x}")
            self._ended.add(name)
            self._current = None

    def _end_block(self) -> Iterator[Event]:
        if not self._in_block:
            raise self._damaged("a block has no header")
        self._in_block = False
        if self.prelude is None:
            self.prelude = _prelude(self._header or {}, self._listed)
            self._names = self.prelude.data_names()
            yield self.prelude
        elif self._current is None:
            yield from self._take_ended()

    def _take_ended(self) -> Iterator[Event]:
        for name in [name for name in self._open if name in self._ended]:
            del self._open[name]
            yield Ended(name)

    def _damaged(self, what: str, position: int = 0) -> IntegrityError:
        return IntegrityError(f"the archive is damaged: {what} (near byte {self._offset + position})")


def _decoded(data: memoryview) -> dict[str, Any]:
    import bson  # noqa: PLC0415 -- an optional package, loaded when it is needed
    from bson.errors import BSONError  # noqa: PLC0415 -- see above

    try:
        return bson.decode(bytes(data))
    except (BSONError, ValueError) as error:
        raise IntegrityError(f"the archive is damaged: a header cannot be read ({error})") from error


def _prelude(header: dict[str, Any], listed: list[Listed]) -> Prelude:
    version, concurrent = header.get("version"), header.get("concurrent_collections")
    if version != FORMAT_VERSION:
        raise IntegrityError(f"the archive has format {version!r}, and only {FORMAT_VERSION} is known")
    return Prelude(
        server_version=str(header.get("server_version", "")),
        tool_version=str(header.get("tool_version", "")),
        collections=tuple(listed),
        concurrent_collections=concurrent if isinstance(concurrent, int) else 1,
    )


def _listed(document: dict[str, Any]) -> Listed:
    database, collection, metadata, kind = (document.get(key, "") for key in ("db", "collection", "metadata", "type"))
    if not all(isinstance(text, str) for text in (database, collection, metadata, kind)) or not collection:
        raise IntegrityError("the archive is damaged: its list of collections cannot be read")
    return Listed(Namespace(database, collection), metadata, kind)


def _header_of(document: dict[str, Any]) -> tuple[Namespace, bool, int]:
    values = tuple(document.get(key) for key in _HEADER_TYPES)
    fits = all(isinstance(value, kind) for value, kind in zip(values, _HEADER_TYPES.values(), strict=True))
    if set(document) != set(_HEADER_TYPES) or not fits or not values[1]:
        raise IntegrityError("the archive is damaged: a block's header cannot be read")
    database, collection, end, crc = values
    return Namespace(str(database), str(collection)), bool(end), int(crc or 0) & ((1 << 64) - 1)
