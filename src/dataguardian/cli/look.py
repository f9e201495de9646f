"""How things of the service look in a terminal: tables, times as people say them, colours of states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dataguardian.cli import output
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.sizes import format_size

if TYPE_CHECKING:
    from rich.text import Text

NOTHING = "-"
ID_LENGTH = 13
"""Of a shown id: a UUID's time, to the millisecond."""

SHOWN_KEY_LENGTH = 80
SHOWN_KEYS = 3

COPIED = frozenset({"ID", "EXECUTION"})
"""Columns whose values are copied out of a table, and so are never wrapped."""

_COLOURS = {
    "bold green": {"completed", "healthy", "ok", "sent"},
    "cyan": {"running", "queued", "deleting", "active"},
    "yellow": {"warning", "skipped", "cancelled", "partial", "behind", "timeout", "paused"},
    "bold red": {"failed", "critical", "full", "unreachable", "auth_failed", "error", "unavailable"},
    "dim": {"unknown", "info", "disabled", NOTHING},
}
_STYLES = {word: style for style, words in _COLOURS.items() for word in words}
_STEPS = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_NOW_SECONDS = 2


def when(moment: str | None) -> str:
    """Returns an RFC 3339 time as `3 min ago`, `in 2 h` or `now`; `-` for none."""
    if moment is None:
        return NOTHING
    seconds = (SystemClock().now() - datetime.fromisoformat(moment)).total_seconds()
    size = abs(seconds)
    if size < _NOW_SECONDS:
        return "now"
    unit, name = next((step for step in _STEPS if size >= step[0]), _STEPS[-1])
    text = f"{size // unit:.0f} {name}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def moment(text: str | None) -> str:
    """Returns `2026-11-23 04:00:00 UTC, 3 min ago`."""
    return NOTHING if text is None else f"{text[:10]} {text[11:19]} UTC, {when(text)}"


def size(size_bytes: float | None) -> str:
    return NOTHING if size_bytes is None else format_size(size_bytes)


def encryption(document: Mapping[str, Any] | None) -> str | None:
    """Returns `for age1abc…, ssh-ed25519 AAAA…` or `with a passphrase`; None for what is in clear."""
    if document is None:
        return None
    if document.get("passphrase"):
        return "with a passphrase"
    recipients = [str(text) for text in document["recipients"]]
    shown = [text if len(text) <= SHOWN_KEY_LENGTH else f"{text[: SHOWN_KEY_LENGTH - 1]}…" for text in recipients]
    more = f" and {len(shown) - SHOWN_KEYS} more" if len(shown) > SHOWN_KEYS else ""
    return f"for {', '.join(shown[:SHOWN_KEYS])}{more}"


def duration(seconds: float | None) -> str:
    """Returns `0.4 s`, `12 s`, `3:05` or `2:03:05`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:  # noqa: PLR2004 -- a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 -- decimals where they tell
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def state(word: str | None) -> Text:
    """Returns a state in its colour."""
    from rich.text import Text

    text = word or NOTHING
    return Text(output.visible(text), style=_STYLES.get(text, ""))


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Returns for each id the shortest beginning, of at least ID_LENGTH characters, that no other one has."""
    known = sorted(ids)
    lengths = dict.fromkeys(known, ID_LENGTH)
    for left, right in pairwise(known):
        same = next((place for place, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), 0)
        lengths[left], lengths[right] = max(lengths[left], same + 1), max(lengths[right], same + 1)
    return {name: name[: lengths[name]] for name in known}


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Prints rows under headings; the columns named in `right` hold figures."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        whole = name in right or name in COPIED
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(output.visible(cell)) for cell in row))
    output.show_table(table)
