"""The audit log's lines and their chain: how a line is written, hashed and checked. docs/audit.md tells it to people.

    hash = SHA-256( previous hash, 64 hexadecimal digits || canonical JSON of the line without its two hashes )

Canonical JSON: keys sorted by code point, no spaces, UTF-8, nothing escaped but what JSON must escape. The first line
follows 64 zeros. A line that is edited, missing or in the wrong place no longer fits; lines that are missing at the
end are found by comparing with a hash that was kept elsewhere (an anchor).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

GENESIS = "0" * 64
FIELDS = (
    "number",
    "created_at",
    "actor_kind",
    "actor_id",
    "actor_name",
    "address",
    "request_id",
    "action",
    "entity_type",
    "entity_id",
    "entity_name",
    "changes",
)
"""What the hash covers, besides the hash before it."""
MOST_FIELDS = 100
MOST_CHARACTERS = 2000
"""Of one value in `changes`: longer ones are cut, and told by their length and SHA-256."""
SHOWN_CHARACTERS = 200
_MOST_EXACT = 1e15
"""Up to here JSONB gives a float back as the float that it was."""
_LONGEST_INTEGER = 2**63
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

Document = Mapping[str, Any]


def canonical(line: Document) -> bytes:
    """Returns the bytes of a line that its hash covers. Raises KeyError when a field is missing."""
    text = _encode({name: line[name] for name in FIELDS})
    return text.encode(errors="surrogatepass")  # of a file that somebody else wrote


def chained(previous_hash: str, line: Document) -> str:
    """Returns the hash of a line that follows `previous_hash`."""
    return hashlib.sha256(previous_hash.encode() + canonical(line)).hexdigest()


def to_micros(moment: datetime) -> str:
    """Returns the time as lines carry it, `2026-11-23T04:00:00.000000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def storable(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns changes that every database gives back exactly, and whose size is bounded."""
    names = list(changes)
    kept = {_text(name): _bounded(changes[name]) for name in names[:MOST_FIELDS]}
    if len(names) > MOST_FIELDS:
        kept["…"] = [None, f"{len(names) - MOST_FIELDS} more fields"]
    return kept


def _bounded(value: Any) -> Any:  # noqa: ANN401 -- plain JSON
    pair = [_plain(item) for item in value] if isinstance(value, list | tuple) else [_plain(value)]
    cut = [_cut(item) for item in pair]
    return cut if isinstance(value, list | tuple) else cut[0]


def _cut(value: Any) -> Any:  # noqa: ANN401 -- plain JSON
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= MOST_CHARACTERS:
        return value
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters, SHA-256 {digest})"


def _plain(value: Any) -> Any:  # noqa: ANN401 -- plain JSON
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) and abs(value) < _MOST_EXACT else str(value)
    if isinstance(value, int):
        return value if abs(value) < _LONGEST_INTEGER else str(value)
    if isinstance(value, Mapping):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _text(value)


def _text(value: object) -> str:
    """NUL and halves of surrogate pairs, which no database keeps, are written out."""
    return _UNSTORABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(value))


@dataclass(frozen=True)
class Finding:
    """What a check of the chain found. `broken` is the number of the first line that does not fit."""

    lines: int
    first: int
    last: int
    head: str
    """The hash of the last line that fits; 64 zeros before the first one."""
    broken: int | None = None
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


@dataclass
class Chain:
    """Checks lines one after the other, from the first; an export that begins later is checked from where it begins.

    `anchors`: hashes that were kept elsewhere, by the number of their line. `whole`: it must begin with line 1.
    """

    anchors: Mapping[int, str] = field(default_factory=dict)
    whole: bool = True
    lines: int = 0
    first: int = 0
    last: int = 0
    head: str = GENESIS
    broken: int | None = None
    problem: str | None = None

    def add(self, line: object) -> bool:
        """Takes the next line; returns False at the first one that does not fit, and for all that follow."""
        if self.problem is None:
            self._look(line)
        return self.problem is None

    def finding(self) -> Finding:
        """Returns what was found; to be asked after the last line."""
        if self.problem is None:
            self._look_for_a_tail()
        return Finding(self.lines, self.first, self.last, self.head, self.broken, self.problem)

    def _look(self, line: object) -> None:
        expected = self.last + 1
        if not isinstance(line, Mapping) or not _is_line(line):
            self._break(expected, f"line {expected} is no line of an audit log")
            return
        number, previous = line["number"], str(line["previous_hash"])
        if not self.lines and not self.whole and number > 1:
            self.first, expected, self.head = number, number, previous
        if number != expected:
            self._break(expected, f"line {expected} is missing: line {number} stands in its place")
        elif previous != self.head:
            self._break(number, f"line {number} does not follow the line before it: that one was changed or replaced")
        elif chained(previous, line) != line["hash"]:
            self._break(number, f"line {number} was changed: its hash is not that of its content")
        elif self.anchors.get(number, line["hash"]) != line["hash"]:
            self._break(number, f"line {number} is not the one whose hash was kept: the log was rewritten up to here")
        else:
            self.lines, self.first = self.lines + 1, self.first or number
            self.last, self.head = number, str(line["hash"])

    def _look_for_a_tail(self) -> None:
        newest, oldest = max(self.anchors, default=0), min(self.anchors, default=self.first)
        if newest > self.last:
            ends = f"the log ends with line {self.last}"
            self._break(self.last + 1, f"{ends}, but a hash of line {newest} was kept: its tail is gone")
        elif oldest < self.first:
            self._break(self.first, f"a hash of line {oldest} was kept, but this begins with line {self.first}")

    def _break(self, number: int, problem: str) -> None:
        self.broken, self.problem = number, problem


def _is_line(line: Mapping[Any, Any]) -> bool:
    known = all(name in line for name in (*FIELDS, "previous_hash", "hash"))
    return known and isinstance(line["number"], int) and len(line) == len(FIELDS) + 2


def read_anchors(texts: Sequence[str]) -> dict[int, str]:
    """Reads anchors, written `NUMBER:HASH`. Raises ValueError."""
    anchors: dict[int, str] = {}
    for text in texts:
        found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
        if found is None:
            raise ValueError(f"{text[:100]!r} is no anchor: it is written NUMBER:HASH")
        anchors[int(found[1])] = found[2]
    return anchors
