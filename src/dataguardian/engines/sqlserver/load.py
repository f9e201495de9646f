"""A stream into an empty database: schema, rows by bulk load, constraints, programs; every table's rows counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dataguardian.domain.errors import IntegrityError, RestoreFailedError
from dataguardian.engines.sqlserver.decimals import full_columns, full_rows, has_decimals
from dataguardian.engines.sqlserver.literals import literal
from dataguardian.engines.sqlserver.server import attempt, is_babelfish
from dataguardian.engines.sqlserver.session import ServerError, Session
from dataguardian.engines.sqlserver.stream import END, PIECE, ROWS, STEP, TABLE, TRAILER, parsed, read_records
from dataguardian.engines.sqlserver.tables import STAGE, TravellingTable, from_document
from dataguardian.engines.sqlserver.types import VARIANT, Column
from dataguardian.engines.sqlserver.values import decode_row

_MAY_FAIL = frozenset({
    "view", "procedure", "function", "trigger", "index", "description", "identity", "temporal table",
})  # fmt: skip
"""What a restore goes on without, and says so: an invalid view of the source must not cost its rows."""
_MAY_FAIL_ON_BABELFISH = _MAY_FAIL | {"default", "check"}
"""It does not always understand what it says itself of these."""
_ROWS_PER_INSERT = 200
_CHARACTERS_PER_INSERT = 1 << 20

_FORGOTTEN = ("function", "procedure", "trigger")
"""Of these, Babelfish has the texts under the database's name."""
_ROLLBACK = "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION"

Records = Iterator[tuple[bytes, bytes]]


@dataclass(frozen=True)
class LoadedStep:
    kind: str
    name: str
    batches: tuple[str, ...]


@dataclass
class Loader:
    """Loads one stream. `database` is its final name, for people; `programs` are those that it made."""

    session: Session
    database: str
    warnings: list[str]
    programs: list[LoadedStep] = field(default_factory=list)
    _late: list[LoadedStep] = field(default_factory=list)
    _tables: int = 0
    _rows: int = 0
    _without_bulk: bool = False
    _is_babelfish: bool = False

    def load(self, chunks: Iterable[bytes]) -> None:
        """Raises IntegrityError, RestoreFailedError, and what `chunks` and the session raise."""
        records = read_records(chunks)
        self._is_babelfish = is_babelfish(self.session)
        for kind, payload in records:
            if kind == STEP:
                self._step(payload)
            elif kind == TABLE:
                self._whole_table(from_document(parsed(payload)), records)
            elif kind == TRAILER:
                self._expect_all(payload)
            else:
                raise IntegrityError("the stream has rows of no table")
        self._try_again()

    def _expect_all(self, payload: bytes) -> None:
        trailer = parsed(payload)
        if (trailer.get("tables"), trailer.get("rows")) != (self._tables, self._rows):
            raise IntegrityError("the stream does not hold as many tables and rows as it says")

    def _step(self, payload: bytes) -> None:
        value = parsed(payload)
        step = LoadedStep(str(value.get("kind")), str(value.get("name")), tuple(map(str, value.get("batches") or ())))
        refusal = self._run(step)
        if refusal is None:
            return
        if step.kind not in (_MAY_FAIL_ON_BABELFISH if self._is_babelfish else _MAY_FAIL):
            raise RestoreFailedError(
                f"restoring database {self.database!r}: {step.kind} {step.name}: {refusal.text}",
                hint="the target server may be older than the source, or lack what this object needs",
                number=refusal.number,
            ) from refusal
        self._late.append(step)

    def _run(self, step: LoadedStep) -> ServerError | None:
        refusal = run_step(self.session, step)
        if refusal is None and step.kind in _FORGOTTEN:
            self.programs.append(step)
        return refusal

    def _try_again(self) -> None:
        """Programs may name each other in circles: as long as one more can be made, the rest is tried again."""
        refused: dict[LoadedStep, ServerError] = {}
        while True:
            refused = {step: refusal for step in self._late if (refusal := self._run(step)) is not None}
            if len(refused) in (0, len(self._late)):
                break
            self._late = list(refused)
        self.warnings += [
            f"database {self.database!r}: {step.kind} {step.name} could not be made: {refusal.text}"
            for step, refusal in refused.items()
        ]

    # Rows.

    def _whole_table(self, table: TravellingTable, records: Records) -> None:
        try:
            self._table(table, records)
        except ServerError as refusal:
            raise refusal.about(f"rows of {table.quoted}") from refusal

    def _table(self, table: TravellingTable, records: Records) -> None:
        if table.is_staged:
            attempt(self.session, f"DROP TABLE {STAGE}")
            self.session.run(table.stage())
        counted = _Counted(records)
        if table.identity and not table.is_staged:
            attempt(self.session, f"SET IDENTITY_INSERT {table.quoted} ON")
        self._fill(table, counted)
        if table.is_staged:
            self._unstage(table)
        elif table.identity:
            attempt(self.session, f"SET IDENTITY_INSERT {table.quoted} OFF")
        held = self.session.scalar(f"SELECT COUNT_BIG(*) AS rows_held FROM {table.quoted}")  # noqa: S608 -- quoted
        if held != counted.rows:
            raise RestoreFailedError(
                f"restoring database {self.database!r}: {table.quoted} holds {held} rows instead of {counted.rows}",
                hint="restore again; if it happens again, report it with the server's version",
            )
        self._tables, self._rows = self._tables + 1, self._rows + counted.rows

    def _fill(self, table: TravellingTable, rows: _Counted) -> None:
        """The first rows go alone: a server that refuses to load in bulk is found out while they are at hand."""
        first = rows.next_whole()
        if first is None:
            return
        # Babelfish misreads times in variants that are loaded in bulk.
        is_misread = self._is_babelfish and any(column.type == VARIANT for column in table.columns)
        if not is_misread and not self._without_bulk and self._bulk_first(table, first):
            self._bulk(table, rows.pieces())
            return
        self._insert(table, first)
        while (block := rows.next_whole()) is not None:
            self._insert(table, block)

    def _bulk_first(self, table: TravellingTable, first: bytes) -> bool:
        try:
            self._bulk(table, iter((first,)))
        except ServerError as refusal:
            self.warnings.append(
                f"database {self.database!r}: {table.quoted} was loaded by INSERT statements,"
                f" because the server refused a bulk load: {refusal.text}"
            )
            return False
        return True

    def _bulk(self, table: TravellingTable, rows: Iterator[bytes]) -> None:
        if self._is_babelfish and has_decimals(table.columns):
            columns = full_columns(table.columns)
            self.session.bulk(table.insert_bulk(), columns, full_rows(rows, table.columns))
        else:
            self.session.bulk(table.insert_bulk(), table.columns, rows)

    def _unstage(self, table: TravellingTable) -> None:
        move = f"INSERT INTO {table.quoted} ({table.names}) SELECT {table.loads} FROM {STAGE}"  # noqa: S608 -- quoted
        if table.identity:
            attempt(self.session, f"SET IDENTITY_INSERT {table.quoted} ON")
        self.session.run(move)
        if table.identity:
            attempt(self.session, f"SET IDENTITY_INSERT {table.quoted} OFF")
        self.session.run(f"DROP TABLE {STAGE}")

    def _insert(self, table: TravellingTable, block: bytes) -> None:
        where = STAGE if table.is_staged else table.quoted
        for batch in insert_statements(where, table.names, table.columns, block):
            self.session.run(batch)


