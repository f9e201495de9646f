"""When a job is due: cron expressions in a time zone, exact on the days when the clocks change.

Five fields (minute, hour, day of month, month, day of week) as Debian's cron reads them, names (`MON`, `JAN`) and
the Quartz words `L`, `LW` and `5#2` included, or one of `@hourly @daily @weekly @monthly @yearly`. Days of month and
of week must both match when either field begins with a star, else one of them is enough.

cronsim walks the fields over wall-clock readings; the way from a reading to an instant is ours:

- **Fixed hours** (the hour field leaves out at least one hour of the day: `30 2 * * *`, `0 */6 * * *`,
  `*/15 1 * * *`). A reading that the clocks jump over is run at the instant at which they jump, several such readings
  once; a reading that comes twice is run the first time only.
- **Every hour** (the hour field covers all 24: `0 * * * *`, `*/5 * * * *`, `0 0-23 * * *`). Every instant whose
  reading matches is a run: readings that are jumped over have none, readings that come twice have two, so that the
  runs go on evenly through both days.

cron(8) on Debian promises the first rule to jobs "with a granularity greater than one hour", but it and cronsim decide
by spelling: any minute or hour field that begins with a star goes by the second rule. Then `*/30 2 * * *` has no run
at all on the spring day, `0 */2 * * *` runs twice in autumn, and `0 0-23 * * *` pauses for an hour. For backups the
meaning decides, not the spelling; where the two agree, so do the instants (cronsim steps whole hours, so it also loses
runs where a zone shifts by half an hour; we do not).
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from dataguardian.domain.errors import UsageError

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_HINT = (
    "five fields: minute hour day-of-month month day-of-week, such as '30 2 * * *' or '0 */6 * * MON-FRI', or @daily"
)
_ORDINALS = {"1": "1st", "2": "2nd", "3": "3rd"}
_LONGEST_EXPRESSION = 500
_FIELDS = 5
_DAY = timedelta(days=1)
_EVERY_HOUR = frozenset(range(24))
_REFERENCE = datetime(2000, 1, 1)  # noqa: DTZ001 -- a wall-clock reading; has a whole leap cycle after it
_NOT_PLACES = frozenset({"localtime", "Factory", "posixrules"})  # files beside the zones; they mean the machine


@dataclass(frozen=True)
class Schedule:
    """A parsed schedule; made by `parse_schedule`. Moments go in aware and come out in UTC, on whole minutes."""

    expression: str
    timezone: str
    fields: str
    zone: ZoneInfo
    every_hour: bool

    def next_after(self, moment: datetime) -> datetime:
        """Returns the first run strictly after `moment`; raises UsageError when there is none in the next 50 years."""
        reading, setback = self._reading(moment), self._setback(moment)
        # First showings (fold 0) come in the order of their readings and so do last ones (fold 1), but not both
        # together; only a last showing can be later than `moment` although its reading is earlier.
        return min(self._first_after(moment, reading - fold * setback, fold) for fold in self._folds())

    def previous_before(self, moment: datetime) -> datetime:
        """Returns the last run strictly before `moment`; raises UsageError when there was none in 50 years."""
        reading, setback = self._reading(moment), self._setback(moment - _DAY)
        return max(self._last_before(moment, reading + (1 - fold) * setback, fold) for fold in self._folds())

    def upcoming(self, moment: datetime, count: int) -> list[datetime]:
        """Returns the next `count` runs after `moment`, earliest first."""
        runs: list[datetime] = []
        while len(runs) < count:
            moment = self.next_after(moment)
            runs.append(moment)
        return runs

    def missed_between(self, after: datetime, until: datetime, limit: int) -> int:
        """Returns how many runs fall after `after` and not later than `until`, counting no further than `limit`."""
        count = 0
        while count < limit and (after := self.next_after(after)) <= until:
            count += 1
        return count

    def describe(self) -> str:
        """Returns a short sentence, such as `At 02:30 every day (Europe/Berlin)`."""
        sentence = CronSim(self.fields, _REFERENCE).explain()
        # cronsim 2.8 writes 21th and 52th; 11th to 13th are right.
        sentence = re.sub(r"\b([2-5])([123])th\b", lambda found: found[1] + _ORDINALS[found[2]], sentence)
        return f"{sentence} ({self.timezone})"

    def _folds(self) -> tuple[int, ...]:
        return (0, 1) if self.every_hour else (0,)

    def _reading(self, moment: datetime) -> datetime:
        return _aware(moment).astimezone(self.zone).replace(tzinfo=None)

    def _setback(self, moment: datetime) -> timedelta:
        """Returns by how much the clocks go back within a day after `moment`; zero when they do not.

        No zone ever went back by more than a day, so a reading can come again only that much later.
        """
        change = _offset(moment, self.zone) - _offset(moment + _DAY, self.zone)
        return max(change, timedelta())

    def _first_after(self, moment: datetime, start: datetime, fold: int) -> datetime:
        for reading in _readings(self.fields, start):
            instant = self._instant(reading, fold)
            if instant is not None and instant > moment:
                return instant
        raise _never_runs(self.expression)

    def _last_before(self, moment: datetime, start: datetime, fold: int) -> datetime:
        for reading in _readings(self.fields, start, reverse=True):
            instant = self._instant(reading, fold)
            if instant is not None and instant < moment:
                return instant
        raise _never_runs(self.expression)

    def _instant(self, reading: datetime, fold: int) -> datetime | None:
        """Returns the instant at which `reading` is run, None for a jumped-over one of an every-hour schedule."""
        instant = reading.replace(tzinfo=self.zone, fold=fold).astimezone(UTC)
        if instant.astimezone(self.zone).replace(tzinfo=None) == reading:
            return instant
        return None if self.every_hour else _jump_over(reading, self.zone)


@lru_cache(maxsize=1024)
def parse_schedule(expression: str, timezone: str) -> Schedule:
    """Returns the schedule for a cron expression in an IANA time zone.

    Raises UsageError for an expression that cannot be read or names no day that exists (`0 0 30 2 *`), and for an
    unknown zone.
    """
    zone = load_zone(timezone)
    fields = _expand(expression)
    try:
        walk = CronSim(fields, _REFERENCE)
    except CronSimError as error:
        reason = str(error)[:1].lower() + str(error)[1:]
        raise UsageError(
            f"{expression!r} is not a cron expression: {reason}", hint=f"write {_HINT}", expression=expression
        ) from error
    if next(walk, None) is None:
        raise _never_runs(expression)
    every_hour = walk.hours == _EVERY_HOUR
    return Schedule(expression=expression, timezone=timezone, fields=fields, zone=zone, every_hour=every_hour)


def load_zone(timezone: str) -> ZoneInfo:
    """Returns the zone of an IANA name; raises UsageError, with a name that looks alike, for anything else."""
    names = _zone_names()
    if timezone not in names:
        alike = {name.lower(): name for name in names}
        close = difflib.get_close_matches(timezone.lower().replace(" ", "_")[:100], alike, n=1)
        hint = f"did you mean {alike[close[0]]}?" if close else "write an IANA name such as Europe/Berlin or UTC"
        raise UsageError(f"{timezone!r} is not a known time zone", hint=hint, timezone=timezone)
    return ZoneInfo(timezone)


def _expand(expression: str) -> str:
    if len(expression) > _LONGEST_EXPRESSION:
        raise UsageError(f"a cron expression has at most {_LONGEST_EXPRESSION} characters", hint=f"write {_HINT}")
    words = expression.split()
    fields = _ALIASES.get(words[0].lower(), "").split() if len(words) == 1 else words
    if len(fields) != _FIELDS:
        raise UsageError(
            f"{expression!r} is not a cron expression: it needs {_FIELDS} fields",
            hint=f"write {_HINT}",
            expression=expression,
        )
    return " ".join(fields)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - _NOT_PLACES


def _readings(fields: str, start: datetime, *, reverse: bool = False) -> Iterator[datetime]:
    """Yields the matching wall-clock readings strictly after (before) `start`, for as long as 50 years have one."""
    return iter(CronSim(fields, start, reverse=reverse))


def _jump_over(reading: datetime, zone: ZoneInfo) -> datetime:
    """Returns the instant at which the clocks jump over `reading`."""
    # The offset from after the jump puts a skipped reading before it, the offset from before it puts it after.
    before = reading.replace(tzinfo=zone, fold=1).astimezone(UTC)
    behind = reading.replace(tzinfo=zone, fold=0).astimezone(UTC)
    old_offset = _offset(before, zone)
    seconds = range(int((behind - before).total_seconds()))
    elapsed = bisect_left(seconds, True, key=lambda s: _offset(before + timedelta(seconds=s), zone) != old_offset)
    return before + timedelta(seconds=elapsed)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone is ambiguous")
    return moment


def _never_runs(expression: str) -> UsageError:
    return UsageError(
        f"{expression!r} never runs: no day matches it",
        hint="choose a day that exists in one of its months",
        expression=expression,
    )
