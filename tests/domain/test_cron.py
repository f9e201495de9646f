"""Schedules: the ordinary days, the days when the clocks change, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataguardian.domain.cron import Schedule, load_zone, parse_schedule
from dataguardian.domain.errors import UsageError

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

# Days on which clocks change, with something odd about each.
CHANGES = [
    ("America/New_York", "2024-03-10"),
    ("America/New_York", "2024-11-03"),
    ("America/Sao_Paulo", "2018-02-18"),  # back at midnight: 23:00 to 24:00 of the 17th comes twice
    ("America/Sao_Paulo", "2018-11-04"),  # forward at midnight: the 4th begins at 01:00
    ("America/Sao_Paulo", "2019-02-17"),  # the last change of all
    ("America/St_Johns", "2010-11-07"),  # back at 00:01: the date itself comes twice
    ("Australia/Lord_Howe", "2024-04-07"),  # back by 30 minutes
    ("Australia/Lord_Howe", "2024-10-06"),  # forward by 30 minutes
    ("Europe/Berlin", "2024-03-31"),
    ("Europe/Berlin", "2024-10-27"),
    ("Europe/Dublin", "2024-03-31"),  # winter time is the exception there
    ("Africa/Casablanca", "2024-03-10"),  # back for Ramadan
    ("Antarctica/Troll", "2024-03-31"),  # by two hours
    ("Antarctica/Casey", "2018-03-11"),  # back by three hours
    ("Pacific/Apia", "2011-12-30"),  # the whole day is missing
    ("Pacific/Chatham", "2024-04-07"),  # +12:45, at 03:45
    ("Asia/Kathmandu", "2024-05-01"),  # +05:45, nothing changes
    ("UTC", "2024-02-29"),
]


def at(text: str, timezone: str = "UTC", fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone), fold=fold).astimezone(UTC)


def local(schedule: Schedule, start: str, count: int) -> list[str]:
    """Returns the next runs as local readings with their offset, which tells repeated hours apart."""
    runs = schedule.upcoming(at(start, schedule.timezone), count)
    return [f"{run.astimezone(schedule.zone):%m-%d %H:%M%z}" for run in runs]


def test_a_nightly_job_in_the_spring_gap_runs_once_when_the_clocks_jump() -> None:
    """New York skips 02:00 to 03:00: the 02:30 backup of that night runs at 03:00, and at 02:30 the next."""
    schedule = parse_schedule("30 2 * * *", "America/New_York")
    assert local(schedule, "2024-03-09 12:00", 2) == ["03-10 03:00-0400", "03-11 02:30-0400"]
    assert schedule.next_after(at("2024-03-09 12:00")) == datetime(2024, 3, 10, 7, 0, tzinfo=UTC)


def test_a_nightly_job_in_the_repeated_hour_runs_the_first_time_only() -> None:
    """New York has 01:30 twice on the autumn night: one backup is enough."""
    schedule = parse_schedule("30 1 * * *", "America/New_York")
    assert local(schedule, "2024-11-02 12:00", 2) == ["11-03 01:30-0400", "11-04 01:30-0500"]
    between = at("2024-11-03 01:10", "America/New_York", fold=1)
    assert schedule.next_after(between) == at("2024-11-04 01:30", "America/New_York")


def test_an_hourly_job_goes_on_hourly_on_both_days() -> None:
    """No hour without a run and none with two, in real time, whatever the clock on the wall does."""
    for start in ("2024-03-09 20:30", "2024-11-02 20:30"):
        for expression in ("0 * * * *", "@hourly", "0 0-23 * * *", "0 */1 * * *"):
            runs = parse_schedule(expression, "America/New_York").upcoming(at(start, "America/New_York"), 12)
            assert {later - earlier for earlier, later in pairwise(runs)} == {timedelta(hours=1)}


def test_several_readings_in_the_gap_make_one_run() -> None:
    """02:00, 02:15, 02:30 and 02:45 are all skipped, and so is the regular 03:00 run that they meet."""
    quarters = parse_schedule("*/15 2,3 * * *", "Europe/Berlin")
    assert local(quarters, "2024-03-31 01:00", 3) == ["03-31 03:00+0200", "03-31 03:15+0200", "03-31 03:30+0200"]
    nightly = parse_schedule("*/30 2 * * *", "Europe/Berlin")
    assert local(nightly, "2024-03-31 01:00", 2) == ["03-31 03:00+0200", "04-01 02:00+0200"]


def test_every_other_hour_counts_as_fixed_hours() -> None:
    """A star in the hour field does not make a job hourly: the skipped run is made up for, the repeated one is not."""
    schedule = parse_schedule("0 */2 * * *", "Europe/Berlin")
    assert local(schedule, "2024-03-31 00:30", 2) == ["03-31 03:00+0200", "03-31 04:00+0200"]
    assert local(schedule, "2024-10-27 00:30", 2) == ["10-27 02:00+0200", "10-27 04:00+0100"]


def test_sao_paulo_skips_midnight_itself() -> None:
    """Until 2019 the clocks went from 24:00 to 01:00: the daily job ran at 01:00 that day, on the right date."""
    schedule = parse_schedule("@daily", "America/Sao_Paulo")
    assert local(schedule, "2018-11-03 12:00", 2) == ["11-04 01:00-0200", "11-05 00:00-0200"]
    assert local(schedule, "2018-02-17 12:00", 2) == ["02-18 00:00-0300", "02-19 00:00-0300"]
    late = parse_schedule("30 23 * * *", "America/Sao_Paulo")
    assert local(late, "2018-02-17 12:00", 2) == ["02-17 23:30-0200", "02-18 23:30-0300"]
    assert local(schedule, "2024-11-02 12:00", 2) == ["11-03 00:00-0300", "11-04 00:00-0300"]


def test_lord_howe_changes_by_half_an_hour() -> None:
    """02:00 becomes 02:30 in spring and 01:30 in autumn; cronsim by itself would lose the second 01:45."""
    nightly = parse_schedule("15 2 * * *", "Australia/Lord_Howe")
    assert local(nightly, "2024-10-05 12:00", 2) == ["10-06 02:30+1100", "10-07 02:15+1100"]
    repeated = parse_schedule("45 1 * * *", "Australia/Lord_Howe")
    assert local(repeated, "2024-04-06 12:00", 2) == ["04-07 01:45+1100", "04-08 01:45+1030"]
    hourly = parse_schedule("45 * * * *", "Australia/Lord_Howe")
    assert local(hourly, "2024-04-07 01:00", 3) == ["04-07 01:45+1100", "04-07 01:45+1030", "04-07 02:45+1030"]
    assert local(hourly, "2024-04-07 01:50", 2) == ["04-07 01:45+1030", "04-07 02:45+1030"]
    assert local(hourly, "2024-10-06 01:00", 2) == ["10-06 01:45+1030", "10-06 02:45+1100"]


def test_a_day_that_never_was_is_made_up_for_once() -> None:
    """Samoa went from the 29th straight to the 31st of December 2011."""
    schedule = parse_schedule("0 2 * * *", "Pacific/Apia")
    assert local(schedule, "2011-12-29 12:00", 2) == ["12-31 00:00+1400", "12-31 02:00+1400"]


def test_kathmandu_has_no_whole_hours_of_offset() -> None:
    """+05:45: a daily job at midnight runs at 18:15 UTC."""
    schedule = parse_schedule("0 0 * * *", "Asia/Kathmandu")
    assert schedule.next_after(at("2024-05-01 00:00")) == at("2024-05-01 18:15")


def dates(expression: str, start: str, count: int) -> list[str]:
    return [f"{run:%Y-%m-%d}" for run in parse_schedule(expression, "UTC").upcoming(at(start), count)]


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("0 0 31 * *", "2024-01-31 00:00", ["2024-03-31", "2024-05-31", "2024-07-31", "2024-08-31"]),
        ("0 0 29 2 *", "2024-02-29 00:00", ["2028-02-29", "2032-02-29"]),
        ("0 0 29 2 *", "2096-03-01 00:00", ["2104-02-29", "2108-02-29"]),  # 2100 has none
        ("0 0 30 * *", "2023-01-30 00:00", ["2023-03-30", "2023-04-30"]),
        ("0 0 L * *", "2024-01-31 12:00", ["2024-02-29", "2024-03-31", "2024-04-30"]),
        ("0 0 1 1 *", "2199-06-01 00:00", ["2200-01-01", "2201-01-01"]),
        ("0 0 13 * 5", "2024-09-06 12:00", ["2024-09-13", "2024-09-20", "2024-09-27", "2024-10-04", "2024-10-11"]),
        ("0 0 */2 * 1", "2024-09-01 12:00", ["2024-09-09", "2024-09-23"]),  # a star: both fields must match
        ("0 0 * * 0", "2024-09-06 00:00", ["2024-09-08"]),
        ("0 0 * * 7", "2024-09-06 00:00", ["2024-09-08"]),
        ("0 0 * * sun", "2024-09-06 00:00", ["2024-09-08"]),
        ("@weekly", "2024-09-06 00:00", ["2024-09-08"]),
        ("@monthly", "2024-12-01 00:00", ["2025-01-01"]),
        ("@Yearly", "2024-01-01 00:00", ["2025-01-01"]),
        ("0 0 30 2 1", "2024-02-01 00:00", ["2024-02-05", "2024-02-12"]),  # either field: Mondays of February
    ],
)
def test_month_ends_leap_days_and_days_of_week(expression: str, start: str, expected: list[str]) -> None:
    """Days that a month has not are passed over, and the two day fields combine as Debian's cron combines them."""
    assert dates(expression, start, len(expected)) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "* * * *",
        "0 0 * * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 0 * *",
        "0 0 32 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a b c d e",
        "@reboot",
        "@every 5m",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "0 0 */30 4 MON#5",  # day 1 or 31 of April that is also a fifth Monday
        "1," * 400 + "1 * * * *",
        "٣ * * * *",
        "0\x00 * * * *",
        "0 0 L-3 * *",
    ],
)
def test_what_cannot_run_is_refused_with_a_hint(expression: str) -> None:
    """A schedule that is malformed, or that no day ever matches, is an error at once and not an endless search."""
    with pytest.raises(UsageError) as caught:
        parse_schedule(expression, "UTC")
    assert caught.value.hint


