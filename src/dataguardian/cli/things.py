"""The service's things as people name them: by name, by id, or by the beginning of an id."""

from __future__ import annotations

import difflib
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from dataguardian.cli.client import Client, Document
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import NotFoundError, UsageError

LOOKED_AT = 1000
"""How many of the newest rows are looked at for an id whose beginning does not tell its time."""

_ID_START = re.compile(r"[0-9a-f]{4,8}(-[0-9a-f-]*)?", re.IGNORECASE)
_TIME_DIGITS = 12
_TIMED_FROM = 8
"""With as many digits of its id the time at which a row was made is known to about a minute."""


@dataclass(frozen=True)
class Noun:
    """A kind of thing: `name` in texts, `path` in the API, `verb` on the command line."""

    name: str
    path: str
    verb: str

    def of(self, row_id: str) -> str:
        return f"{self.path}/{row_id}"


DATASOURCE = Noun("datasource", "/api/datasources", "datasource")
STORAGE = Noun("storage location", "/api/storage-locations", "storage")
JOB = Noun("backup job", "/api/backup-jobs", "job")
EXECUTION = Noun("execution", "/api/executions", "execution")
NOTIFICATION = Noun("notification", "/api/notifications", "notification")
RESTORE = Noun("restore", "/api/restores", "execution")
REPAIR = Noun("repair", "/api/repairs", "execution")
VERIFICATION = Noun("verification", "/api/verifications", "execution")


def named(client: Client, noun: Noun, reference: str) -> Document:
    """Returns the thing of that name, else of that id or unique beginning of one. Raises NotFoundError, UsageError."""
    rows = list(client.every(noun.path))
    for row in rows:
        if row["name"] == reference:
            return row
    return _only_one(noun, reference, rows, _close_names(noun, reference, rows))


def by_id(client: Client, noun: Noun, reference: str) -> Document:
    """Returns the thing of that id or unique beginning of one, in full. Raises NotFoundError, UsageError."""
    with suppress(ValueError):
        return client.get(noun.of(str(uuid.UUID(reference))))
    rows = _near(client, noun, reference) if _ID_START.match(reference) else []
    hint = f"`dataguardian {noun.verb} list` shows what there is"
    return client.get(noun.of(str(_only_one(noun, reference, rows, hint)["id"])))


def names(client: Client, noun: Noun) -> dict[str, str]:
    """Returns the name of each id."""
    return {row["id"]: row["name"] for row in client.every(noun.path)}


def _near(client: Client, noun: Noun, reference: str) -> Iterable[Document]:
    digits = reference.replace("-", "")
    if len(digits) >= _TIMED_FROM:
        yield from _made_at(client, noun, digits[:_TIME_DIGITS])
    yield from islice(client.every(noun.path), LOOKED_AT)  # ids of imported backups are older than their rows


def _made_at(client: Client, noun: Noun, digits: str) -> Iterator[Document]:
    """Yields what was made when an id of these first digits was: an id begins with its time in milliseconds."""
    first, last = (int(digits.ljust(_TIME_DIGITS, fill), 16) for fill in "0f")
    try:
        since, until = (datetime.fromtimestamp(stamp / 1000, UTC) for stamp in (first, last + 1))
    except (ValueError, OverflowError, OSError):
        return
    if since.year >= 1970 and until.year < 9000:  # noqa: PLR2004 -- what the API takes for a time
        yield from client.every(noun.path, from_=to_iso(since), to=to_iso(until))


def _only_one(noun: Noun, reference: str, rows: Iterable[Document], hint: str) -> Document:
    start = reference.lower()
    found = {row["id"]: row for row in rows if _ID_START.fullmatch(start) and row["id"].startswith(start)}
    if len(found) > 1:
        raise UsageError(
            f"{reference!r} is the beginning of {len(found)} ids",
            hint="write more of it: " + ", ".join(sorted(found)[:5]),
        )
    if not found:
        raise NotFoundError(f"there is no {noun.name} {reference!r}", hint=hint)
    return next(iter(found.values()))


def _close_names(noun: Noun, reference: str, rows: Sequence[Document]) -> str:
    close = difflib.get_close_matches(reference, [row["name"] for row in rows], n=3)
    if close:
        return f"did you mean {' or '.join(close)} ?"
    return f"`dataguardian {noun.verb} list` shows what there is"
