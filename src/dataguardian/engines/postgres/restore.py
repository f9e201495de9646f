"""PostgreSQL on its way back: restored beside, renamed into place in one transaction, undone on any error."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import (
    DataGuardianError,
    RestoreFailedError,
    TargetInUseError,
    UsageError,
)
from dataguardian.engines.base import RestoreOptions, RestoreStream
from dataguardian.engines.network import reached
from dataguardian.engines.postgres import properties
from dataguardian.engines.postgres.config import MAX_NAME_BYTES, child_environment
from dataguardian.engines.postgres.globals import Globals
from dataguardian.engines.postgres.load import Load
from dataguardian.engines.postgres.server import Server, scalar
from dataguardian.engines.postgres.settings import Head, Setting
from dataguardian.engines.postgres.target import Target, look_at
from dataguardian.engines.postgres.tools import tools_for
from dataguardian.engines.tools import ToolSet
from dataguardian.interruption import undoing

if TYPE_CHECKING:
    from dataguardian.engines.postgres.server import Connection

_END_SESSIONS_SECONDS = 15.0
_TERMINATE = """
SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid()
"""
_LOOK_ANEW = "SELECT pg_catalog.pg_stat_clear_snapshot()"


@dataclass
class _Beside:
    """A database restored under a temporary name, waiting for the swap."""

    target: Target
    temporary: str
    old: str


@dataclass(frozen=True)
class _Tools:
    """The clients that read an archive, and whether they are of a newer release than the server."""

    clients: ToolSet
    are_newer: bool


@dataclass
class Restoration:
    """One restore into `server`. `database` None means the cluster. `warnings` is filled on the way."""

    server: Server
    database: str | None
    options: RestoreOptions
    warnings: list[str] = field(default_factory=list)
    _ready: list[_Beside] = field(default_factory=list)
    _globals: Globals | None = None
    _helper: str | None = None

    def run(self, streams: Iterator[RestoreStream]) -> None:
        try:
            self._start()
            for stream in streams:
                self._restore(stream, streams)
            if self._ready:
                self._swap()
        except BaseException as error:
            with undoing():
                self._undo(error)
            raise
        self._finish()

    @property
    def _work_database(self) -> str:
        if self._helper is not None:
            return self._helper
        return self.server.maintenance_database(frozenset({self.database} if self.database else ()))

    def _connect(self, database: str | None = None) -> contextlib.AbstractContextManager[Connection]:
        return self.server.connect(database or self._work_database, error=RestoreFailedError)

    def _start(self) -> None:
        """A cluster's restore also renames `postgres` and template1, so it works from a database of its own."""
        if self.database is None:
            name = _temporary_name("dataguardian", "dg")
            with self._connect() as connection:
                self._helper = name
                properties.create_database(connection, name, {})

    def _restore(self, stream: RestoreStream, rest: Iterator[RestoreStream]) -> None:
        if stream.kind == "sql" and self.database is None:
            self._globals = Globals(self.server, self._work_database)
            self.warnings += self._globals.apply(stream.chunks())
            return
        if stream.kind != "pgdump" or (self.database is not None and self._ready):
            raise UsageError(f"stream {stream.name!r} ({stream.kind}) cannot be restored here")
        name = self.database or stream.name
        with self._connect() as connection:
            target = look_at(connection, self.server, name)
            tools = _tools_for(stream, connection)
            target.check(drop_existing=self.options.drop_existing)
            beside = None if target.in_place else self._make_beside(connection, stream, target)
        if beside is None:
            self._restore_in_place(stream, rest, tools)
        else:
            self._restore_beside(stream, beside, tools)

    def _restore_in_place(self, stream: RestoreStream, rest: Iterator[RestoreStream], tools: _Tools) -> None:
        """For a role that may not create databases: all or nothing in one transaction."""
        chunks = _with_last_one_held_back(stream.chunks(), rest, self.options.before_swap)
        with self._connect(self.database) as connection:
            made = properties.create_schemas(connection, stream.metadata)
        try:
            self._load(stream, str(self.database), chunks, tools, one_transaction=True)
        except BaseException as error:
            told = self._told(error.add_note, "removing new schemas")
            with undoing(), told, self._connect(self.database) as connection:
                properties.drop_schemas(connection, made)
            raise

    def _make_beside(self, connection: Connection, stream: RestoreStream, target: Target) -> _Beside:
        beside = _Beside(target, _temporary_name(target.name, "dg"), _temporary_name(target.name, "old"))
        self._ready.append(beside)
        self._name_leftovers(connection, target.name)
        properties.create_database(connection, beside.temporary, stream.metadata)
        properties.hasten(connection, beside.temporary)
        return beside

    def _restore_beside(self, stream: RestoreStream, beside: _Beside, tools: _Tools) -> None:
        if not properties.fits_as_created(stream.metadata):
            with self._connect(beside.temporary) as connection:
                properties.empty_out(connection, stream.metadata)
                properties.create_schemas(connection, stream.metadata)
        head = Head()
        chunks = head.keep(stream.chunks()) if stream.metadata.get("settings") else stream.chunks()
        self._load(stream, beside.temporary, chunks, tools)
        self._give_properties(stream, beside, head, tools)

    def _name_leftovers(self, connection: Connection, name: str) -> None:
        ours = {self._helper, *(beside.temporary for beside in self._ready)}
        beginnings = _beginning(name, "dg"), _beginning(name, "old")
        self.warnings += [
            f"an interrupted restore left the database {left!r}; drop it when no restore is running"
            for left in left_by_restores(connection)
            if left.startswith(beginnings) and left not in ours
        ]

    def _give_properties(self, stream: RestoreStream, beside: _Beside, head: Head, tools: _Tools) -> None:
        """Owner, privileges, settings; by way of a first connection to what was restored."""
        settings: list[Setting] = []
        with self._connect(beside.temporary) as connection:
            scalar(connection, "SELECT count(*) FROM pg_catalog.pg_class")
            if stream.metadata.get("settings"):
                connection.execute("SELECT set_config('client_encoding', %s, false)", (stream.metadata["encoding"],))
                settings = head.settings(tools.clients, connection.info.encoding)
        if len(settings) == 0 < int(stream.metadata.get("settings") or 0):
            self.warnings.append(f"{beside.target.name}: the settings of the database could not be read")
        keeps_owner = self.database is not None and beside.target.exists and beside.target.empty
        owner = beside.target.owner if keeps_owner else stream.metadata.get("owner")
        with self._connect() as connection:
            properties.slacken(connection, beside.temporary)
            self.warnings += [
                warning.replace(beside.temporary, beside.target.name)
                for warning in properties.apply(
                    connection, beside.temporary, stream.metadata, owner=owner, settings=settings
                )
            ]

    def _load(
        self,
        stream: RestoreStream,
        database: str,
        chunks: Iterable[bytes],
        tools: _Tools,
        *,
        one_transaction: bool = False,
    ) -> None:
        with reached(self.server.config) as endpoint:
            load = Load(
                stream=stream.name,
                database=database,
                shown_as=self.database or stream.name,
                tools=tools.clients,
                environment=child_environment(self.server.config, endpoint),
                one_transaction=one_transaction,
            )
            (load.by_script if tools.are_newer else load.directly)(chunks)

    def _swap(self) -> None:
        """Renames everything in one transaction: either all databases are the restored ones, or none is, also when
        this process or the server is killed half-way.
        """
        with self._connect() as connection, connection.transaction():
            for beside in self._ready:
                if beside.target.exists:
                    self._rename_away(connection, beside)
                _rename(connection, beside.temporary, beside.target.name)
            self.options.before_swap()

    def _existing(self) -> list[_Beside]:
        return [beside for beside in self._ready if beside.target.exists]

    def _rename_away(self, connection: Connection, beside: _Beside) -> None:
        """Renames the target as soon as its sessions have ended, and ends them if allowed; raises TargetInUseError.

        A rename waits up to five seconds for them, and from its first moment until the transaction ends the server
        lets nobody new in.
        """
        import psycopg  # noqa: PLC0415 -- an optional package, loaded when it is needed

        name = beside.target.name
        limit = time.monotonic() + (_END_SESSIONS_SECONDS if self.options.drop_existing else 0)
        while True:
            if self.options.drop_existing:
                connection.execute(_LOOK_ANEW)
                scalar(connection, _TERMINATE, name)
            try:
                with connection.transaction():
                    _rename(connection, name, beside.old)
            except psycopg.errors.ObjectInUse as error:
                if time.monotonic() > limit:
                    raise TargetInUseError(
                        f"somebody works with database {name!r} at {self.server.place}",
                        hint="end the sessions, or give --drop-existing, which ends them",
                    ) from error
            else:
                return

    def _undo(self, error: BaseException) -> None:
        """Leaves the server as it was found; what cannot be undone is told with the error."""
        with self._told(error.add_note, "undoing the restore"), self._connect() as connection:
            for beside in self._ready:
                with self._told(error.add_note, f"removing database {beside.temporary!r}"):
                    _drop(connection, beside.temporary)
            if self._globals:
                with self._told(error.add_note, "removing new roles and tablespaces"):
                    self._globals.undo(connection)
        self._drop_helper(error.add_note)

    def _finish(self) -> None:
        warn = self.warnings.append
        if replaced := self._existing():
            with self._told(warn, "removing what was replaced"), self._connect() as connection:
                for beside in replaced:
                    with self._told(warn, f"removing the replaced database, now named {beside.old!r}"):
                        _drop(connection, beside.old)
        self._drop_helper(warn)

    def _drop_helper(self, tell: Callable[[str], None]) -> None:
        helper, self._helper = self._helper, None
        if helper:
            with self._told(tell, f"removing database {helper!r}"), self._connect() as connection:
                _drop(connection, helper)

    @staticmethod
    @contextlib.contextmanager
    def _told(tell: Callable[[str], None], what: str) -> Iterator[None]:
        """Tells of errors in `what` instead of raising them."""
        import psycopg  # noqa: PLC0415 -- an optional package, loaded when it is needed

        try:
            yield
        except psycopg.Error as error:
            tell(f"{what} failed: {error.diag.message_primary or type(error).__name__}")
        except DataGuardianError as error:
            tell(f"{what} failed: {error.message}")


