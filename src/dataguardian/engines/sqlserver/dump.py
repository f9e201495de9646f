"""One database as a stream, over TDS: its schema as T-SQL, its rows as the server's own bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

from dataguardian.domain.errors import DumpFailedError, NotAllowedError
from dataguardian.engines.sqlserver.catalogue import Catalogue, Row, read_catalogue
from dataguardian.engines.sqlserver.losses import losses
from dataguardian.engines.sqlserver.server import Server, attempt, is_mighty, lacks, look, plain_text, quoted, text
from dataguardian.engines.sqlserver.session import ServerError, Session
from dataguardian.engines.sqlserver.steps import Step, is_plain, steps_after, steps_before
from dataguardian.engines.sqlserver.stream import (
    END,
    MAGIC,
    PIECE,
    ROWS,
    STEP,
    STREAM_KIND,
    TABLE,
    TRAILER,
    document,
    record,
)
from dataguardian.engines.sqlserver.tables import TravellingTable, select_of

_RECORD_BYTES = 256 * 1024
_KEPT_OPTIONS = (
    "compatibility_level",
    "recovery_model_desc",
    "snapshot_isolation_state",
    "is_read_committed_snapshot_on",
)
NO_SNAPSHOT = (
    "the database does not allow snapshot isolation, so tables were read one after the other while others may have "
    "written: ALTER DATABASE … SET ALLOW_SNAPSHOT_ISOLATION ON makes a backup one point in time"
)
_SCRIPT = "python3 -m dataguardian.engines.sqlserver > restore.sql"
BY_HAND = f"{_SCRIPT} && sqlcmd -S SERVER -d DATABASE -b -x -f 65001 -i restore.sql"
_ONE = "SELECT TOP (1) 1 AS one FROM {}"
_ROLLBACK = "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION"
RIGHTS = {
    "SELECT": "SELECT on the database (db_datareader)",
    "VIEW DEFINITION": "VIEW DEFINITION on the database",
}


class DatabaseDump:
    """A database's one stream; entering it signs in and reads the catalogue, leaving it signs off."""

    kind = STREAM_KIND

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.size_hint_bytes: int | None = None
        self.restore_by_hand = [BY_HAND]
        self.metadata: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._server = server
        self._stack = ExitStack()
        self._pending = memoryview(b"")
        self._ended = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            session = stack.enter_context(self._server.connect(self.name, error=DumpFailedError))
            require_rights(session, self.name)
            catalogue = read_catalogue(session, self.name)
            self.size_hint_bytes = _size_of(session)
            is_snapshot = _begin(session, catalogue)
            if not is_snapshot:
                self.warnings.append(NO_SNAPSHOT)
            self.metadata = {
                "method": "tds",
                "snapshot": is_snapshot,
                "collation": catalogue.collation,
                "options": {key: catalogue.options.get(key) for key in _KEPT_OPTIONS},
            }
            self._records = _Writer(session, catalogue, self.warnings, is_snapshot=is_snapshot).records()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def readinto(self, buffer: memoryview) -> int:
        while not self._pending:
            with self._server.translated(f"database {self.name!r} at {self._server.place}", DumpFailedError):
                piece = next(self._records, None)
            if piece is None:
                self._ended = True
                return 0
            self._pending = memoryview(piece)
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def finish(self) -> None:
        if not self._ended:
            raise DumpFailedError(f"database {self.name!r} was not read to its end")


def require_rights(session: Session, database: str) -> None:
    """Raises NotAllowedError that names the first privilege which a dump lacks."""
    if is_mighty(session):
        return
    for right, what in RIGHTS.items():
        if lacks(session, "DB_NAME(), 'DATABASE'", right, certain="CONNECT") and not _may_all_the_same(session, right):
            raise NotAllowedError(
                f"database {database!r}: this login lacks {what}",
                hint=f"as an administrator: USE {quoted(database)}; GRANT {right} TO the user; see docs/engines.md",
            )


def _may_all_the_same(session: Session, right: str) -> bool:
    """Tells whether every table gives its rows, although the database as a whole was not granted."""
    if right != "SELECT":
        return False
    names = session.query(
        "SELECT s.name AS schema_name, t.name FROM sys.tables t JOIN sys.schemas s ON s.schema_id = t.schema_id"
        " WHERE t.is_ms_shipped = 0"
    )
    wheres = [f"{quoted(row['schema_name'])}.{quoted(row['name'])}" for row in names]
    return bool(wheres) and not any(attempt(session, _ONE.format(where)) for where in wheres)


def _size_of(session: Session) -> int | None:
    rows = look(session, "SELECT SUM(CAST(used_pages AS bigint)) * 8192 AS size_bytes FROM sys.allocation_units")
    size_bytes = rows[0]["size_bytes"] if rows else None
    return size_bytes if isinstance(size_bytes, int) else None