@dataclass
class _Counted:
    """The rows of one table in the stream, until its END, which must agree with what came."""

    records: Records
    rows: int = -1

    def next_whole(self) -> bytes | None:
        """Returns the next whole rows, together; None at the end."""
        data = bytearray()
        for kind, payload in self._until_end():
            data += payload
            if kind == ROWS:
                return bytes(data)
        return None

    def pieces(self) -> Iterator[bytes]:
        for _, payload in self._until_end():
            yield payload

    def _until_end(self) -> Records:
        if self.rows >= 0:
            return
        for kind, payload in self.records:
            if kind == END:
                self.rows = int(parsed(payload).get("rows", -1))
                return
            if kind not in (ROWS, PIECE):
                raise IntegrityError("the stream has a table without an end")
            yield kind, payload


def run_step(session: Session, step: LoadedStep) -> ServerError | None:
    try:
        for batch in step.batches:
            session.run(batch)
    except ServerError as refusal:
        return refusal
    finally:
        if any(batch.startswith("SET ") for batch in step.batches):
            attempt(session, "SET ANSI_NULLS ON")
            attempt(session, "SET QUOTED_IDENTIFIER ON")
    return None


def make_again(session: Session, programs: list[LoadedStep]) -> list[str]:
    """Makes programs anew in a database whose texts Babelfish forgot when it renamed it; returns the names of those
    that others are built upon, so that they must stay as they are.
    """
    left = []
    for program in programs:
        dropping = LoadedStep("", "", ("BEGIN TRANSACTION", f"DROP {program.kind.upper()} {program.name}"))
        refusal = run_step(session, dropping) or run_step(session, program)
        refusal = refusal or attempt(session, "COMMIT TRANSACTION")
        if refusal is not None:
            attempt(session, _ROLLBACK)
            left.append(program.name)
    return left


def insert_statements(where: str, names: str, columns: list[Column], block: bytes) -> Iterator[str]:
    """Yields INSERT statements for whole rows; raises IntegrityError when they are damaged."""
    head = f"INSERT INTO {where} ({names}) VALUES\n"
    position, rows, length = 0, list[str](), 0
    while position < len(block):
        try:
            values, position = decode_row(block, position + 1, columns)
        except (IndexError, ValueError, KeyError) as error:
            raise IntegrityError("the stream has a row that cannot be read") from error
        rows.append(f"({', '.join(literal(column, value) for column, value in zip(columns, values, strict=True))})")
        length += len(rows[-1])
        if len(rows) >= _ROWS_PER_INSERT or length > _CHARACTERS_PER_INSERT:
            yield head + ",\n".join(rows)
            rows, length = [], 0
    if rows:
        yield head + ",\n".join(rows)
