"""SQL Server: by `sqlpackage` where that is installed, else by this program itself over TDS, which loses nothing.

A restore builds a database beside the target, loads it in bulk, counts every table, and renames it into its place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DumpFailedError,
    IntegrityError,
    MissingToolError,
    UnreachableError,
    UsageError,
)
from dataguardian.engines.base import (
    CheckStatus,
    DumpOptions,
    DumpStream,
    Engine,
    EngineAdapter,
    Inventory,
    ProbeResult,
    RestoreOptions,
    RestoreStream,
    ToolVersion,
    named_databases,
)
from dataguardian.engines.network import carried
from dataguardian.engines.sqlserver.config import SqlServerConfig
from dataguardian.registry import ClientProgram

if TYPE_CHECKING:
    from dataguardian.engines.sqlserver.server import Server
    from dataguardian.engines.sqlserver.session import Session
    from dataguardian.engines.tools import ToolSet

PROBE_SECONDS = 8.0
TDS_STREAM, BACPAC_STREAM = "mssql", "bacpac"
_STATUS: dict[type[DataGuardianError], CheckStatus] = {
    AuthenticationError: "auth_failed",
    UnreachableError: "unreachable",
}
_DATABASES = "SELECT * FROM sys.databases"
_SYSTEM_DATABASES = frozenset({"master", "model", "msdb", "tempdb"})


class SqlServerEngine(Engine):
    """A database, or every user database of a server."""

    def __init__(self, config: SqlServerConfig) -> None:
        self._config = config
        self._warnings: list[str] = []
        self._tools: list[ToolVersion] = []

    @property
    def _server(self) -> Server:
        from dataguardian.engines.sqlserver.server import Server  # noqa: PLC0415 -- sockets and TLS, when needed

        return Server(self._config)

    @property
    def has_databases(self) -> bool:
        return self._config.database is None

    def check(self) -> ProbeResult:
        """A server may take each of its answers to the limit of time, so the whole runs beside a clock."""
        answers: list[ProbeResult] = []
        asking = threading.Thread(target=lambda: answers.append(self._checked()), daemon=True)
        asking.start()
        asking.join(PROBE_SECONDS)
        return answers[0] if answers else ProbeResult("timeout", f"{self._server.place}: timeout, no answer in time")

    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        if options.include or options.exclude:
            raise UsageError("a SQL Server backup takes no --include or --exclude: it is the whole database")
        names, left_out = self._sources(options)
        program = self._program()
        if program is not None:
            self._tools = [ToolVersion("sqlpackage", program.version)]
        for number, name in enumerate(names):
            stream = self._stream(name, program)
            if number == 0:
                stream.warnings += left_out
            yield carried(self._config, stream)

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        from dataguardian.engines.sqlserver.restore import prepare  # noqa: PLC0415 -- see above
        from dataguardian.engines.sqlserver.sqlpackage import find_sqlpackage, install_command  # noqa: PLC0415 -- see above

        chosen = list(streams)
        for name, kind in chosen:
            if kind not in (TDS_STREAM, BACPAC_STREAM):
                raise UsageError(f"stream {name!r} is of kind {kind}: this backup is not one of a SQL Server")
            if kind == BACPAC_STREAM and find_sqlpackage() is None:
                raise MissingToolError(
                    "this backup is a .bacpac, and sqlpackage is not installed", hint=install_command()
                )
        if self._config.database is not None and len(chosen) != 1:
            raise UsageError(
                f"{self._config.describe()} is one database, and {len(chosen)} streams were chosen",
                hint="choose one database with --stream NAME, or restore to an address without a database",
            )
        names = [self._config.database] if self._config.database is not None else [name for name, _ in chosen]
        prepare(self._server, names, options)

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        from dataguardian.engines.sqlserver.restore import Restoration  # noqa: PLC0415 -- see above

        self._warnings.clear()
        Restoration(self._server, self._config.database, options, self._warnings).run(streams)

    @property
    def warnings(self) -> list[str]:
        return list(self._warnings)

    def inventory(self) -> Inventory:
        items: dict[str, int] = {}
        for name in self._sources()[0]:
            with self._server.connect(name) as session:
                items |= {f"{name}.{table}": rows for table, rows in _rows_in(session).items()}
        return Inventory(items)

    @property
    def tools(self) -> list[ToolVersion]:
        return list(self._tools)

    def _checked(self) -> ProbeResult:
        try:
            return ProbeResult("ok", metadata=self._probe())
        except DataGuardianError as error:
            status = _STATUS.get(type(error), "error")
            return ProbeResult("timeout" if "timeout" in error.message else status, error.message)

    def _probe(self) -> dict[str, Any]:
        from dataguardian.engines.sqlserver.dump import require_rights  # noqa: PLC0415 -- see above
        from dataguardian.engines.sqlserver.probing import facts_of  # noqa: PLC0415 -- see above
        from dataguardian.engines.sqlserver.server import MASTER  # noqa: PLC0415 -- see above

        name = self._config.database or MASTER
        limit = PROBE_SECONDS / 2
        with self._server.connect(name, seconds=limit, answer_seconds=limit) as session:
            if self._config.database is not None:
                require_rights(session, name)
            return facts_of(session, whole_server=self._config.database is None)

    def _sources(self, options: DumpOptions | None = None) -> tuple[list[str], list[str]]:
        """Returns the databases to dump, and what is to be said of those that are left out."""
        from dataguardian.engines.sqlserver.probing import version_of  # noqa: PLC0415 -- see above
        from dataguardian.engines.sqlserver.server import MASTER  # noqa: PLC0415 -- see above

        one = self._config.database
        with self._server.connect(one or MASTER, error=DumpFailedError) as session:
            self.server_version = version_of(session)
            self._tools = [ToolVersion("dataguardian-tds", "7.4")]
            if one is not None:
                return [one], []
            rows = session.query(_DATABASES)
        rows = [row for row in rows if row["name"] not in _SYSTEM_DATABASES and not row.get("source_database_id")]
        open_ones = [row["name"] for row in rows if row.get("state") in (0, None)]
        left_out = ["logins, jobs and settings of the server are not in this backup: its databases are"]
        if options is not None and options.streams:
            return named_databases(sorted(open_ones), options, f"the server at {self._server.place}"), left_out
        left_out += [
            f"database {row['name']!r} is {row.get('state_desc', 'not online')} and is not in this backup"
            for row in rows
            if row["name"] not in open_ones
        ]
        return sorted(open_ones), left_out

    def _program(self) -> ToolSet | None:
        """Returns sqlpackage when it is to be used."""
        from dataguardian.engines.sqlserver import sqlpackage  # noqa: PLC0415 -- see above

        method = self._config.method or "auto"
        found = None if method == "tds" else sqlpackage.find_sqlpackage()
        if method == "sqlpackage" and found is None:
            raise MissingToolError(
                "sqlpackage is asked for (method) and is not installed", hint=sqlpackage.install_command()
            )
        usable = sqlpackage.is_usable(self._config)
        if method == "sqlpackage" and not usable:
            raise UsageError(
                "sqlpackage cannot connect this way (its own TLS authority, a socket, or quotes in user or password)",
                hint="leave method away: then it is done over TDS",
            )
        return found if usable else None

    def _stream(self, name: str, program: ToolSet | None) -> Any:  # noqa: ANN401 -- one of two streams
        from dataguardian.engines.sqlserver.dump import DatabaseDump  # noqa: PLC0415 -- see above
        from dataguardian.engines.sqlserver.sqlpackage import BacpacDump  # noqa: PLC0415 -- see above

        return DatabaseDump(self._server, name) if program is None else BacpacDump(self._config, name, program)


def _rows_in(session: Session) -> dict[str, int]:
    from dataguardian.engines.sqlserver.server import quoted  # noqa: PLC0415 -- see above

    schemas = {row["schema_id"]: row["name"] for row in session.query("SELECT * FROM sys.schemas")}
    counts = {}
    for row in session.query("SELECT * FROM sys.tables"):
        if row.get("is_ms_shipped"):
            continue
        schema = str(schemas.get(row["schema_id"], "dbo"))
        where = f"{quoted(schema)}.{quoted(row['name'])}"
        counts[f"{schema}.{row['name']}"] = int(session.scalar(f"SELECT COUNT_BIG(*) AS held FROM {where}"))  # noqa: S608 -- quoted
    return counts


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:  # noqa: ARG001 -- the protocol's
    """Reads a whole stream without a server; raises IntegrityError when it would not restore."""
    from dataguardian.engines.sqlserver.checking import validate_stream  # noqa: PLC0415 -- see above
    from dataguardian.engines.sqlserver.sqlpackage import validate_bacpac  # noqa: PLC0415 -- see above

    if kind == TDS_STREAM:
        validate_stream(chunks)
    elif kind == BACPAC_STREAM:
        validate_bacpac(chunks)
    else:
        raise IntegrityError(f"a SQL Server backup has no streams of kind {kind!r}")


def _programs() -> list[ClientProgram]:
    from dataguardian.engines.sqlserver.sqlpackage import PROGRAM, find_sqlpackage, install_command  # noqa: PLC0415 -- see above

    found = find_sqlpackage()
    path = found.path(PROGRAM) if found else None
    version = found.version if found else None
    return [ClientProgram(PROGRAM, path, version, install_command(), required=False)]


ADAPTER = EngineAdapter(
    type="sqlserver",
    schemes=("sqlserver", "mssql"),
    example="sqlserver://user@host:1433/database",
    config=SqlServerConfig,
    build=SqlServerEngine,
    validate=validate,
    programs=_programs,
)
