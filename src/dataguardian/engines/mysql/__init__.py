"""MySQL and MariaDB, a database or a whole server: dumped by the stock program of the server's own flavour.

The dump is looked at as it passes, so that one that ends well is whole. A restore goes beside the target, is proven
there, and then moved into its place by one RENAME TABLE; `restore.py` says what that can promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DumpFailedError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
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
    refuse_left_out,
)
from dataguardian.engines.mysql.config import (
    MariadbConfig,
    MysqlConfig,
    MysqlFamilyConfig,
    child_environment,
    client_arguments,
)
from dataguardian.engines.mysql.dump import (
    DATABASE_KIND,
    GLOBALS_KIND,
    DatabaseDump,
    GlobalsDump,
    dump_options,
)
from dataguardian.engines.mysql.grants import Grants
from dataguardian.engines.mysql.restore import Restoration
from dataguardian.engines.mysql.server import SYSTEM_DATABASES, Server, Session, quoted
from dataguardian.engines.mysql.statements import Splitter
from dataguardian.engines.mysql.target import TEMPORARY, look_at, tables_of
from dataguardian.engines.mysql.tools import DumpProgram, client_programs, program_for
from dataguardian.engines.mysql.users import Users, script_of
from dataguardian.engines.network import Endpoint, carried, reached, within

PROBE_SECONDS = 5.0
PROBE_LIMIT_SECONDS = 10.0
_HISTORY_RELEASE = (10, 11)
_SHOWN_NAMES = 20

_SIZE = """
SELECT CAST(COALESCE(SUM(DATA_LENGTH + INDEX_LENGTH), 0) AS UNSIGNED) FROM information_schema.TABLES
WHERE TABLE_SCHEMA LIKE %s
"""
_DATA_SIZE = """
SELECT CAST(COALESCE(SUM(DATA_LENGTH), 0) AS UNSIGNED) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s
"""
_NOT_TRANSACTIONAL = """
SELECT t.TABLE_NAME, t.ENGINE FROM information_schema.TABLES t
LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE
WHERE t.TABLE_SCHEMA = %s AND t.TABLE_TYPE NOT LIKE '%%VIEW' AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES'
ORDER BY t.TABLE_NAME
"""
_SCHEMA = """
SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s
"""
# mariadb-dump looks for a delimiter that their texts do not hold, and never ends when the first it tries is in one.
_ENDLESS_EVENTS = """
SELECT EVENT_NAME FROM information_schema.EVENTS
WHERE EVENT_SCHEMA = %s AND LOCATE(';;', CONCAT_WS(' ', EVENT_NAME, EVENT_DEFINITION, EVENT_COMMENT)) > 0 LIMIT 1
"""
_VERSIONED = """
SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE = 'SYSTEM VERSIONED'
"""
_COUNTABLE = """
SELECT TABLE_NAME FROM information_schema.TABLES
WHERE TABLE_SCHEMA = %s AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY TABLE_NAME
"""
_CONNECTIONS = "SHOW GLOBAL STATUS LIKE 'Threads_connected'"
_STATUS: dict[type[DataGuardianError], CheckStatus] = {
    AuthenticationError: "auth_failed",
    UnreachableError: "unreachable",
}


class MysqlEngine(Engine):
    """A database or a server of either flavour. Patterns choose tables of a database, or databases of a server."""

    def __init__(self, config: MysqlFamilyConfig) -> None:
        self._warnings: list[str] = []
        self._config = config
        self._server = Server(config)
        self._program: DumpProgram | None = None

    @property
    def has_databases(self) -> bool:
        return self._config.database is None

    def check(self) -> ProbeResult:
        return within(PROBE_LIMIT_SECONDS, self._checked)

    def _checked(self) -> ProbeResult:
        try:
            return ProbeResult("ok", metadata=self._probe())
        except DataGuardianError as error:
            timed_out = "timed out" in error.message
            return ProbeResult("timeout" if timed_out else _STATUS.get(type(error), "error"), error.message)

    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        with reached(self._config) as endpoint:
            if self._config.database is not None:
                yield carried(self._config, self._dump_of(self._config.database, endpoint, options))
                return
            with self._connect() as session:
                names, warnings = _databases(session)
                names = named_databases(names, options, f"the server at {self._server.place}")
                names = [name for name in names if _is_chosen(name, options)]
                refuse_left_out(options, names)
                self._expect_privileges(session, None)
                yield carried(self._config, self._dump_of_globals(session, warnings))
            for name in names:
                yield carried(self._config, self._dump_of(name, endpoint, DumpOptions()))

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        targets = self._targets(list(streams))
        with self._server.connect() as session:
            for name in targets:
                look_at(session, name).check(drop_existing=options.drop_existing)

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        self._warnings.clear()
        with reached(self._config):
            Restoration(self._server, self._config.database, options, self._warnings).run(streams)

    @property
    def warnings(self) -> list[str]:
        return list(self._warnings)

    def inventory(self) -> Inventory:
        items: dict[str, int] = {}
        with self._server.connect(self._config.database) as session:
            names = [self._config.database] if self._config.database is not None else _databases(session)[0]
            session.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.run("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            for name in names:
                for (table,) in session.rows(_COUNTABLE, name):
                    count = session.scalar(f"SELECT count(*) FROM {quoted(name)}.{quoted(table)}")  # noqa: S608 -- quoted names
                    items[f"{name}.{table}"] = int(count)
        return Inventory(items)

    @property
    def tools(self) -> list[ToolVersion]:
        return [ToolVersion(self._program.name, self._program.version)] if self._program else []

    def _connect(self, database: str | None = None) -> AbstractContextManager[Session]:
        return self._server.connect(database, error=DumpFailedError)

    def _probe(self) -> dict[str, Any]:
        name = self._config.database
        with self._server.connect(name, seconds=PROBE_SECONDS, read_seconds=PROBE_SECONDS) as session:
            session.scalar("SELECT 1")
            self._expect_privileges(session, name)
            like = "%" if name is None else name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            return {
                "version": session.version,
                "flavour": session.flavour,
                "size_bytes": int(session.scalar(_SIZE, like)),
                "connections": int(session.rows(_CONNECTIONS)[0][1]),
            }

    def _expect_privileges(self, session: Session, database: str | None) -> None:
        """Raises NotAllowedError: a dump would leave out what the user may not see, without a word."""
        missing = Grants.of(session).missing_for_dump(session, database)
        if missing:
            where = "everything" if database is None else f"database {database!r}"
            raise NotAllowedError(
                f"the connecting user lacks {', '.join(missing)} for a dump of {where} at {self._server.place}",
                hint="docs/engines.md has the GRANT statements for a user who may only read",
            )

    def _dump_of(self, name: str, endpoint: Endpoint, options: DumpOptions) -> DatabaseDump:
        with self._connect(name) as session:
            program = self._meet(session)
            self._expect_privileges(session, name)
            schema = session.rows(_SCHEMA, name)
            if not schema:
                raise NotFoundError(f"{self._server.place} has no database {name!r}", hint="check the database's name")
            warnings = _not_transactional(session, name) + _about_program(program, session)
            _refuse_endless_events(session, name)
            history = _takes_history(program, session, name, warnings)
            metadata: dict[str, Any] = {
                "database": name,
                "charset": str(schema[0][0]),
                "collation": str(schema[0][1]),
                "flavour": session.flavour,
                "server_version": session.version,
                "client": f"{program.name} {program.version}",
            }
            argv = [program.path, *client_arguments(self._config, endpoint, program.flavour, tls=session.tls)]
            argv += dump_options(program, history=history)
            argv += [
                f"--ignore-table={name}.{table}"
                for table in _views_and_tables(session, name)
                if not _is_chosen(table, options)
            ]
            return DatabaseDump(
                name,
                [*argv, "--", name],
                child_environment(self._config),
                client=program.client,
                size_hint_bytes=int(session.scalar(_DATA_SIZE, name)),
                metadata=metadata,
                packet_bytes=int(session.scalar("SELECT @@GLOBAL.max_allowed_packet")),
                warnings=warnings,
            )

    def _dump_of_globals(self, session: Session, warnings: list[str]) -> GlobalsDump:
        program = self._meet(session)
        script, said = script_of(session)
        metadata = {"flavour": session.flavour, "server_version": session.version}
        return GlobalsDump(script, client=program.client, metadata=metadata, warnings=warnings + said)

    def _meet(self, session: Session) -> DumpProgram:
        """Remembers the server's version and returns the program that fits it."""
        self.server_version = session.version
        what = f"the server at {self._server.place} ({session.flavour} {session.version})"
        self._program = program_for(session.flavour, what)
        return self._program

    def _targets(self, streams: list[tuple[str, str]]) -> list[str]:
        """Returns the databases that the streams would become; raises UsageError when they do not fit the address."""
        databases = [name for name, kind in streams if kind == DATABASE_KIND]
        others = [f"{name} ({kind})" for name, kind in streams if kind != DATABASE_KIND]
        if self._config.database is not None:
            if len(databases) != 1 or others:
                raise UsageError(
                    f"{self._config.describe()} is one database, and {len(streams)} streams were chosen",
                    hint="choose one database with --stream NAME, or restore to an address without a database",
                )
            return [self._config.database]
        if any(kind not in (DATABASE_KIND, GLOBALS_KIND) for _, kind in streams) or len(others) > 1:
            raise UsageError(f"{', '.join(others)}: this backup is not one of a {self._config.type} server")
        return databases


