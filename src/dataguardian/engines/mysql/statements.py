r"""A dump as the statements it is made of, cut as the stock client cuts them, while it passes.

`Splitter` takes bytes in pieces of any size and holds one statement at a time. It knows DELIMITER lines, strings,
quoted names, comments and what the dump's own `SET sql_mode` does to quotes; client commands (`\!`, `source`) mean
nothing to it, so a dump cannot run any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from dataguardian.domain.errors import IntegrityError

NAME = rb'(?:`(?:[^`]|``)*`|"(?:[^"]|"")*"|[\w$\x80-\xff]+)'

_TEXT = re.compile(rb"\S")
_COMMENT_LINE = re.compile(rb"(?:--[ \t\r\n]|--$|/\*M!999999\\-)")
_DELIMITER_LINE = re.compile(rb"delimiter[ \t]+(\S+)[ \t\r]*\n", re.IGNORECASE)
_COMPLETED = re.compile(rb"-- Dump completed\b")
_COLUMNS = rb"(?:\(\s*" + NAME + rb"(?:,\s*" + NAME + rb")*\s*\)\s+)?"
_ROWS = re.compile(rb"(?:INSERT|REPLACE)\s+(?:IGNORE\s+)?INTO\s+" + NAME + rb"\s+" + _COLUMNS + rb"VALUES")
_ROWS_BEGIN = (b"INSERT ", b"REPLACE ")
_SQL_MODE = re.compile(rb"SET\s+(?:@@)?(?:SESSION[\s.])?\s*sql_mode\s*=\s*'([^']*)'", re.IGNORECASE)
_MARKS = re.compile(rb"/\*M?!\d*|\*/|\s+")
_HEAD_BYTES = 2048
_SHOWN_CHARACTERS = 100
_LONGEST_HEAD_BYTES = 1 << 20
DUMP_WORDS = frozenset(
    b"SET DROP CREATE LOCK UNLOCK INSERT REPLACE ALTER DO SELECT COMMIT START BEGIN ANALYZE USE FLUSH".split()
)


@dataclass(frozen=True, slots=True)
class Statement:
    """`text` comes without its delimiter; `line` is where it begins, from 1."""

    text: bytes
    line: int

    @property
    def head(self) -> bytes:
        """Its beginning on one line, without the marks of conditional comments (`/*!50003 … */`)."""
        return _MARKS.sub(b" ", self.text[:_HEAD_BYTES]).strip()

    @property
    def word(self) -> bytes:
        """Its first word, in capitals."""
        return self.head.partition(b" ")[0].upper()

    @property
    def shown(self) -> str:
        """What people may be told of it: never a row."""
        rows = _ROWS.match(self.text)
        head = rows[0].removesuffix(b"VALUES").strip() if rows else self.head
        text = head.decode("utf-8", "replace")
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


@dataclass
class Splitter:
    """`feed` yields the statements that are complete; `finish` raises IntegrityError unless the dump ended well."""

    words: frozenset[bytes] = DUMP_WORDS
    """What a statement may begin with."""
    line: int = 1
    statements: int = 0
    longest_bytes: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _begin: int = 0
    _searched: int = 0
    _delimiter: bytes = b";"
    _modes: frozenset[bytes] = frozenset()
    _completed: bool = False

    def feed(self, data: bytes | memoryview) -> Iterator[Statement]:
        self._buffer += data
        while (statement := self._next()) is not None:
            if statement.text.strip():
                self._note(statement)
                yield statement
        del self._buffer[: self._begin]
        self._begin = 0

    def finish(self) -> None:
        self._buffer += b"\n"
        for _ in self.feed(b""):
            pass
        if self._buffer.strip():
            raise IntegrityError(f"the dump ends in the middle of the statement that begins at line {self.line}")
        if not self._completed:
            raise IntegrityError('the dump is not complete: its last line, "-- Dump completed", is missing')

    def _note(self, statement: Statement) -> None:
        self._completed = False
        self.statements += 1
        self.longest_bytes = max(self.longest_bytes, len(statement.text))
        if statement.word not in self.words:
            raise IntegrityError(f"line {statement.line} is nothing that a dump holds: {statement.shown[:20]!r}")
        if mode := _SQL_MODE.search(statement.text[:_HEAD_BYTES]) if b"sql_mode" in statement.head.lower() else None:
            self._modes = frozenset(mode[1].split(b","))
        elif statement.word == b"SET" and b"sql_mode" in statement.head.lower():
            self._modes = frozenset()

    def _next(self) -> Statement | None:
        """Returns the next statement, None when more bytes are needed."""
        while self._skip_line():
            pass
        if self._begin == len(self._buffer):
            return None
        ends = self._end_of_rows() if self._holds_rows() else self._end_by_tokens()
        if ends is None:
            return None
        self._searched = 0
        text = bytes(self._buffer[self._begin : ends[0]])
        statement = Statement(text, self.line)
        self._advance(ends[1])
        return statement

    def _skip_line(self) -> bool:
        """Passes over white space, and one line that is a comment or names a delimiter."""
        text = _TEXT.search(self._buffer, self._begin)
        self._advance(text.start() if text else len(self._buffer))
        if not _COMMENT_LINE.match(self._buffer, self._begin):
            found = _DELIMITER_LINE.match(self._buffer, self._begin)
            if found is None:
                return False
            self._delimiter = bytes(found[1])
            self._advance(found.end())
            return True
        end = self._buffer.find(b"\n", self._begin)
        if end < 0:
            return False
        self._completed |= _COMPLETED.match(self._buffer, self._begin) is not None
        self._advance(end + 1)
        return True

    def _holds_rows(self) -> bool:
        return self._delimiter == b";" and self._buffer.startswith(_ROWS_BEGIN, self._begin)

    def _end_of_rows(self) -> tuple[int, int] | None:
        """Rows hold no line break that is not escaped, but the one between two rows, which no `;` precedes."""
        begin = self._begin + self._searched
        if not self._searched:
            head = _ROWS.match(self._buffer, self._begin)
            if head is None:
                much = len(self._buffer) - self._begin > _LONGEST_HEAD_BYTES
                return self._end_by_tokens() if much else None
            begin = head.end()
        end = self._buffer.find(b");\n", begin)
        if end < 0:
            self._searched = max(1, len(self._buffer) - 2 - self._begin)
            return None
        return end + 1, end + 3

    def _end_by_tokens(self) -> tuple[int, int] | None:
        if self._is_comment_or_delimiter():
            return None
        for token in _tokens(self._delimiter, self._modes).finditer(self._buffer, self._begin):
            if token["open"] is not None:
                return None
            if token["end"] is not None:
                return token.start(), token.end()
        return None

    def _is_comment_or_delimiter(self) -> bool:
        """Tells whether a line that is none of a statement has only begun to arrive."""
        rest = bytes(self._buffer[self._begin : self._begin + 256])
        return b"\n" not in rest and rest[:9].lower().startswith((b"--", b"/*m!99999", b"delimiter"))

    def _advance(self, end: int) -> None:
        self.line += self._buffer.count(b"\n", self._begin, end)
        self._begin = end


@cache
def _tokens(delimiter: bytes, modes: frozenset[bytes]) -> re.Pattern[bytes]:
    """Returns what strings, names, comments and the delimiter look like; `open` is one that has not ended yet."""
    single, double = rb"'[^'\\]*(?:\\.[^'\\]*)*'", rb'"[^"\\]*(?:\\.[^"\\]*)*"'
    if b"NO_BACKSLASH_ESCAPES" in modes:
        single, double = rb"'[^']*'", rb'"[^"]*"'
    if b"ANSI_QUOTES" in modes:
        double = rb'"[^"]*"'
    parts = [
        rb"(?P<end>" + re.escape(delimiter) + rb")",
        rb"(?P<quoted>" + b"|".join((single, double, rb"`[^`]*`")) + rb")",
        rb"(?P<comment>--(?=[\s\x00-\x1f])[^\n]*\n|\#[^\n]*\n|/\*(?!M?!).*?\*/)",
        rb"(?P<open>['\"`]|/\*(?!M?!)|--(?=[\s\x00-\x1f])|\#)",
    ]
    return re.compile(b"|".join(parts), re.DOTALL)


def outside_quotes(
    text: bytes, pattern: bytes, replace: Callable[[re.Match[bytes]], bytes], *, count: int = 0
) -> bytes:
    """Returns `text` with every match of `pattern` (at most `count`) replaced that stands in no string or comment.

    The pattern itself may hold quoted names.
    """
    done = 0
    skipped = rb"'[^'\\]*(?:\\.[^'\\]*)*'|/\*(?!M?!).*?\*/|--(?=\s)[^\n]*|`[^`]*`"
    both = re.compile(rb"(?P<dg_hit>" + pattern + rb")|" + skipped, re.DOTALL | re.IGNORECASE)

    def one(match: re.Match[bytes]) -> bytes:
        nonlocal done
        if match["dg_hit"] is None or (count and done >= count):
            return match[0]
        done += 1
        return replace(match)

    return both.sub(one, text)
