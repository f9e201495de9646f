"""Roles, memberships and tablespaces of a cluster: the script of `pg_dumpall --globals-only`, applied with care.

What exists on the server already stays as it is, so that the connecting role never changes its own password. What
is new can be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dataguardian.domain.errors import IntegrityError, RestoreFailedError
from dataguardian.engines.postgres.dump import TAIL_BYTES, is_complete_sql
from dataguardian.engines.postgres.server import Server

if TYPE_CHECKING:
    from dataguardian.engines.postgres.server import Connection

MAX_SCRIPT_BYTES = 256 * 1024 * 1024
"""A script is held whole before its first statement runs; a role takes some hundred bytes."""

_TOKEN = re.compile(
    r"""(?P<skip>--[^\n]*|^\\[^\n]*)|(?P<end>;)|(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')|(?P<name>"(?:[^"]|"")*"|[\w$]+)|.""",
    re.DOTALL | re.MULTILINE,
)
_HEAD = re.compile(r'\s*(CREATE|ALTER|COMMENT ON) (ROLE|TABLESPACE) ("(?:[^"]|"")*"|[^\s;]+)')

_MEMBERSHIP_OPTIONS = re.compile(
    r'\A(GRANT (?:"(?:[^"]|"")*"|[^\s"]+) TO (?:"(?:[^"]|"")*"|[^\s"]+)) WITH ((?:(?:ADMIN|INHERIT|SET) \w+(?:, )?)+)'
)
_MEMBERSHIP_OPTIONS_SINCE = 160000

Key = tuple[str, str]


class Globals:
    """Applies one script; `undo` takes back what it created."""

    def __init__(self, server: Server, database: str) -> None:
        self._server = server
        self._database = database
        self._created: list[Key] = []

    def apply(self, chunks: Iterable[bytes]) -> list[str]:
        """Runs the statements that make something new; returns warnings about roles that were there already."""
        statements = list(split_statements(_whole(chunks)))
        with self._server.connect(self._database, error=RestoreFailedError) as connection:
            known = _existing(connection)
            wanted = [key for statement, _ in statements if (key := _created_by(statement))]
            new = set(wanted) - known
            for statement, names in statements:
                if _concerns(statement, names, new):
                    self._run(connection, _understood(statement, connection.info.server_version))
        return [
            f"{kind.lower()} {name!r} exists on the target and was left as it is"
            for kind, name in wanted
            if (kind, name) in known
        ]

    def undo(self, connection: Connection) -> None:
        """Drops what `apply` created, the newest first."""
        from psycopg import sql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        left = _existing(connection)
        for kind, name in reversed([key for key in self._created if key in left]):
            identifier = sql.Identifier(name)
            if kind == "ROLE":
                connection.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            connection.execute(sql.SQL("DROP {} {}").format(sql.SQL(kind), identifier))
        self._created.clear()

    def _run(self, connection: Connection, statement: str) -> None:
        if key := _created_by(statement):  # noted first: a statement that is stopped may still have come through
            self._created.append(key)
        connection.execute(statement)


def split_statements(script: str) -> Iterator[tuple[str, set[str]]]:
    """Yields (statement, the names in it outside of string literals), without comments and psql's commands."""
    pieces: list[str] = []
    names: set[str] = set()
    for token in _TOKEN.finditer(script):
        if token["end"]:
            yield "".join(pieces).strip(), names
            pieces, names = [], set()
            continue
        if not token["skip"]:
            pieces.append(token[0])
        if token["name"]:
            names.add(unquoted(token["name"]))


def _whole(chunks: Iterable[bytes]) -> str:
    script = bytearray()
    for chunk in chunks:
        script += chunk
        if len(script) > MAX_SCRIPT_BYTES:
            raise RestoreFailedError(f"the script of roles is larger than {MAX_SCRIPT_BYTES} bytes")
    if not is_complete_sql(bytes(script[-TAIL_BYTES:])):
        raise IntegrityError("the script of roles and tablespaces is not complete: its last line is missing")
    return script.decode("utf-8", "surrogateescape")


def _understood(statement: str, version: int) -> str:
    """Returns a statement as an older server takes it: before 16, memberships had no option but ADMIN."""
    if version >= _MEMBERSHIP_OPTIONS_SINCE:
        return statement
    return _MEMBERSHIP_OPTIONS.sub(
        lambda match: f"{match[1]} WITH ADMIN OPTION" if "ADMIN" in match[2] else match[1], statement
    )


def _existing(connection: Connection) -> set[Key]:
    roles = connection.execute("SELECT 'ROLE', rolname FROM pg_catalog.pg_roles")
    tablespaces = connection.execute("SELECT 'TABLESPACE', spcname FROM pg_catalog.pg_tablespace")
    return {(kind, name) for rows in (roles, tablespaces) for kind, name in rows}


def _created_by(statement: str) -> Key | None:
    head = _HEAD.match(statement)
    return (head[2], unquoted(head[3])) if head and head[1] == "CREATE" else None


def _concerns(statement: str, names: set[str], new: set[Key]) -> bool:
    """Tells whether a statement is a plain SET or about something new."""
    if head := _HEAD.match(statement):
        return (head[2], unquoted(head[3])) in new
    return statement.startswith("SET ") or bool(names & {name for _, name in new})


def unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
