"""MySQL and MariaDB on their way back: restored beside, renamed into place, undone on any error.

A database cannot be renamed there, but tables can, all of them in one statement that is carried out wholly or not at
all. So each dump is loaded into a database of its own (`dataguardian_…`): whatever does not load is found out there.
Then, within the swap: the views, triggers, routines and events of the target are dropped (their texts are kept), one
RENAME TABLE moves the old tables of all targets away and the new ones in, and the new views and the rest, which have
all been made once beside, are made in the target. On an error the same way leads back. Only a server or a machine that
dies within these moments leaves work to do: no row is lost then, the tables are in the target or in
`dataguardian_old_…`, and repeating the restore repairs all.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from dataguardian.domain.errors import DataGuardianError, RestoreFailedError, UsageError
from dataguardian.engines.base import RestoreOptions, RestoreStream
from dataguardian.engines.mysql.dump import DATABASE_KIND, GLOBALS_KIND
from dataguardian.engines.mysql.load import Load, known_collations, nearest_collation, with_status
from dataguardian.engines.mysql.objects import StoredObjects
from dataguardian.engines.mysql.references import References
from dataguardian.engines.mysql.server import Server, Session, quoted
from dataguardian.engines.mysql.target import TEMPORARY, Target, look_at, tables_of
from dataguardian.engines.mysql.users import Users
from dataguardian.interruption import undoing

_PACKET_BYTES = 1 << 30
_SWAP_WAIT_SECONDS = 30
_PLAIN = re.compile(r"\w+")


@dataclass
class _Beside:
    """A database loaded under a temporary name, waiting for the swap."""

    target: Target
    temporary: str
    old: str
    charset: str
    collation: str
    statuses: dict[bytes, bytes] = field(default_factory=dict)
    new_objects: StoredObjects = field(default_factory=StoredObjects)
    old_objects: StoredObjects = field(default_factory=StoredObjects)
    new_tables: list[str] = field(default_factory=list)
    old_tables: list[str] = field(default_factory=list)
    references: References = field(default_factory=References)
    begun: bool = False


@dataclass
class Restoration:
    """One restore into `server`. `database` None means all. `warnings` is filled on the way."""

    server: Server
    database: str | None
    options: RestoreOptions
    warnings: list[str] = field(default_factory=list)
    _ready: list[_Beside] = field(default_factory=list)
    _users: Users | None = None
    _moved: bool = False
    _loading: int | None = None
    _packet_bytes: int | None = None

    def run(self, streams: Iterator[RestoreStream]) -> None:
        try:
            for stream in streams:
                self._restore(stream)
            if self._ready:
                self._swap()
        except BaseException as error:
            with undoing():
                self._undo(error)
            raise
        self._finish()

    def _connect(self, database: str | None = None) -> AbstractContextManager[Session]:
        return self.server.connect(database, error=RestoreFailedError)

    def _restore(self, stream: RestoreStream) -> None:
        if stream.kind == GLOBALS_KIND and self.database is None and self._users is None:
            self._users = Users.read(stream.chunks())
            with self._connect() as session:
                self._users.create(session)
                self._users.grant(session, on_tables=False)
            return
        if stream.kind != DATABASE_KIND or (self.database is not None and self._ready):
            raise UsageError(f"stream {stream.name!r} ({stream.kind}) cannot be restored here")
        name = self.database or stream.name
        with self._connect() as session:
            target = look_at(session, name)
            target.check(drop_existing=self.options.drop_existing)
            beside = self._begin(session, stream, target)
            self._make_room(session, stream)
        self._load(stream, beside)

    def _begin(self, session: Session, stream: RestoreStream, target: Target) -> _Beside:
        known = known_collations(session)
        wanted = str(stream.metadata.get("collation") or "")
        collation = nearest_collation(wanted, known) if _PLAIN.fullmatch(wanted) else "utf8mb4_general_ci"
        if collation not in known:
            raise RestoreFailedError(f"there is no collation {collation!r} here", hint="restore into a newer server")
        if collation != wanted:
            self.warnings.append(f"{target.name}: the server does not know collation {wanted!r}: {collation} is used")
        mark = os.urandom(4).hex()
        charset = collation.partition("_")[0]
        beside = _Beside(target, f"{TEMPORARY}{mark}", f"{TEMPORARY}old_{mark}", charset, collation)
        self._ready.append(beside)  # noted first: a statement that is stopped may still have come through
        session.run(_create_database(beside.temporary, charset, collation))
        return beside

    def _make_room(self, session: Session, stream: RestoreStream) -> None:
        """Raises max_allowed_packet for as long as the restore lasts, when the dump needs it."""
        longest_bytes = int(stream.metadata.get("longest_statement_bytes") or 0)
        limit_bytes = int(session.scalar("SELECT @@GLOBAL.max_allowed_packet"))
        if longest_bytes + 1024 <= limit_bytes:
            return
        import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        try:
            session.run(f"SET GLOBAL max_allowed_packet = {_PACKET_BYTES}")
        except pymysql.err.MySQLError as error:
            raise RestoreFailedError(
                f"the longest statement of {stream.name!r} has {longest_bytes} bytes, and {self.server.place} takes"
                f" {limit_bytes} at most",
                hint=f"SET GLOBAL max_allowed_packet = {_PACKET_BYTES} on the server, then restore again",
            ) from error
        self._packet_bytes = self._packet_bytes or limit_bytes

    def _load(self, stream: RestoreStream, beside: _Beside) -> None:
        source = str(stream.metadata.get("database") or stream.name)
        with self._connect(beside.temporary) as session:
            self._loading = session.thread_id
            session.tell("sql_require_primary_key = 0", "sql_generate_invisible_primary_key = 0", "sql_log_off = 0")
            load = Load(session, beside.temporary, beside.target.name, source, beside.statuses)
            load.run(stream.chunks())
        self._loading = None
        self.warnings += [f"{beside.target.name}: {warning}" for warning in load.warnings]

    def _swap(self) -> None:
        with self._connect() as session:
            # The last look: RENAME TABLE would wait for as long as somebody holds a table.
            session.tell(f"lock_wait_timeout = {_SWAP_WAIT_SECONDS}", "foreign_key_checks = 0")
            for beside in self._ready:
                self._prepare(session, beside)
            self.options.before_swap()
            for beside in self._ready:
                self._clear(session, beside)
            self._move(session)
            for beside in self._ready:
                beside.references.mend(session, beside.target.name)
                beside.new_objects.make(session, beside.target.name)
            if self._users:
                self._users.grant(session, on_tables=True)

    def _prepare(self, session: Session, beside: _Beside) -> None:
        """Everything that can be done before the target is touched."""
        name = beside.target.name
        beside.new_objects = StoredObjects.of(session, beside.temporary)
        for place, item in enumerate(beside.new_objects.items):
            create = item.create
            if item.kind == "VIEW":
                create = create.replace(f"`{beside.temporary}`.".encode(), f"{quoted(name)}.".encode())
            if item.kind == "EVENT":
                create = with_status(create, beside.statuses.get(item.name.encode(), b"DISABLE"))
            beside.new_objects.items[place] = item.with_create(create)
        beside.references = References.of(session, beside.temporary, name, {b.target.name for b in self._ready})
        beside.references.take(session, beside.temporary)
        beside.new_objects.drop(session, beside.temporary, ("TRIGGER",))
        beside.new_tables = tables_of(session, beside.temporary)
        if beside.target.exists:
            beside.old_objects = StoredObjects.of(session, name)
            beside.old_tables = tables_of(session, name)

    def _clear(self, session: Session, beside: _Beside) -> None:
        """Drops what RENAME TABLE cannot take along from the target; makes the target where there is none."""
        beside.begun = True
        name = quoted(beside.target.name)
        if beside.target.exists:
            beside.old_objects.drop(session, beside.target.name)
            session.run(f"ALTER DATABASE {name} CHARACTER SET {beside.charset} COLLATE {beside.collation}")
        else:
            session.run(_create_database(beside.target.name, beside.charset, beside.collation))
        if beside.old_tables:
            session.run(_create_database(beside.old, beside.charset, beside.collation))

    def _move(self, session: Session) -> None:
        pairs = [
            (table, here, there)
            for beside in self._ready
            for tables, here, there in (
                (beside.old_tables, beside.target.name, beside.old),
                (beside.new_tables, beside.temporary, beside.target.name),
            )
            for table in tables
        ]
        _rename(session, pairs)
        self._moved = True

    def _move_back(self, session: Session) -> None:
        """Also right when it is not known whether the tables were moved."""
        pairs = []
        for beside in reversed(self._ready):
            if beside.begun and set(tables_of(session, beside.old)) == set(beside.old_tables) != set():
                here, old = beside.target.name, beside.old
                new = [table for table in tables_of(session, here) if table in beside.new_tables]
                pairs += [(table, here, beside.temporary) for table in new]
                pairs += [(table, old, here) for table in beside.old_tables]
        _rename(session, pairs)

    def _undo(self, error: BaseException) -> None:
        """Leaves the server as it was found; what cannot be undone is told with the error."""
        tell = error.add_note
        with self._told(tell, "undoing the restore"), self._connect() as session:
            if self._loading is not None:
                with contextlib.suppress(Exception):  # it may have ended by itself
                    session.run(f"KILL {self._loading}")
            session.tell(f"lock_wait_timeout = {_SWAP_WAIT_SECONDS}", "foreign_key_checks = 0")
            if any(beside.begun for beside in self._ready):
                with self._told(tell, "bringing back what the target held"):
                    self._bring_back(session)
            for beside in self._ready:
                self._drop(session, tell, beside.temporary)
                if not (beside.begun and tables_of(session, beside.old)):
                    self._drop(session, tell, beside.old)
            if self._users:
                with self._told(tell, "removing new users"):
                    self._users.undo(session)
            self._lower_packet(session)

    def _bring_back(self, session: Session) -> None:
        begun = [beside for beside in self._ready if beside.begun]
        for beside in begun:
            beside.new_objects.drop(session, beside.target.name)
        self._move_back(session)
        for beside in begun:
            target = beside.target
            if not target.exists:
                session.run(f"DROP DATABASE IF EXISTS {quoted(target.name)}")
                continue
            beside.old_objects.drop(session, target.name)
            session.run(
                f"ALTER DATABASE {quoted(target.name)} CHARACTER SET {target.charset} COLLATE {target.collation}"
            )
            beside.old_objects.make(session, target.name)

    def _finish(self) -> None:
        tell = self.warnings.append
        with self._told(tell, "removing what was replaced"), self._connect() as session:
            session.tell(f"lock_wait_timeout = {_SWAP_WAIT_SECONDS}", "foreign_key_checks = 0")
            for beside in self._ready:
                self._drop(session, tell, beside.temporary)
                self._drop(session, tell, beside.old)
                self.warnings += [
                    f"{beside.target.name}: {name} does not work where it was dumped, and was not restored"
                    for name in beside.new_objects.unreadable
                ]
            self._lower_packet(session)
        if self._users:
            self.warnings += self._users.warnings

    def _drop(self, session: Session, tell: Callable[[str], None], name: str) -> None:
        with self._told(tell, f"removing database {name!r}"):
            session.run(f"DROP DATABASE IF EXISTS {quoted(name)}")

    def _lower_packet(self, session: Session) -> None:
        if self._packet_bytes is not None:
            session.run(f"SET GLOBAL max_allowed_packet = {self._packet_bytes}")
            self._packet_bytes = None

    @staticmethod
    @contextlib.contextmanager
    def _told(tell: Callable[[str], None], what: str) -> Iterator[None]:
        """Tells of errors in `what` instead of raising them."""
        import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        try:
            yield
        except pymysql.err.MySQLError as error:
            tell(f"{what} failed: {error.args[-1] if error.args else type(error).__name__}")
        except DataGuardianError as error:
            tell(f"{what} failed: {error.message}")


def _create_database(name: str, charset: str, collation: str) -> str:
    return f"CREATE DATABASE {quoted(name)} CHARACTER SET {charset} COLLATE {collation}"


def _rename(session: Session, pairs: list[tuple[str, str, str]]) -> None:
    """Moves (table, from, to) in one statement, which is carried out wholly or not at all."""
    moves = [f"{quoted(here)}.{quoted(table)} TO {quoted(there)}.{quoted(table)}" for table, here, there in pairs]
    if moves:
        session.run(f"RENAME TABLE {', '.join(moves)}")