def _about_program(program: DumpProgram, session: Session) -> list[str]:
    if program.flavour == session.flavour:
        return []
    return [f"{program.flavour}'s {program.name} was used, as {session.flavour}'s own is not installed"]


def _takes_history(program: DumpProgram, session: Session, name: str, warnings: list[str]) -> bool:
    """Tells whether to bring the past rows of versioned tables; warns when that cannot be."""
    if session.flavour != "MariaDB" or not session.scalar(_VERSIONED, name):
        return False
    if program.flavour == "MariaDB" and min(program.release, session.release) >= _HISTORY_RELEASE:
        return True
    warnings.append("its system-versioned tables are dumped without their past: that takes MariaDB 10.11 or newer")
    return False


def _databases(session: Session) -> tuple[list[str], list[str]]:
    """Returns the databases to dump, and warnings about those of an unfinished restore."""
    names = [str(row[0]) for row in session.rows("SHOW DATABASES")]
    users = [name for name in names if name.lower() not in SYSTEM_DATABASES]
    left = [name for name in users if name.startswith(TEMPORARY)]
    return [name for name in users if name not in left], [
        f"database {name!r} belongs to a restore that has not ended, and is not in the backup" for name in left
    ]


def _views_and_tables(session: Session, database: str) -> list[str]:
    query = "SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s"
    return tables_of(session, database) + [str(row[0]) for row in session.rows(query, database)]


