"""Which backups of one job stay: grandfather-father-son retention as a pure function.

A backup's date is the local date, in the job's time zone, of its `created_at`; its age is the number of days from
there to the date of the pass. It stays when any of these holds, so that no rule eats another's:

- `daily`: its age is less than `keep_daily` days.
- `weekly`: it stands for its Monday-to-Sunday week and its age is less than `keep_weekly` times 7 days. The newest
  backup of the week's Sunday stands for a week, else the newest of the week (Sunday ends the week: the same backup).
- `monthly`: it stands for its calendar month, and that month lies less than `keep_monthly` months back (12 means this
  month and the eleven before it). The newest backup of day 1 stands for a month, else the earliest of the month.
- `last`: it is one of the newest `keep_last`.
- `pinned`: somebody pinned it.
- `newest_good`: it is the newest, whatever the policy says.
- `future`: it is dated after the pass, so one of the two clocks is wrong. It stays, and until its date comes it neither
  stands for a week or month nor counts as newest: a wrong clock must not push a real backup out.
- `auto_delete_off`: the policy removes nothing.

A `keep_daily`, `keep_weekly` or `keep_monthly` of 0 switches that rule off.

Every rule but the switch holds from a backup's date up to one date that is known beforehand, its *end*, because who
stands for a period is decided by newer backups (a week, day 1, the last ones), or once for all when it is made (the
earliest of a month). So a backup that will ever stand for its week or month is held by that rule from its first day
on, until the rule's end: daily passes lose nothing that a later pass would want, and a pass over its own survivors
removes nothing more. `expires_on` is the latest of the ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from dataguardian.domain.cron import load_zone

_CENTURY_OF_DAYS = 36_525
_CENTURY_OF_WEEKS = 5_218
_CENTURY_OF_MONTHS = 1_200
_MOST_LAST = 1_000_000
_SUNDAY = 6
_WEEK_DAYS = 7
_YEAR_MONTHS = 12
_NEVER = date.min  # the end of a rule that does not hold
_FOREVER = date.max
_MOST_SHIFT = timedelta(days=2)
"""Of two backups so far apart, the later one has the later local date, whatever a zone has done to its clocks."""
_NAIVE = "a time without a time zone has no date"
_PHRASES = {
    "daily": "a daily backup",
    "last": "one of the last backups",
    "newest_good": "the newest backup",
    "pinned": "a pinned backup",
    "future": "a backup dated in the future",
    "auto_delete_off": "part of a job that deletes nothing by itself",
}


class RetentionPolicy(BaseModel):
    """How long a job's backups stay. Counts of days, weeks, months and backups; up to a century each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auto_delete: bool = True
    keep_daily: Annotated[int, Field(ge=0, le=_CENTURY_OF_DAYS)] = 7
    keep_weekly: Annotated[int, Field(ge=0, le=_CENTURY_OF_WEEKS)] = 4
    keep_monthly: Annotated[int, Field(ge=0, le=_CENTURY_OF_MONTHS)] = 12
    keep_last: Annotated[int, Field(ge=1, le=_MOST_LAST)] = 1