def _begin(session: Session, catalogue: Catalogue) -> bool:
    """Begins the one transaction of the dump; tells whether it sees one point in time."""
    # Tables that are held in memory cannot be read in such a transaction.
    in_memory = any(table.get("is_memory_optimized") for table in catalogue.tables)
    if not in_memory and _begin_snapshot(session, catalogue):
        # A server that says it does not allow what it just did is not believed, and not stopped either.
        return catalogue.options.get("snapshot_isolation_state") not in (0, 2)
    attempt(session, _ROLLBACK)
    attempt(session, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return False


def _begin_snapshot(session: Session, catalogue: Catalogue) -> bool:
    """The point in time is that of the first row that is read, so one is read here."""
    table = next((row for row in catalogue.tables if is_plain(row)), None)
    try:
        session.run("SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
        session.run("BEGIN TRANSACTION")
        if table is not None:
            session.run(_ONE.format(catalogue.name(table)))
    except ServerError:
        return False
    return True


class _Writer:
    """Writes the records. `warnings` is the dump's, and grows until the last one."""

    def __init__(self, session: Session, catalogue: Catalogue, warnings: list[str], *, is_snapshot: bool) -> None:
        self._session, self._catalogue, self._warnings, self._is_snapshot = session, catalogue, warnings, is_snapshot
        self._tables = self._rows = 0
        self._reseeds: list[tuple[str, Row, int]] = []

    def records(self) -> Iterator[bytes]:
        catalogue = self._catalogue
        yield MAGIC
        for step in steps_before(catalogue):
            yield _step(step)
        identities = {row["object_id"]: row for row in catalogue["identity_columns"]}
        for table in catalogue.tables:
            if is_plain(table):
                yield from self._whole_table(table, identities.get(table["object_id"]))
        self._expect_one_transaction()
        for reseed in self._reseeds:
            yield from self._reseed(*reseed)
        # Numbers that rows may hold already must not be given again, so positions are asked for after the rows.
        catalogue.read_sequences_again(self._session)
        for step in steps_after(catalogue):
            yield _step(step)
        attempt(self._session, _ROLLBACK)
        self._warnings += [*catalogue.warnings, *losses(catalogue)]
        self._warnings[:] = dict.fromkeys(self._warnings)
        yield document(TRAILER, {"tables": self._tables, "rows": self._rows})

    def _whole_table(self, table: Row, identity: Row | None) -> Iterator[bytes]:
        try:
            yield from self._table(table, identity)
        except ServerError as refusal:
            raise refusal.about(f"rows of {self._catalogue.name(table)}") from refusal

    def _table(self, table: Row, identity: Row | None) -> Iterator[bytes]:
        travels, select = select_of(self._catalogue, table)
        if not travels:
            return
        result = self._session.stream(select)
        if len(result.columns) != len(travels):
            raise DumpFailedError(f"the server gave other columns of {self._catalogue.name(table)} than were asked for")
        way = TravellingTable(
            self._catalogue.schema(table), table["name"], identity is not None, travels, result.columns
        )
        yield document(TABLE, way.as_document())
        rows = 0
        for kind, data, count in _gathered(result.blocks):
            rows += count
            yield record(kind, data)
        self._tables, self._rows = self._tables + 1, self._rows + rows
        yield document(END, {"rows": rows})
        if identity is not None and (rows or identity.get("last_value") is not None):
            self._reseeds.append((way.quoted, identity, rows))

    def _expect_one_transaction(self) -> None:
        """A transaction that the server ended meanwhile did not hold the tables together."""
        found = look(self._session, "SELECT @@TRANCOUNT AS depth") if self._is_snapshot else None
        if found and found[0]["depth"] == 0:
            raise DumpFailedError("the server ended the dump's transaction before its end", hint="run the backup again")

    def _reseed(self, table: str, identity: Row, rows: int) -> Iterator[bytes]:
        """An empty table gives the value it is set to; one with rows the value after it."""
        found = look(self._session, f"SELECT IDENT_CURRENT({text(table)}) AS last_value")
        last = found[0]["last_value"] if found else None
        last = identity.get("last_value") if last is None else last
        if last is not None:
            value = int(last) + (0 if rows else int(identity["increment_value"]))
            batch = f"DBCC CHECKIDENT ({plain_text(table)}, RESEED, {value}) WITH NO_INFOMSGS"
            yield _step(Step("identity", table, (batch,)))


def _gathered(blocks: Iterator[Any]) -> Iterator[tuple[bytes, bytes, int]]:
    """Joins small blocks. Pieces of a long row come first, as PIECE; its end and whole rows are ROWS."""
    pending, rows = bytearray(), 0
    is_inside = False
    for block in blocks:
        pending += block.data
        rows += block.rows
        is_inside = block.rows == 0
        if len(pending) >= _RECORD_BYTES:
            yield (PIECE if is_inside else ROWS), bytes(pending), rows
            pending.clear()
            rows = 0
    if pending or rows:
        yield ROWS, bytes(pending), rows


def _step(step: Step) -> bytes:
    return document(STEP, {"kind": step.kind, "name": step.name, "batches": list(step.batches)})
