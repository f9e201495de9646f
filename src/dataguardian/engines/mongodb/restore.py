"""MongoDB on its way back: collections are loaded and indexed under temporary names in their database, and renamed at
the end. A rename inside one database is done in an instant; between databases it would be a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dataguardian.domain.errors import DataGuardianError, NotAllowedError, RestoreFailedError, UsageError
from dataguardian.engines.base import RestoreOptions, RestoreStream
from dataguardian.engines.mongodb import archive
from dataguardian.engines.mongodb.archive import (
    BUCKETS,
    OF_ADMIN,
    ArchiveReader,
    Documents,
    Ended,
    Listed,
    Namespace,
    Prelude,
    has_raw_data,
)
from dataguardian.engines.mongodb.create import create, create_indexes
from dataguardian.engines.mongodb.durable import wait_until_durable
from dataguardian.engines.mongodb.load import Loader
from dataguardian.engines.mongodb.metadata import Metadata, from_json
from dataguardian.engines.mongodb.move import drop, exists
from dataguardian.engines.mongodb.names import Names
from dataguardian.engines.mongodb.server import Link, Server
from dataguardian.engines.mongodb.swap import Beside, Swap, Undo
from dataguardian.engines.mongodb.target import Target, look_at
from dataguardian.engines.mongodb.users import Users
from dataguardian.interruption import undoing

OPLOG = Namespace("", "oplog")
_SCRIPTS = "system.js"
_HELD_BYTES = 256 << 20
"""Of users, roles and stored functions, which wait in memory for the swap."""


@dataclass
class _Arriving:
    """One collection of an archive on its way. `loader` is None for a view."""

    listed: Listed
    metadata: Metadata
    target: Namespace
    temporary: Namespace
    loader: Loader | None


@dataclass
class Restoration:
    """One restore into `server`. `database` None: every one keeps its name. `warnings` is filled on the way."""

    server: Server
    database: str | None
    options: RestoreOptions
    warnings: list[str] = field(default_factory=list)
    _names: Names = field(default_factory=Names)
    _arriving: dict[Namespace, _Arriving] = field(default_factory=dict)
    _ready: list[Beside] = field(default_factory=list)
    _undo: Undo = field(default_factory=Undo)
    _in_place: set[Namespace] = field(default_factory=set)
    _held: dict[Namespace, list[bytes]] = field(default_factory=dict)
    _held_bytes: int = 0
    _oplog_entries: int = 0
    _databases: dict[str, str] = field(default_factory=dict)

    def run(self, streams: Iterator[RestoreStream]) -> None:
        try:
            with self.server.connect(error=RestoreFailedError) as link:
                for stream in streams:
                    self._restore(link, stream)
                self._swap(link)
        except BaseException as error:
            with undoing():
                self._leave_as_found(error)
            raise

    def _restore(self, link: Link, stream: RestoreStream) -> None:
        reader = ArchiveReader()
        with self.server.translated(RestoreFailedError, f"database {stream.name!r}"):
            for chunk in stream.chunks():
                for event in reader.feed(chunk):
                    self._take(link, event)
            reader.finish()

    def _take(self, link: Link, event: archive.Event) -> None:
        if isinstance(event, Prelude):
            self._begin(link, event)
        elif isinstance(event, Documents):
            self._take_documents(event)
        else:
            self._end(link, event)

    def _begin(self, link: Link, prelude: Prelude) -> None:
        """Makes every collection of the archive beside its target."""
        listed_names = prelude.data_names()
        for name in sorted({name.database for name in listed_names if is_restored(name)}):
            self._begin_database(link, name)
        if prelude.server_version and _series(prelude.server_version) != _series(link.version):
            self.warnings.append(
                f"the backup is of MongoDB {prelude.server_version}, and was restored into {link.version}"
            )
        for data_name, listed in listed_names.items():
            if archive.is_special(data_name) or data_name.collection == _SCRIPTS:
                self._held.setdefault(data_name, [])
            elif is_restored(data_name):
                self._arriving[data_name] = self._arrival(link, listed)

    def _begin_database(self, link: Link, name: str) -> None:
        target_name = self.database or name
        if target_name in self._databases.values():
            raise UsageError(
                f"the chosen streams hold several databases, and {self.server.config.describe()} is one",
                hint="choose one with --stream NAME, or restore to an address without a database",
            )
        target = look_at(link, target_name)
        target.check(drop_existing=self.options.drop_existing)
        self.warnings += target.warnings()
        self._databases[name] = target_name

    def _arrival(self, link: Link, listed: Listed) -> _Arriving:
        metadata = from_json(listed.metadata)
        target = Namespace(self._databases[listed.name.database], listed.name.collection)
        if "timeseries" in metadata.options:
            return self._time_series(link, listed, metadata, target)
        temporary = Namespace(target.database, self._names.new())
        self._undo.drops(temporary)
        create(link, temporary, metadata, shown_as=target)
        is_view = "viewOn" in metadata.options
        if not is_view:
            self._ready.append(Beside(target, temporary, metadata.options))
        loader = None if is_view else Loader(link, temporary, target)
        return _Arriving(listed, metadata, target, temporary, loader)

    def _time_series(self, link: Link, listed: Listed, metadata: Metadata, target: Namespace) -> _Arriving:
        """Time series cannot be renamed, so they are made under their own names, which nothing may have."""
        if exists(link, target):
            raise NotAllowedError(
                f"{target} is a time series in the backup, which can only be made where nothing has its name",
                hint="restore into another database, or drop that collection yourself",
            )
        self._undo.drops(target)
        self._in_place.add(target)
        create(link, target, metadata, shown_as=target)
        in_buckets = not has_raw_data(link.version)
        place = Namespace(target.database, BUCKETS + target.collection) if in_buckets else target
        return _Arriving(listed, metadata, target, target, Loader(link, place, target, is_time_series=True))

    def _take_documents(self, documents: Documents) -> None:
        name = documents.name
        if name == OPLOG:
            self._oplog_entries += len(documents.ends)
        elif name in self._held:
            self._hold(documents)
        elif (arriving := self._arriving.get(name)) and arriving.loader:
            arriving.loader.add(documents)

    def _hold(self, documents: Documents) -> None:
        starts = [0, *documents.ends]
        self._held[documents.name] += [
            bytes(documents.data[start:end]) for start, end in zip(starts, documents.ends, strict=False)
        ]
        self._held_bytes += len(documents.data)
        if self._held_bytes > _HELD_BYTES:
            raise RestoreFailedError(f"{documents.name} is far bigger than users, roles or functions ever are")

    def _end(self, link: Link, ended: Ended) -> None:
        arriving = self._arriving.get(ended.name)
        if arriving is None:
            return
        if arriving.loader is not None:
            arriving.loader.flush()
            self.warnings += create_indexes(link, arriving.temporary, arriving.metadata, shown_as=arriving.target)
        else:
            # The server has accepted the view: it can be made at the end, when what it looks at is there.
            drop(link, arriving.temporary)

    def _swap(self, link: Link) -> None:
        targets = [self._as_it_is_now(link, name) for name in self._databases.values()]
        if self._oplog_entries:
            self.warnings.append(
                f"{self._oplog_entries} writes that mongodump --oplog saw during the dump were not replayed:"
                " collections may be of slightly different moments"
            )
        self.options.before_swap()
        views = {one.target: one.metadata for one in self._arriving.values() if one.loader is None}
        swap = Swap(link, self._names, self._undo)
        for target in targets:
            swap.clear(target)
        swap.put(self._ready, views, self._scripts())
        self._undo.forget()
        self.warnings += Users(link, self._names, self._homes_of_users(), self._held).restore()
        self.warnings += wait_until_durable(link, self._names, self._databases.values())
        self.warnings += swap.remove_replaced()

    def _as_it_is_now(self, link: Link, database: str) -> Target:
        """Looks once more, because loading took its time; what was made in place does not count."""
        own = {name.collection for name in self._in_place if name.database == database}
        target = look_at(link, database).without(own)
        target.check(drop_existing=self.options.drop_existing)
        return target

    def _homes_of_users(self) -> dict[str, str]:
        """Returns the database of the target by that of the backup, also for those that hold nothing but users."""
        homes = {name.database: self.database or name.database for name in self._held if archive.is_special(name)}
        homes |= self._databases
        if self.database not in (None, "admin"):  # an archive of everything, restored into one database
            homes.pop("admin", None)
        return homes

    def _scripts(self) -> dict[str, list[bytes]]:
        """Returns the stored functions by the database that they go to."""
        return {
            self._databases[name.database]: documents
            for name, documents in self._held.items()
            if name.collection == _SCRIPTS
        }

    def _leave_as_found(self, error: BaseException) -> None:
        """Undoes everything over a connection of its own; what cannot be undone is told with the error."""
        if not self._undo.steps:
            return
        try:
            with self.server.connect(error=RestoreFailedError) as link:
                self._undo.run(link, error.add_note)
        except DataGuardianError as trouble:
            error.add_note(f"and undoing the restore failed: {trouble.message}; {self._undo.rest()}")


def is_restored(name: Namespace) -> bool:
    """Tells whether an archive's collection becomes one of the target, and is none of the server's own."""
    is_own = name.collection.startswith("system.") and not name.collection.startswith(BUCKETS)
    return (
        name.database not in ("", "local", "config")
        and (not is_own or name.collection == _SCRIPTS)
        and (not name.collection.startswith(OF_ADMIN))
    )


def _series(version: str) -> tuple[int, int]:
    return archive.version_tuple(version)[:2]