def _is_chosen(name: str, options: DumpOptions) -> bool:
    included = not options.include or any(fnmatchcase(name, pattern) for pattern in options.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in options.exclude)


def _refuse_endless_events(session: Session, database: str) -> None:
    event = session.scalar(_ENDLESS_EVENTS, database)
    if event is not None:
        raise DumpFailedError(
            f"the text of event {event!r} in database {database!r} holds ';;', at which the stock dump program hangs",
            hint="write ; ; in its place (ALTER EVENT), or the string as CONCAT(';', ';')",
            event=str(event),
        )


def _not_transactional(session: Session, database: str) -> list[str]:
    rows = session.rows(_NOT_TRANSACTIONAL, database)
    if not rows:
        return []
    named = ", ".join(f"{table} ({engine})" for table, engine in rows[:_SHOWN_NAMES])
    more = f" and {len(rows) - _SHOWN_NAMES} more" if len(rows) > _SHOWN_NAMES else ""
    return [f"these tables know no transactions, so their rows are not of one moment with the others: {named}{more}"]


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:
    """Reads a whole dump without a server; raises IntegrityError when it is cut, or holds what no dump holds."""
    if kind == GLOBALS_KIND:
        Users.read(chunks)
        return
    if kind != DATABASE_KIND:
        raise IntegrityError(f"a MySQL backup has no streams of kind {kind!r}")
    splitter = Splitter()
    for chunk in chunks:
        for _ in splitter.feed(chunk):
            pass
    splitter.finish()
    expected = metadata.get("statements")
    if expected is not None and expected != splitter.statements:
        raise IntegrityError(f"the dump holds {splitter.statements} statements where {expected} were written")


ADAPTERS = (
    EngineAdapter(
        type="mysql",
        schemes=("mysql",),
        example="mysql://user@host:3306/database",
        config=MysqlConfig,
        build=MysqlEngine,
        package="pymysql",
        validate=validate,
        programs=partial(client_programs, "MySQL"),
    ),
    EngineAdapter(
        type="mariadb",
        schemes=("mariadb",),
        example="mariadb://user@host:3306/database",
        config=MariadbConfig,
        build=MysqlEngine,
        package="pymysql",
        validate=validate,
        programs=partial(client_programs, "MariaDB"),
    ),
)