@dataclass(frozen=True, slots=True)
class RetainedBackup:
    """A completed backup as retention sees it. `created_at` is aware, `size_bytes` is what it takes in the storage."""

    id: str
    created_at: datetime
    pinned: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one backup.

    `reasons` are the rules that hold it today, in the order of the module's list of rules, none when it goes.
    `expires_on` is the local date of the first pass on which it goes if nothing else happens and no new backup arrives:
    the date of this pass when it goes now, None when it would stay for good. `local_date` is the backup's own date.
    """

    id: str
    keep: bool
    reasons: tuple[str, ...]
    expires_on: date | None
    local_date: date
    size_bytes: int


def plan_retention(
    backups: Iterable[RetainedBackup], policy: RetentionPolicy, today: date, timezone: str
) -> list[Decision]:
    """Returns a decision for each backup of **one job**, newest first; time O(n log n), memory O(n).

    `today` is the date of the pass in `timezone`, the job's IANA zone (see `local_date`). Raises UsageError for an
    unknown zone, ValueError for a naive `created_at` and for an id that comes twice.
    """
    planner = RetentionPlanner(policy, today, timezone)
    known = list(backups)
    if len({backup.id for backup in known}) != len(known):
        raise ValueError("a backup is listed twice; one of the two could be removed in the other's name")
    if any(backup.created_at.tzinfo is None for backup in known):
        raise ValueError(_NAIVE)
    newest_first = sorted(known, key=_age_key, reverse=True)
    return [decision for backup in newest_first for decision in planner.add(backup)] + list(planner.finish())


class RetentionPlanner:
    """Decides on the backups of one job while they pass, in memory that does not grow with their number.

    It holds those of the last two days that passed, and a date for each of the `keep_last` newest.
    """

    def __init__(self, policy: RetentionPolicy, today: date, timezone: str) -> None:
        self._policy = policy
        self._today = today
        self._zone = load_zone(timezone)
        self._last: deque[date] = deque(maxlen=policy.keep_last)
        self._before: RetainedBackup | None = None
        self._newer: _Dated | None = None
        self._waiting: deque[_Dated] = deque()

    def add(self, backup: RetainedBackup) -> Iterator[Decision]:
        """Takes the next backup, which must be older than those before; yields what is decided by now, newest first.

        Raises ValueError for one that is not older, and for a naive `created_at`.
        """
        item = self._dated(backup)
        at = len(self._waiting)  # nearly always its place: see _Dated.calendar_key
        while at and self._waiting[at - 1].calendar_key < item.calendar_key:
            at -= 1
        self._waiting.insert(at, item)
        while len(self._waiting) > 1 and self._waiting[1].backup.created_at - backup.created_at > _MOST_SHIFT:
            yield self._decide(self._waiting.popleft())

    def finish(self) -> Iterator[Decision]:
        """Yields the decisions on the oldest backups, after the last one was added."""
        while self._waiting:
            yield self._decide(self._waiting.popleft())

    def _dated(self, backup: RetainedBackup) -> _Dated:
        day = _date_in(backup.created_at, self._zone)
        if self._before is not None and _age_key(self._before) <= _age_key(backup):
            raise ValueError("backups come newest first, and each one once")
        overtaken = self._last[0] if len(self._last) == self._policy.keep_last else _FOREVER
        newest_until = self._last[-1] if self._last else _FOREVER
        self._last.append(day)
        self._before = backup
        return _Dated(backup, day, overtaken, newest_until)

    def _decide(self, item: _Dated) -> Decision:
        newer, older = self._newer, self._waiting[0] if self._waiting else None
        self._newer = item
        ends = {
            "daily": _days_later(item.day, self._policy.keep_daily),
            "weekly": _weekly_end(item, newer, self._policy.keep_weekly),
            "monthly": _monthly_end(item, newer, older, self._policy.keep_monthly),
            "last": item.last_until,
            "pinned": _FOREVER if item.backup.pinned else _NEVER,
            "newest_good": item.newest_until,
        }
        return _decide(item, ends, self._policy, self._today)


def local_date(moment: datetime, timezone: str) -> date:
    """Returns the date of an aware `moment` in an IANA zone; that of the pass is the `today` of `plan_retention`."""
    return _date_in(moment, load_zone(timezone))


def exceeds_share(removed: int, total: int, max_share: float) -> bool:
    """Tells whether a pass that removes so many would remove more than `max_share` (0 to 1) of those it looked at."""
    return removed > max_share * total


def describe(decision: Decision) -> str:
    """Returns the decision as a phrase, such as `kept as the Sunday of its week until 2026-12-20`."""
    if not decision.keep:
        return "removed: no rule of the retention policy holds it any more"
    words = [_phrase(reason, decision.local_date) for reason in decision.reasons]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"kept as {listed} {_term(decision)}"


@dataclass(frozen=True, slots=True)
class _Dated:
    """A backup, its local date, and the dates on which it stops being one of the last, and the newest."""

    backup: RetainedBackup
    day: date
    last_until: date
    newest_until: date

    @property
    def calendar_key(self) -> tuple[date, datetime, str]:
        """Not always the order of age: where the clocks go back over midnight, a later backup can bear an earlier
        date.
        """
        return self.day, *_age_key(self.backup)

    @property
    def week(self) -> int:
        return (self.day.toordinal() - 1) // _WEEK_DAYS  # day 1 of the calendar was a Monday

    @property
    def month(self) -> int:
        return self.day.year * _YEAR_MONTHS + self.day.month - 1


def _age_key(backup: RetainedBackup) -> tuple[datetime, str]:
    return backup.created_at, backup.id  # the id decides between equal times, so that plans are stable


def _weekly_end(item: _Dated, newer: _Dated | None, keep_weekly: int) -> date:
    if keep_weekly == 0:
        return _NEVER
    if newer is not None and newer.week == item.week:
        return newer.day  # from that day on the newer one stands for the week
    return _days_later(item.day, keep_weekly * _WEEK_DAYS)


def _monthly_end(item: _Dated, newer: _Dated | None, older: _Dated | None, keep_monthly: int) -> date:
    if keep_monthly == 0 or not _stands_for_month(item, newer, older):
        return _NEVER
    return _first_of_month(item.month + keep_monthly)


def _stands_for_month(item: _Dated, newer: _Dated | None, older: _Dated | None) -> bool:
    if item.day.day == 1:
        return newer is None or newer.day != item.day
    return older is None or older.month != item.month


def _decide(item: _Dated, ends: dict[str, date], policy: RetentionPolicy, today: date) -> Decision:
    if item.day > today:  # stands for nothing yet, but what it will stand for counts in its end
        ends = {"future": max(item.day, *ends.values()), "pinned": ends["pinned"]}
    reasons = [reason for reason, end in ends.items() if end > today]
    last_end = max(ends.values())
    if not policy.auto_delete:
        reasons.append("auto_delete_off")
        last_end = _FOREVER
    return Decision(
        id=item.backup.id,
        keep=bool(reasons),
        reasons=tuple(reasons),
        expires_on=None if last_end == _FOREVER else max(last_end, today),
        local_date=item.day,
        size_bytes=item.backup.size_bytes,
    )


def _phrase(reason: str, day: date) -> str:
    if reason == "weekly":
        return "the Sunday of its week" if day.weekday() == _SUNDAY else "the newest of its week"
    if reason == "monthly":
        return "day 1 of its month" if day.day == 1 else "the earliest of its month"
    return _PHRASES[reason]


def _term(decision: Decision) -> str:
    if decision.expires_on is not None:
        return f"until {decision.expires_on.isoformat()}"
    if "auto_delete_off" in decision.reasons:
        return "until automatic deletion is switched on"
    if "pinned" in decision.reasons:
        return "until it is unpinned"
    return "at least until newer backups arrive"


def _date_in(moment: datetime, zone: ZoneInfo) -> date:
    if moment.tzinfo is None:
        raise ValueError(_NAIVE)
    return moment.astimezone(zone).date()


def _days_later(day: date, days: int) -> date:
    return date.fromordinal(min(day.toordinal() + days, _FOREVER.toordinal()))


def _first_of_month(month: int) -> date:
    year, month_index = divmod(month, _YEAR_MONTHS)
    return date(year, month_index + 1, 1) if year <= _FOREVER.year else _FOREVER
