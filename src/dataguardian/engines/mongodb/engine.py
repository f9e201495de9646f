"""The engine: which way a dump goes, what a restore needs before it begins, what a datasource holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dataguardian.domain.errors import DumpFailedError, NotAllowedError, UsageError
from dataguardian.engines.base import (
    DumpOptions,
    DumpStream,
    Engine,
    Inventory,
    ProbeResult,
    RestoreOptions,
    RestoreStream,
    ToolVersion,
    named_databases,
)
from dataguardian.engines.mongodb.archive import KIND
from dataguardian.engines.mongodb.config import MongoConfig
from dataguardian.engines.mongodb.dump import DriverDump, content_of, is_dumped, moment_of
from dataguardian.engines.mongodb.native import MongodumpDump, mongodump_uri
from dataguardian.engines.mongodb.probe import check_exists, missing_privileges, probe
from dataguardian.engines.mongodb.restore import Restoration
from dataguardian.engines.mongodb.server import Server
from dataguardian.engines.mongodb.target import look_at
from dataguardian.engines.mongodb.tlsfiles import key_file, mongodump_can
from dataguardian.engines.mongodb.tools import find_mongodump, needed_mongodump
from dataguardian.engines.network import carried

if TYPE_CHECKING:
    from dataguardian.engines.mongodb.server import Link
    from dataguardian.engines.tools import ToolSet

_NO_MOMENT = (
    "the server is no replica set and has no snapshots: what was written during the dump may be in some collections"
    " and not in others"
)
_MONGODUMP_HAS_NO_MOMENT = (
    "mongodump reads a database's collections one by one: what was written during the dump may be in some and not in"
    " others; dump_with=driver reads all of it at one moment"
)


class MongoEngine(Engine):
    """A database, or all of a server's. `warnings` tells what could not be given back."""

    def __init__(self, config: MongoConfig) -> None:
        self._config = config
        self._server = Server(config)
        self._tools: list[ToolVersion] = []
        self._warnings: list[str] = []

    @property
    def has_databases(self) -> bool:
        return self._config.database is None

    def check(self) -> ProbeResult:
        return probe(self._server, self._config.database)

    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        if options.include or options.exclude:
            raise UsageError("a MongoDB backup takes no --include or --exclude: it is the whole database")
        with self._server.connect(error=DumpFailedError) as link:
            self.server_version = link.version
            names = self._names(link, options)
            tools = self._mongodump()
            yield from self._by_mongodump(link, names, tools) if tools else self._by_driver(link, names)

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        targets = self._targets(list(streams))
        with self._server.connect() as link:
            for name in targets:
                look_at(link, name).check(drop_existing=options.drop_existing)

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        self._warnings.clear()
        Restoration(self._server, self._config.database, options, self._warnings).run(streams)

    @property
    def warnings(self) -> list[str]:
        return list(self._warnings)

    def inventory(self) -> Inventory:
        items: dict[str, int] = {}
        with self._server.connect() as link:
            for database in self._names(link):
                for info in link.collections(database):
                    name = str(info["name"])
                    if is_dumped(database, name) and not name.startswith("system.") and info.get("type") != "view":
                        items[f"{database}.{name}"] = link.database(database)[name].count_documents({})
        return Inventory(items)

    @property
    def tools(self) -> list[ToolVersion]:
        return list(self._tools)

    def _names(self, link: Link, options: DumpOptions | None = None) -> list[str]:
        """Returns the databases that address and options mean; raises NotFoundError or NotAllowedError."""
        wanted = self._config.database
        names = [wanted] if wanted is not None else link.databases()
        if wanted is None and options is not None:
            names = named_databases(names, options, f"the server at {self._server.place}")
        if missing := missing_privileges(link, names):
            raise NotAllowedError(
                f"the user at {self._server.place} lacks {missing[0]}",
                hint="grant it the role read on each database, or backup on admin",
            )
        if wanted is not None:
            check_exists(self._server, link, wanted)
        return names

    def _mongodump(self) -> ToolSet | None:
        """Returns mongodump when it is there, can do what is asked, and nobody asked for the driver."""
        if self._config.dump_with == "driver" or self._config.read_concern == "snapshot":
            return None
        if not mongodump_can(self._config):
            return None
        return needed_mongodump() if self._config.dump_with == "mongodump" else find_mongodump()

    def _by_mongodump(
        self, link: Link, names: list[str], tools: ToolSet
    ) -> Iterator[AbstractContextManager[DumpStream]]:
        self._tools = [ToolVersion("mongodump", tools.version)]
        with key_file(self._config) as key_path:
            uri = mongodump_uri(self._config, link, key_path)
            for name in names:
                dump = MongodumpDump(link, uri, name, tools, content_of(link, name))
                dump.warnings.append(_MONGODUMP_HAS_NO_MOMENT if link.has_snapshots else _NO_MOMENT)
                yield carried(self._config, dump)

    def _by_driver(self, link: Link, names: list[str]) -> Iterator[AbstractContextManager[DumpStream]]:
        import pymongo  # noqa: PLC0415 -- an optional package, loaded when it is needed

        self._tools = [ToolVersion("pymongo", pymongo.version)]
        moment = moment_of(link, self._config.read_concern)
        for name in names:
            dump = DriverDump(self._server, link, name, moment)
            dump.warnings += [] if moment is not None else [_NO_MOMENT]
            yield carried(self._config, dump)

    def _targets(self, streams: list[tuple[str, str]]) -> list[str]:
        """Returns the databases that the streams would become; raises UsageError when they do not fit the address."""
        if others := [f"{name} ({kind})" for name, kind in streams if kind != KIND]:
            raise UsageError(f"{', '.join(others)}: this backup is not one of MongoDB")
        if self._config.database is None:
            return [name for name, _ in streams]
        if len(streams) != 1:
            raise UsageError(
                f"{self._config.describe()} is one database, and {len(streams)} streams were chosen",
                hint="choose one database with --stream NAME, or restore to an address without a database",
            )
        return [self._config.database]
