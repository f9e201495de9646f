r"""A dump into a database of another name than the one that it was taken from, statement by statement.

The statements are sent by the driver and not by the stock client: a dump cannot run the client's commands then (`\!`
and `source` in a crafted name have been such holes), an error names its statement, and all that the restore does is
one session that can be ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dataguardian.domain.errors import (
    DataGuardianError,
    DiskFullError,
    IntegrityError,
    NotAllowedError,
    RestoreFailedError,
    UnreachableError,
)
from dataguardian.engines.mysql.server import Session, error_of, translated
from dataguardian.engines.mysql.statements import NAME, Splitter, Statement, outside_quotes

_OBJECT = re.compile(rb"\b(TABLE|VIEW|TRIGGER|EVENT|SEQUENCE)\b|`(?:[^`]|``)*`|'[^']*'", re.IGNORECASE)
_TRIGGER = rb"(TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?)(?:" + NAME + rb"\s*\.\s*)?(" + NAME + rb"\s.{1,400}?\sON\s+)"
_TRIGGER += rb"(?:" + NAME + rb"\s*\.\s*)?(" + NAME + rb"\s+FOR\s+EACH\s+ROW)"
_EVENT = rb"(EVENT\s+)(" + NAME + rb")(\s.*?ON\s+COMPLETION\s+(?:NOT\s+)?PRESERVE\s+)"
_EVENT += rb"(ENABLE|DISABLE(?:\s+ON\s+(?:SLAVE|REPLICA))?)\b"
_STATUS = rb"(ON\s+COMPLETION\s+(?:NOT\s+)?PRESERVE\s+)DISABLE\b"
# Settings of the whole server, or of its log, are no part of a database.
_LEFT_OUT = re.compile(rb"SET\s+@@(?:GLOBAL\s*\.|SESSION\s*\.\s*SQL_LOG_BIN)", re.IGNORECASE)
_COLLATION = rb"\butf8(?:mb[34])?_(?:0900|uca1400|[a-z]+_0900|[a-z]+_uca1400)\w*"
_NOT_IN_A_DATABASE = frozenset((b"USE", b"FLUSH"))
_HINTS = {
    1153: "raise max_allowed_packet on the server to what the statement needs",
    1227: "restore as a user who may set other definers (SUPER, SET USER or SET_ANY_DEFINER)",
    1273: "restore into a server that knows this collation",
    1286: "install the storage engine on the server",
    1419: "SET GLOBAL log_bin_trust_function_creators = 1, or restore as a user with SUPER",
    1478: "create the tablespace on the server first, or restore into one that has it",
}


@dataclass
class Load:
    """One dump on its way into `database`, where nothing is yet; `source` is what it was called where it was taken.

    Events are made disabled: they must not run before the restore is complete. `statuses` keeps what they were.
    """

    session: Session
    database: str
    shown_as: str
    source: str
    statuses: dict[bytes, bytes] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _collations: frozenset[str] = frozenset()

    def run(self, chunks: Iterable[bytes]) -> None:
        """Raises RestoreFailedError and the like at the first error, and passes on what `chunks` raises."""
        self._collations = known_collations(self.session)
        self.session.use(self.database)
        splitter = Splitter()
        for chunk in chunks:
            for statement in splitter.feed(chunk):
                self._carry_out(statement)
        splitter.finish()

    def _carry_out(self, statement: Statement) -> None:
        import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        text = self._fitted(statement)
        if text is None:
            return
        try:
            self.session.run(text)
        except pymysql.err.Error as failure:
            raise self._failed(failure, statement) from failure

    def _fitted(self, statement: Statement) -> bytes | None:
        """Returns the statement for this database; None when it is none of a database's."""
        word = statement.word
        if word in (b"INSERT", b"REPLACE"):
            return statement.text
        if word in _NOT_IN_A_DATABASE:
            raise IntegrityError(f"line {statement.line} leads elsewhere: {statement.shown}")
        if word == b"SET" and _LEFT_OUT.match(statement.head):
            return None
        text = self._with_known_collations(statement.text)
        return self._created(text) if word == b"CREATE" else text

    def _created(self, text: bytes) -> bytes:
        kind = kind_of(text)
        if kind == b"TRIGGER":
            return outside_quotes(text, _TRIGGER, lambda match: match[2] + match[3] + match[4], count=1)
        if kind == b"EVENT":
            return outside_quotes(text, _EVENT, self._disabled, count=1)
        if kind in (b"TABLE", b"VIEW"):
            return renamed(text, self.source, self.database)
        return text

    def _disabled(self, match: re.Match[bytes]) -> bytes:
        self.statuses[match[3].strip(b"`").replace(b"``", b"`")] = match[5]
        return match[2] + match[3] + match[4] + b"DISABLE"

    def _with_known_collations(self, text: bytes) -> bytes:
        if b"0900" not in text and b"uca1400" not in text:
            return text

        def known(match: re.Match[bytes]) -> bytes:
            return self._known_collation(match[0].decode("ascii", "replace")).encode()

        return outside_quotes(text, _COLLATION, known)

    def _known_collation(self, name: str) -> str:
        found = nearest_collation(name, self._collations)
        if found != name:
            warning = f"the server does not know collation {name}: {found} is used"
            if warning not in self.warnings:
                self.warnings.append(warning)
        return found

    def _failed(self, failure: Any, statement: Statement) -> DataGuardianError:  # noqa: ANN401 -- pymysql is imported late
        number, text = error_of(failure)
        known = translated(failure, self.shown_as, RestoreFailedError)
        kind = (
            type(known) if isinstance(known, (DiskFullError, NotAllowedError, UnreachableError)) else RestoreFailedError
        )
        return kind(
            f"restoring database {self.shown_as!r} stopped at line {statement.line} of the dump"
            f" ({statement.shown}): {text}",
            hint=_HINTS.get(number, known.hint),
            line=statement.line,
            number=number,
        )


