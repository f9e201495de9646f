"""MongoDB on its way out without mongodump: batches of raw BSON, as the server sends them, in mongodump's format."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from dataguardian.domain.errors import DumpFailedError
from dataguardian.engines.mongodb import archive
from dataguardian.engines.mongodb.archive import BUCKETS, KIND, OF_ADMIN, Listed, Namespace, Prelude
from dataguardian.engines.mongodb.batches import Moment
from dataguardian.engines.mongodb.metadata import Metadata, as_json
from dataguardian.engines.mongodb.names import is_ours
from dataguardian.engines.mongodb.server import NOT_ALLOWED, SNAPSHOT_TOO_OLD, Link, Server

_SPECIAL = (archive.USERS, archive.ROLES, archive.AUTH_VERSION)
_UNREADABLE_AT_A_MOMENT = frozenset({20, 72, 246, 263})
"""What servers say of a collection that cannot be read with a snapshot: capped ones, and ones made a moment ago."""


@dataclass(frozen=True)
class Content:
    """What the dump of a database holds: `users` tells whether it has users or roles of its own."""

    prelude: Prelude
    users: bool
    warnings: list[str] = field(default_factory=list)


def content_of(link: Link, database: str) -> Content:
    """Looks at everything that a dump of the database will hold, before its first byte."""
    warnings: list[str] = []
    infos = [info for info in link.collections(database) if is_dumped(database, str(info["name"]))]
    special = _special(link, database, warnings)
    listed = special + [
        _listed(link, database, info) for info in infos if _name_of(database, info) not in special_names(special)
    ]
    listed.sort(key=lambda one: not archive.is_special(one.name))
    prelude = Prelude(_version_for_mongorestore(link.version), _tool_version(), tuple(listed))
    return Content(prelude, bool(special), warnings)


def gone_meanwhile(server: Server, link: Link, prelude: Prelude, database: str) -> list[str]:
    """Returns a warning for each collection that was there when a dump began and is not when it ends."""
    with server.translated(DumpFailedError, f"database {database!r}"):
        names = {_name_of(database, info) for info in link.collections(database)}
    listed = [one.name for one in prelude.collections if not archive.is_special(one.name)]
    return [f"{name} was dropped or renamed while it was dumped" for name in listed if name not in names]


def is_dumped(database: str, collection: str) -> bool:
    """Tells whether a collection belongs into a dump, by the rules of mongodump and without what restores leave."""
    if collection.startswith("system."):
        return collection == "system.js" or (database == "admin" and collection in _SPECIAL)
    return "$" not in collection and not is_ours(collection)


def special_names(special: list[Listed]) -> set[Namespace]:
    return {one.name for one in special}


def restore_by_hand(database: str, *, users: bool) -> list[str]:
    """Returns the stock commands. mongorestore goes on behind a document that was refused, unless it keeps the order;
    the rest of its defaults would restore less than was there.
    """
    command = "mongorestore --archive --maintainInsertionOrder --bypassDocumentValidation"
    with_users = f"{command} {shlex.quote(f'--db={database}')} --restoreDbUsersAndRoles"
    return [command, with_users] if users and database != "admin" else [command]


def _name_of(database: str, info: dict[str, Any]) -> Namespace:
    return Namespace(database, str(info["name"]))


def _version_for_mongorestore(version: str) -> str:
    """Mongorestore wants three numbers."""
    return version if archive.version_tuple(version) != (0, 0, 0) else "0.0.0"


def _tool_version() -> str:
    return f"dataguardian {importlib.metadata.version('dataguardian')}"


def _listed(link: Link, database: str, info: dict[str, Any]) -> Listed:
    name, kind = str(info["name"]), str(info.get("type", ""))
    indexes = () if kind == "view" else tuple(link.indexes(_name_of(database, info)))
    identity = (info.get("info") or {}).get("uuid")
    metadata = Metadata(
        options=dict(info.get("options") or {}),
        indexes=indexes,
        uuid=bytes(identity).hex() if identity is not None else "",
        collection=name,
        type=kind,
    )
    return Listed(Namespace(database, name), as_json(metadata), kind)


def _special(link: Link, database: str, warnings: list[str]) -> list[Listed]:
    """Returns users and roles of a database other than admin, which holds them all; none when there are none."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    if database == "admin":
        return []
    admin = link.database("admin")
    try:
        found = any(admin[name].find_one({"db": database}, projection=["_id"]) for name in _SPECIAL[:2])
    except OperationFailure as error:
        if error.code != NOT_ALLOWED:
            raise
        warnings.append("its users and roles are not in the backup: reading them needs the role backup")
        return []
    return [Listed(Namespace(database, OF_ADMIN + name)) for name in _SPECIAL] if found else []


