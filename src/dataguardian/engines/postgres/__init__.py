"""PostgreSQL: `pg_dump` and `pg_restore` of the release that fits the server; a database, or a whole cluster.

A dump's bytes also pass through `pg_restore`, which reads the whole archive, so that a dump that ends well restores. A
restore goes beside the target and is renamed into its place in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import (
    DumpFailedError,
    IntegrityError,
    MissingToolError,
    NotAllowedError,
    UsageError,
)
from dataguardian.engines.base import (
    DumpOptions,
    DumpStream,
    Engine,
    EngineAdapter,
    Inventory,
    ProbeResult,
    RestoreOptions,
    RestoreStream,
    StoredStream,
    ToolVersion,
    named_databases,
    refuse_left_out,
)
from dataguardian.engines.network import carried, reached, within
from dataguardian.engines.postgres.config import PostgresConfig, child_environment
from dataguardian.engines.postgres.dump import TAIL_BYTES, DatabaseDump, GlobalsDump, is_complete_sql
from dataguardian.engines.postgres.load import feed, without_data
from dataguardian.engines.postgres.probe import LIMIT_SECONDS, probe
from dataguardian.engines.postgres.properties import capture
from dataguardian.engines.postgres.restore import Restoration, left_by_restores, major_of
from dataguardian.engines.postgres.selection import databases_of, select
from dataguardian.engines.postgres.server import Server, scalar, version_text
from dataguardian.engines.postgres.target import look_at
from dataguardian.engines.postgres.tools import client_programs, newest_tools, tools_for
from dataguardian.engines.processes import ChildProcess
from dataguardian.engines.tools import ToolSet

if TYPE_CHECKING:
    from dataguardian.engines.postgres.server import Connection

_DATABASES = """
SELECT datname, pg_catalog.has_database_privilege(datname, 'CONNECT') FROM pg_catalog.pg_database
WHERE datallowconn AND datname <> 'template0' AND datconnlimit <> -2 ORDER BY datname
"""
_LEFT_OUT = """
SELECT datname FROM pg_catalog.pg_database
WHERE (NOT datallowconn OR datconnlimit = -2) AND datname <> 'template0' ORDER BY datname
"""
# pg_dumpall knows the settings of roles and of databases, and none of these.
_FOR_EVERY_ROLE = """
SELECT pg_catalog.split_part(setting, '=', 1)
FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) setting
WHERE s.setdatabase = 0 AND s.setrole = 0 ORDER BY 1
"""
_OPENS_READ_ONLY = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase,
    pg_catalog.unnest(s.setconfig) setting WHERE d.datname = pg_catalog.current_database()
    AND pg_catalog.split_part(setting, '=', 1) = 'default_transaction_read_only')
"""
_DUMP_SIZE = """
SELECT coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::bigint FROM pg_catalog.pg_class c
WHERE c.relkind IN ('r', 'm') AND (c.oid >= 16384 OR c.relname = 'pg_largeobject')
"""
_HIDDEN_OPTIONS = """
SELECT count(*) FROM pg_catalog.pg_user_mappings WHERE umoptions IS NULL
AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
"""
_TABLES = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated
AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2
"""


class PostgresEngine(Engine):
    """A database or a cluster. `warnings` tells what could not be given back (an owner's role…)."""

    def __init__(self, config: PostgresConfig) -> None:
        self._warnings: list[str] = []
        self._config = config
        self._server = Server(config)
        self._tools: list[ToolVersion] = []

    @property
    def has_databases(self) -> bool:
        return self._config.database is None

    def check(self) -> ProbeResult:
        return within(LIMIT_SECONDS, lambda: probe(self._server))

    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        with reached(self._config) as endpoint:
            environment = child_environment(self._config, endpoint)
            if self._config.database is not None:
                yield carried(self._config, self._dump_of(self._config.database, environment, options))
                return
            chosen = databases_of(self._databases(options), options)
            refuse_left_out(options, chosen)
            yield carried(self._config, self._dump_of_globals(environment))
            for name, inside in chosen.items():
                yield carried(self._config, self._dump_of(name, environment, inside))

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        targets = self._targets(list(streams))
        with reached(self._config):
            self._prepare(targets, options)

    def _prepare(self, targets: list[str], options: RestoreOptions) -> None:
        avoid = frozenset(targets) if self._config.database is not None else frozenset()
        with self._server.connect(self._server.maintenance_database(avoid)) as connection:
            major, tls = connection.info.server_version // 10000, connection.pgconn.ssl_in_use
            tools_for(major, f"restoring to {self._server.place}", tls=tls)
            for name in targets:
                target = look_at(connection, self._server, name)
                target.check(drop_existing=options.drop_existing)
                if target.in_place and self._config.database is None:
                    raise NotAllowedError(
                        f"the connecting role may not create and rename databases at {self._server.place}",
                        hint="restore a cluster as a superuser",
                    )

    def cautions(self, streams: Sequence[StoredStream]) -> list[str]:
        with self._server.connect(self._server.maintenance_database()) as connection:
            here = connection.info.server_version // 10000
        return [
            f"{stream.name}: dumped from PostgreSQL {there}, and {self._server.place} is release {here}: what only"
            " newer releases know makes the restore fail, and then nothing of it stays"
            for stream in streams
            if (there := major_of(stream.metadata.get("server_version"), here)) > here
        ]

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        self._warnings.clear()
        with reached(self._config):
            Restoration(self._server, self._config.database, options, self._warnings).run(streams)

    @property
    def warnings(self) -> list[str]:
        return list(self._warnings)

    def inventory(self) -> Inventory:
        names = [self._config.database] if self._config.database is not None else self._databases()
        items: dict[str, int] = {}
        with reached(self._config):
            for name in names:
                items |= self._rows_in(name)
        return Inventory(items)

    @property
    def tools(self) -> list[ToolVersion]:
        return list(self._tools)

    def _dump_of(self, name: str, environment: dict[str, str], options: DumpOptions) -> DatabaseDump:
        with self._server.connect(name, error=DumpFailedError) as connection:
            tools = self._meet(connection)
            size_hint_bytes = scalar(connection, _DUMP_SIZE)
            metadata = capture(connection) | self._versions(tools)
            selection = select(connection, options)
            remarks = [*selection.warnings, *_hidden(connection)]
            opens_read_only = scalar(connection, _OPENS_READ_ONLY)
        if selection.schemas:
            metadata["schemas"] = list(selection.schemas)
        return DatabaseDump(
            name,
            tools,
            environment,
            size_hint_bytes=size_hint_bytes,
            metadata=metadata,
            selection=selection,
            remarks=remarks,
            opens_read_only=opens_read_only,
        )

    def _dump_of_globals(self, environment: dict[str, str]) -> GlobalsDump:
        database = self._server.maintenance_database()
        with self._server.connect(database, error=DumpFailedError) as connection:
            tools = self._meet(connection)
            passwords = scalar(connection, "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
            left_out = [row[0] for row in connection.execute(_LEFT_OUT)]
            for_every_role = [row[0] for row in connection.execute(_FOR_EVERY_ROLE)]
            left = left_by_restores(connection)
        dump = GlobalsDump(database, tools, environment, passwords=passwords, metadata=self._versions(tools))
        dump.warnings += [f"database {name!r} admits no connections and is not in the backup" for name in left_out]
        if for_every_role:
            dump.warnings.append(
                f"pg_dumpall leaves out what ALTER ROLE ALL has set: {', '.join(for_every_role)}; set it by hand again"
            )
        dump.warnings += [
            f"database {name!r} looks like one of a restore that was interrupted or has not ended, and is in the backup"
            for name in left
        ]
        return dump

    def _meet(self, connection: Connection) -> ToolSet:
        """Remembers the server's version and returns the clients that fit it."""
        version = connection.info.server_version
        self.server_version = version_text(version)
        what = f"the server at {self._server.place} (release {self.server_version})"
        tools = tools_for(version // 10000, what, tls=connection.pgconn.ssl_in_use)
        names = (
            ("pg_dump", "pg_restore") if self._config.database is not None else ("pg_dump", "pg_restore", "pg_dumpall")
        )
        self._tools = [ToolVersion(name, tools.version) for name in names]
        return tools

    def _versions(self, tools: ToolSet) -> dict[str, str]:
        return {"server_version": self.server_version, "client_version": tools.version}

    def _databases(self, options: DumpOptions | None = None) -> list[str]:
        """Raises NotAllowedError for one of those that `options` choose, if it may not be connected to."""
        with self._server.connect(self._server.maintenance_database(), error=DumpFailedError) as connection:
            rows = connection.execute(_DATABASES).fetchall()
        options = options or DumpOptions()
        names = named_databases([name for name, _ in rows], options, f"the server at {self._server.place}")
        wanted = databases_of(names, options)
        for name, may_connect in rows:
            if not may_connect and name in wanted:
                raise NotAllowedError(
                    f"the connecting role may not connect to database {name!r} at {self._server.place}",
                    hint="back up a cluster as a superuser, or each database by its own address",
                )
        return names

    def _targets(self, streams: list[tuple[str, str]]) -> list[str]:
        """Returns the databases that the streams would become; raises UsageError when they do not fit the address."""
        databases = [name for name, kind in streams if kind == "pgdump"]
        others = [f"{name} ({kind})" for name, kind in streams if kind != "pgdump"]
        if self._config.database is not None:
            if len(databases) != 1 or others:
                raise UsageError(
                    f"{self._config.describe()} is one database, and {len(streams)} streams were chosen",
                    hint="choose one database with --stream NAME, or restore to an address without a database",
                )
            return [self._config.database]
        if any(kind not in ("pgdump", "sql") for _, kind in streams) or len(others) > 1:
            raise UsageError(f"{', '.join(others)}: this backup is not one of a PostgreSQL cluster")
        return databases

    def _rows_in(self, database: str) -> dict[str, int]:
        from psycopg import IsolationLevel, sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        count = sql.SQL("SELECT count(*) FROM ONLY {}")
        with self._server.connect(database) as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                tables = connection.execute(_TABLES).fetchall()
                rows = [
                    (table, connection.execute(count.format(sql.Identifier(*table))).fetchone()) for table in tables
                ]
        return {f"{database}.{schema}.{table}": row[0] for (schema, table), row in rows if row}


def _hidden(connection: Connection) -> list[str]:
    """Returns what pg_dump leaves out without a word, because the connecting role may not see it."""
    count = scalar(connection, _HIDDEN_OPTIONS)
    return [f"the options of {count} user mappings may be missing, as only a superuser may read them"] if count else []


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:
    """Reads a whole archive or script without a server; raises IntegrityError when it would not restore."""
    if kind == "sql":
        _validate_sql(chunks)
        return
    if kind != "pgdump":
        raise IntegrityError(f"a PostgreSQL backup has no streams of kind {kind!r}")
    # Programs of the release that wrote the archive, or newer ones, can read it.
    writer = str(metadata.get("client_version", "")).partition(".")[0]
    tools = tools_for(int(writer), "checking an archive") if writer.isdigit() else newest_tools("checking an archive")
    argv = [tools.path("pg_restore"), "--file=/dev/null"]
    with ChildProcess(argv, stdin=True, stdbuf=True) as child:
        feed(child, chunks)
        if child.wait() == 0:
            return
        text = without_data(child.stderr_text)
    if "unsupported version" in text:
        raise MissingToolError(f"the archive is newer than the clients here: {text}", hint="install newer ones")
    raise IntegrityError(f"pg_restore cannot read the archive: {text}")


def _validate_sql(chunks: Iterator[bytes]) -> None:
    tail = b""
    for chunk in chunks:
        tail = (tail + chunk[-TAIL_BYTES:])[-TAIL_BYTES:]
    if not is_complete_sql(tail):
        raise IntegrityError("the script of roles and tablespaces is not complete: its last line is missing")


ADAPTER = EngineAdapter(
    type="postgres",
    schemes=("postgresql", "postgres"),
    example="postgresql://user@host:5432/database",
    config=PostgresConfig,
    build=PostgresEngine,
    package="psycopg",
    validate=validate,
    programs=client_programs,
)