def with_status(create: bytes, status: bytes) -> bytes:
    """Returns an event's statement with the status that it had when it was dumped."""
    return outside_quotes(create, _STATUS, lambda match: match[2] + status, count=1)


def kind_of(text: bytes) -> bytes:
    """Returns what a CREATE statement makes, in capitals; b'' for routines, whose texts stay as they are."""
    head = text[:4096]
    routine = re.compile(rb"\b(?:FUNCTION|PROCEDURE|PACKAGE)\b|" + _OBJECT.pattern, re.IGNORECASE)
    found = next((match for match in routine.finditer(head) if match[0][:1] not in b"`'"), None)
    return found[1].upper() if found and found[1] else b""


def renamed(text: bytes, source: str, target: str) -> bytes:
    """Returns a table's or view's statement with the sequences and functions of `source` looked for in `target`.

    The server writes their database's name although it is the current one. `source`.`x` may also be a column of a
    table of that name, so only what is called counts, and names of three parts.
    """
    old, new = (b"`" + name.replace("`", "``").encode() + b"`." for name in (source, target))
    if old not in text:
        return text
    called = rb"((?:nextval|lastval|setval)\s*\(\s*)" + re.escape(old)
    called += rb"|" + re.escape(old) + rb"(`(?:[^`]|``)*`(?=\s*\(|\.`))"
    return outside_quotes(text, called, lambda match: (match[2] or b"") + new + (match[3] or b""))


def known_collations(session: Session) -> frozenset[str]:
    """Returns the server's collations in all the spellings that it takes."""
    if session.flavour == "MariaDB" and session.release >= (10, 10, 1):
        table = "information_schema.COLLATION_CHARACTER_SET_APPLICABILITY"
        rows = session.rows(f"SELECT COLLATION_NAME, FULL_COLLATION_NAME FROM {table}")  # noqa: S608 -- a constant
        return frozenset(str(name) for row in rows for name in row)
    return frozenset(str(row[0]) for row in session.rows("SELECT COLLATION_NAME FROM information_schema.COLLATIONS"))


def nearest_collation(name: str, known: frozenset[str]) -> str:
    """Returns `name`, or where the server does not know it the one of the other flavour that compares most alike."""
    if name in known or not known:
        return name
    charset = name.partition("_")[0]
    sensitive = "_as_" in name or name.endswith("_bin")
    wanted = {
        "_bin": [f"{charset}_bin"],
        "0900": [name.replace("_0900_", "_uca1400_"), f"{charset}_uca1400_{'as_cs' if sensitive else 'ai_ci'}"],
        "uca1400": [name.replace("_uca1400_", "_0900_"), f"{charset}_0900_{'as_cs' if sensitive else 'ai_ci'}"],
    }
    candidates = [choice for mark, choices in wanted.items() if mark in name for choice in choices]
    candidates += [f"{charset}_unicode_520_ci", f"{charset}_unicode_ci", f"{charset}_general_ci"]
    return next((candidate for candidate in candidates if candidate in known), name)