def _with_last_one_held_back(
    chunks: Iterator[bytes], rest: Iterator[RestoreStream], before_swap: Callable[[], None]
) -> Iterator[bytes]:
    """pg_restore commits as soon as it has read the archive's last block, so that comes only when all is known
    to be sound.
    """
    last = b""
    for chunk in chunks:
        if last:
            yield last
        last = chunk
    for stream in rest:
        raise UsageError(f"stream {stream.name!r} cannot be restored here")
    before_swap()
    yield last


def _tools_for(stream: RestoreStream, connection: Connection) -> _Tools:
    """Returns clients that can read the stream's archive and speak to the server."""
    server_major = connection.info.server_version // 10000
    client = major_of(stream.metadata.get("client_version"), server_major)
    tls = connection.pgconn.ssl_in_use
    clients = tools_for(max(client, server_major), f"restoring {stream.name!r}", tls=tls)
    return _Tools(clients, are_newer=clients.major > server_major)


def major_of(version: Any, default: int) -> int:  # noqa: ANN401 -- a manifest may hold anything
    digits = re.match(r"\d+", str(version or ""))
    return int(digits[0]) if digits else default


def left_by_restores(connection: Connection) -> list[str]:
    """Returns databases of restores that were killed, or that have not ended: their names cannot tell which."""
    query = "SELECT datname FROM pg_catalog.pg_database WHERE datname ~ '_(dg|old)_[0-9a-f]{8}$' ORDER BY datname"
    return [str(row[0]) for row in connection.execute(query)]


def _temporary_name(name: str, mark: str) -> str:
    return _beginning(name, mark) + os.urandom(4).hex()


def _beginning(name: str, mark: str) -> str:
    suffix = f"_{mark}_"
    return name.encode()[: MAX_NAME_BYTES - len(suffix) - 2 * 4].decode(errors="ignore") + suffix


def _rename(connection: Connection, name: str, new_name: str) -> None:
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    connection.execute(rename.format(sql.Identifier(name), sql.Identifier(new_name)))


def _alter(connection: Connection, name: str, what: str) -> None:
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    connection.execute(sql.SQL("ALTER DATABASE {} {}").format(sql.Identifier(name), sql.SQL(what)))


def _drop(connection: Connection, name: str) -> None:
    """Drops a database of ours, whoever is connected; a template cannot be dropped."""
    from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    if scalar(connection, "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", name):
        _alter(connection, name, "IS_TEMPLATE false")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