@given(st.text(alphabet="0123456789*/,-#LW@ ADFHJMNORSTUWadily", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_schedule_or_a_usage_error(text: str) -> None:
    """Whatever a user types, the answer is a schedule that runs and can be described, or a UsageError."""
    try:
        schedule = parse_schedule(text, "UTC")
    except UsageError:
        return
    assert schedule.next_after(at("2024-01-01 00:00")) > at("2024-01-01 00:00")
    assert schedule.describe().endswith("(UTC)")


@pytest.mark.parametrize(
    ("timezone", "hint"),
    [
        ("America/new york", "America/New_York"),
        ("Europe/Berln", "Europe/Berlin"),
        ("", "IANA"),
        ("localtime", ""),
        ("../etc/passwd", ""),
        ("/etc/passwd", ""),
        ("America", ""),
        ("UTC\x00", ""),
        ("x" * 5000, ""),
    ],
)
def test_an_unknown_zone_is_refused_with_a_name_that_looks_alike(timezone: str, hint: str) -> None:
    """Zones are IANA names only: no paths, no folders, no 'what this machine has'."""
    with pytest.raises(UsageError) as caught:
        parse_schedule("@daily", timezone)
    assert hint in caught.value.hint
    assert caught.value.hint


def test_a_schedule_says_in_words_when_it_runs() -> None:
    """The sentence comes from cronsim, with its ordinals put right, and names the zone."""
    assert parse_schedule("30 2 * * *", "Europe/Berlin").describe() == "At 02:30 every day (Europe/Berlin)"
    assert "the 31st day" in parse_schedule("0 0 31 * *", "UTC").describe()
    assert "Every 41st minute" in parse_schedule("*/41 * * * *", "UTC").describe()
    assert "the 11th, the 22nd, and the 23rd day" in parse_schedule("0 0 11,22,23 * *", "UTC").describe()


def test_missed_runs_are_counted_up_to_a_limit() -> None:
    """A machine that was off from noon to noon missed one nightly run and 24 hourly ones."""
    off, back = at("2024-05-01 12:00"), at("2024-05-02 12:00")
    assert parse_schedule("0 2 * * *", "UTC").missed_between(off, back, limit=100) == 1
    assert parse_schedule("0 * * * *", "UTC").missed_between(off, back, limit=100) == 24
    assert parse_schedule("0 * * * *", "UTC").missed_between(off, back, limit=10) == 10
    assert parse_schedule("0 2 * * *", "UTC").missed_between(back, off, limit=10) == 0


def test_a_moment_without_a_zone_is_refused() -> None:
    """A naive time would silently be read in the machine's own zone."""
    with pytest.raises(ValueError, match="ambiguous"):
        parse_schedule("@daily", "UTC").next_after(datetime(2024, 1, 1))  # noqa: DTZ001 -- the mistake under test


def test_equal_schedules_are_equal() -> None:
    """Schedules are values, whichever way they were made."""
    assert parse_schedule("@daily", "UTC") == parse_schedule("@daily", "UTC")
    assert parse_schedule("@daily", "UTC") != parse_schedule("@daily", "Europe/Berlin")


@st.composite
def fields(draw: st.DrawFn) -> tuple[str, frozenset[int], frozenset[int]]:
    """Draws an expression that runs every day, with the minutes and hours that it means, spelled in several ways."""
    minute_text, minutes = draw(field(60))
    hour_text, hours = draw(field(24))
    return f"{minute_text} {hour_text} * * *", minutes, hours


def field(size: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    value = st.integers(0, size - 1)
    lists = st.frozensets(value, min_size=1, max_size=3)
    steps = st.integers(2, size - 1)
    ranges = st.tuples(value, value).map(sorted)
    return st.one_of(
        st.just(("*", frozenset(range(size)))),
        lists.map(lambda chosen: (",".join(map(str, sorted(chosen))), chosen)),
        steps.map(lambda step: (f"*/{step}", frozenset(range(0, size, step)))),
        ranges.map(lambda ends: (f"{ends[0]}-{ends[1]}", frozenset(range(ends[0], ends[1] + 1)))),
    )


@cache
def readings(timezone: str, start: datetime) -> list[datetime]:
    """What the clocks show at each of the five days' minutes from `start` on."""
    zone = load_zone(timezone)
    return [(start + count * MINUTE).astimezone(zone).replace(tzinfo=None) for count in range(5 * 24 * 60)]


def walk(minutes: frozenset[int], hours: frozenset[int], shown: list[datetime], first: int, last: int) -> list[int]:
    """The rule again, minute by minute in real time and without cronsim: the minutes in `first` to `last` that run."""
    every_hour = len(hours) == 24
    runs = []
    highest = max(shown[:first])  # what the clocks have shown before is a repetition
    for count in range(first, last):
        reading = shown[count]
        new = [highest + step * MINUTE for step in range(1, (reading - highest) // MINUTE + 1)]
        candidates = [reading] if every_hour else new
        if any(candidate.minute in minutes and candidate.hour in hours for candidate in candidates):
            runs.append(count)
        highest = max(highest, reading)
    return runs


@settings(max_examples=100, deadline=None)
@given(spelled=fields(), change=st.sampled_from(CHANGES), lead_minutes=st.integers(0, 36 * 60))
@example(spelled=("45 * * * *", frozenset({45}), frozenset(range(24))), change=CHANGES[6], lead_minutes=1610)
@example(spelled=("30 1 * * *", frozenset({30}), frozenset({1})), change=CHANGES[1], lead_minutes=0)
def test_runs_equal_a_walk_over_every_minute(
    spelled: tuple[str, frozenset[int], frozenset[int]], change: tuple[str, str], lead_minutes: int
) -> None:
    """Over two days around a change of clocks, next_after and previous_before find the runs of a minute walk."""
    expression, minutes, hours = spelled
    timezone, day = change
    window = at(day) - 2 * DAY
    first = 12 * 60 + lead_minutes
    last = first + 2 * 24 * 60
    expected = [
        window + count * MINUTE for count in walk(minutes, hours, readings(timezone, window), first + 1, last + 1)
    ]
    start, end = window + first * MINUTE, window + last * MINUTE
    schedule = parse_schedule(expression, timezone)
    runs = schedule.upcoming(start, len(expected) + 1)
    assert runs[:-1] == expected
    assert runs[-1] > end
    backwards = slice(None, None, 1 + len(runs) // 100)
    assert [schedule.previous_before(later) for later in runs[1:][backwards]] == expected[backwards]


@given(
    spelled=fields(),
    change=st.sampled_from(CHANGES),
    offset=st.timedeltas(min_value=-2 * DAY, max_value=2 * DAY),
)
def test_runs_are_strictly_later_and_the_same_from_anywhere_between(
    spelled: tuple[str, frozenset[int], frozenset[int]], change: tuple[str, str], offset: timedelta
) -> None:
    """Every run is later than the moment asked for, no two are equal, and nothing lies between two neighbours."""
    schedule = parse_schedule(spelled[0], change[0])
    moment = at(change[1]) + offset
    runs = schedule.upcoming(moment, 4)
    assert all(earlier < later for earlier, later in pairwise([moment, *runs]))
    for earlier, later in pairwise(runs):
        assert schedule.next_after(earlier + (later - earlier) / 2) == later
        assert schedule.next_after(later - timedelta(microseconds=1)) == later
        assert schedule.previous_before(earlier + timedelta(microseconds=1)) == earlier
    assert all(run.tzinfo is UTC for run in runs)


@given(
    expression=st.sampled_from(["30 2 * * *", "0 1,2,3 * * 0", "15 1 * * *", "* * * * *", "20 * * * *", "0 0 1 * *"]),
    change=st.sampled_from([change for change in CHANGES if change[0] in {"America/New_York", "Europe/Berlin"}]),
)
def test_plainly_spelled_schedules_run_as_debians_cron_runs_them(expression: str, change: tuple[str, str]) -> None:
    """Where spelling and meaning agree, the runs are those of cronsim, which follows Debian's cron."""
    start = at(change[1]) - DAY
    schedule = parse_schedule(expression, change[0])
    peer = CronSim(expression, start.astimezone(schedule.zone))
    assert schedule.upcoming(start, 100) == [next(peer).astimezone(UTC) for _ in range(100)]


def test_decades_ahead_the_zone_rules_still_hold() -> None:
    """Zone files end in 2037 and go on by rule."""
    schedule = parse_schedule("30 2 * * *", "Europe/Berlin")
    assert local(schedule, "2090-03-25 12:00", 2) == ["03-26 03:00+0200", "03-27 02:30+0200"]