class DriverDump:
    """One database as an archive. All of it is of one `moment`; None where the server has no snapshots."""

    kind = KIND

    def __init__(self, server: Server, link: Link, database: str, moment: Moment | None) -> None:
        self.name = database
        self._server, self._link, self._moment = server, link, moment
        with server.translated(DumpFailedError, f"database {database!r}"):
            self._content = content_of(link, database)
            self.size_hint_bytes: int | None = size_of(link, database)
        self.restore_by_hand = restore_by_hand(database, users=self._content.users)
        self.metadata = {"server_version": link.version, "dumped_with": "driver", "tool_version": _tool_version()}
        self.warnings = list(self._content.warnings)
        self._pieces = self._written()
        self._rest = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pieces.close()

    def readinto(self, buffer: memoryview) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self) -> None:
        """Says which collections were dropped or renamed meanwhile: the archive may hold less than all of them."""
        self.warnings += gone_meanwhile(self._server, self._link, self._content.prelude, self.name)

    def _written(self) -> Generator[bytes, None, None]:
        prelude = self._content.prelude
        yield archive.encoded_prelude(prelude)
        for listed in prelude.collections:
            name, crc = prelude.data_name(listed), 0
            yield archive.encoded_header(name)
            with self._server.translated(DumpFailedError, f"collection {listed.name}"):
                for batch in () if listed.type == "view" else self._batches(listed, name):
                    crc = archive.crc64(batch, crc)
                    yield batch
            yield archive.encoded_end(name, crc)

    def _batches(self, listed: Listed, name: Namespace) -> Iterator[bytes]:
        if listed.type == "timeseries" and not name.collection.startswith(BUCKETS):
            raise DumpFailedError(
                f"{listed.name} is a time series collection of MongoDB {self._link.version}, which only"
                " mongodump reads",
                hint="install mongodb-database-tools; it is used as soon as it is on PATH",
            )
        place, query = _stored(name)
        if self._moment is not None and not archive.is_special(name):
            yield from self._at_the_moment(place, query)
        else:
            yield from self._now(place, query)

    def _at_the_moment(self, place: Namespace, query: dict[str, Any]) -> Iterator[bytes]:
        from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package

        batches = self._link.raw_batches(place, query, self._moment)
        try:
            first = next(batches, None)
        except OperationFailure as error:
            if error.code not in _UNREADABLE_AT_A_MOMENT or error.code == SNAPSHOT_TOO_OLD:
                raise
            self.warnings.append(f"{place} could not be read as of the backup's moment, and was read a little later")
            yield from self._now(place, query)
            return
        if first is not None:
            yield first
            yield from batches

    def _now(self, place: Namespace, query: dict[str, Any]) -> Iterator[bytes]:
        return self._link.raw_batches(place, query)


def _stored(name: Namespace) -> tuple[Namespace, dict[str, Any]]:
    """Returns where the documents of an archive's namespace really are, and which ones."""
    if not name.collection.startswith(OF_ADMIN):
        return name, {}
    plain = name.collection.removeprefix(OF_ADMIN)
    return Namespace("admin", plain), {} if plain == archive.AUTH_VERSION else {"db": name.database}


def size_of(link: Link, database: str) -> int | None:
    """Returns roughly how big a database's documents are; None where the server does not say."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package

    with suppress(OperationFailure):
        return int(link.command(database, {"dbStats": 1}).get("dataSize") or 0)
    return None


def moment_of(link: Link, read_concern: str | None) -> Moment | None:
    """Returns what makes all reads be of one moment, where the server can and nobody asked for something else."""
    return Moment() if link.has_snapshots and read_concern in (None, "snapshot") else None
