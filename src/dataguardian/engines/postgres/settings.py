"""ALTER DATABASE … SET, read out of an archive. The values never go into a manifest, because custom settings are
where applications like to keep secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dataguardian.engines.postgres.globals import split_statements, unquoted
from dataguardian.engines.processes import ChildProcess
from dataguardian.engines.tools import ToolSet

HEAD_BYTES = 32 * 1024 * 1024
"""How much of an archive is kept at most: its table of contents comes first and holds the settings."""
_TEXT_BYTES = 1024 * 1024

_NAME = r'("(?:[^"]|"")*"|[^\s"]+)'
_SECTION = re.compile(rb"\n-- Name: [^\n]*; Type: DATABASE PROPERTIES; [^\n]*\n--\n")
_FOR_ALL = re.compile(rf"ALTER DATABASE {_NAME} SET (.*)", re.DOTALL)
_FOR_ROLE = re.compile(rf"ALTER ROLE {_NAME} IN DATABASE {_NAME} SET (.*)", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """One `SET name TO value` of a database, for all roles or for one. `assignment` is SQL as pg_dump wrote it."""

    role: str | None
    assignment: str

    @property
    def name(self) -> str:
        return self.assignment.split(" TO ", 1)[0]


@dataclass
class Head:
    """The beginning of an archive, kept while it passes."""

    _chunks: list[bytes] = field(default_factory=list)
    _size_bytes: int = 0

    def keep(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._size_bytes < HEAD_BYTES:
                self._chunks.append(chunk)
                self._size_bytes += len(chunk)
            yield chunk

    def settings(self, tools: ToolSet, codec: str) -> list[Setting]:
        """Returns the database's settings; `codec` is Python's name of the archive's encoding."""
        section = _SECTION.split(_schema_text(self._chunks, tools), maxsplit=1)
        if len(section) == 1:
            return []
        statements = split_statements(section[1].decode(codec, "replace"))
        return list(_settings(statement for statement, _ in statements))


def _schema_text(head: Iterable[bytes], tools: ToolSet) -> bytes:
    """Returns the first MiB of the script that the archive's table of contents becomes."""
    argv = [tools.path("pg_restore"), "--create", "--schema-only", "--file=-"]
    text = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    with ChildProcess(argv, stdin=True, stdout=True) as child:
        child.feed(head)
        while len(text) < _TEXT_BYTES and (count := child.readinto(buffer)):
            text += buffer[:count]
    return bytes(text)


def _settings(statements: Iterable[str]) -> Iterator[Setting]:
    for statement in statements:
        if match := _FOR_ALL.fullmatch(statement):
            yield Setting(None, match[2])
        elif match := _FOR_ROLE.fullmatch(statement):
            yield Setting(unquoted(match[1]), match[3])
        elif not statement.startswith("ALTER DATABASE "):
            return
