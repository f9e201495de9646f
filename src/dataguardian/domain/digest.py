"""The daily summary: many notifications become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID, uuid5

from dataguardian.domain.clock import to_iso
from dataguardian.domain.notifications import Notification, rank
from dataguardian.domain.states import EntityType, NotificationType, Severity

MAX_LINES = 80
"""Lines of the longest title fit into the longest message."""

_NAMESPACE = UUID("6f0f3c0e-5d1b-5c39-9e0e-3f6c2f1c7a55")


def render_digest(
    notifications: Iterable[Notification], since: datetime, until: datetime, *, anchor: str | None = None
) -> Notification:
    """Returns the summary of what was created in [since, until), the gravest first and then the newest.

    Times are written in the zone of `until`. A day without news has a digest too: it shows that somebody is watching.
    The id follows from the two times alone, so that a digest that is made twice is recognised as one. `anchor` is the
    end of the audit log, written `NUMBER:HASH`: who gets the digest holds it where the database's owner cannot write.
    """
    told = [entry for entry in notifications if since <= entry.created_at < until and not _is_digest(entry)]
    told.sort(key=lambda entry: (rank(entry.severity), entry.created_at), reverse=True)
    counts = Counter(entry.severity for entry in told)
    return Notification(
        id=uuid5(_NAMESPACE, f"{to_iso(since)}/{to_iso(until)}"),
        type=NotificationType.DAILY_DIGEST,
        severity=told[0].severity if told else Severity.INFO,
        entity_type=EntityType.SYSTEM,
        title=f"Daily digest: {_counted(counts)}",
        message="\n".join([*_lines(told, since, until), *_anchored(anchor)]),
        metadata={
            "since": to_iso(since),
            "until": to_iso(until),
            **{severity.value: counts[severity] for severity in Severity},
            **({"audit_anchor": anchor} if anchor else {}),
        },
        created_at=until.astimezone(UTC),
    )


def _is_digest(entry: Notification) -> bool:
    return entry.type is NotificationType.DAILY_DIGEST


def _counted(counts: Counter[Severity]) -> str:
    words = [f"{counts[severity]} {severity}" for severity in reversed(Severity) if counts[severity]]
    return ", ".join(words) or "nothing happened"


def _lines(told: list[Notification], since: datetime, until: datetime) -> list[str]:
    zone = until.tzinfo
    lines = [f"From {since.astimezone(zone):%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M %Z}", ""]
    lines += [
        f"{entry.created_at.astimezone(zone):%Y-%m-%d %H:%M}  {entry.severity.upper():8}  {entry.title}"
        for entry in told[:MAX_LINES]
    ]
    if not told:
        lines.append("Nothing happened.")
    if len(told) > MAX_LINES:
        lines.append(f"… and {len(told) - MAX_LINES} more")
    return lines


def _anchored(anchor: str | None) -> list[str]:
    if anchor is None:
        return []
    return ["", "Keep this: the end of the audit log, for `dataguardian audit verify --anchor`", anchor]
