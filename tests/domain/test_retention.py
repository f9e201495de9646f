"""Retention: the mission's example as a table, odd schedules, and a day-by-day life that must equal the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from time import perf_counter
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dataguardian.domain.errors import UsageError
from dataguardian.domain.retention import (
    Decision,
    RetainedBackup,
    RetentionPlanner,
    RetentionPolicy,
    describe,
    exceeds_share,
    local_date,
    plan_retention,
)

DAY = timedelta(days=1)
TODAY = date(2026, 11, 23)  # a Monday
GFS = RetentionPolicy()
OFF = {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}


def backup(when: str, *, timezone: str = "UTC", pinned: bool = False, name: str = "") -> RetainedBackup:
    """Returns a backup that is named after its local time, which is at 03:00 when `when` is only a date."""
    moment = datetime.fromisoformat(when if " " in when else f"{when} 03:00").replace(tzinfo=ZoneInfo(timezone))
    return RetainedBackup(id=name or when, created_at=moment.astimezone(UTC), pinned=pinned, size_bytes=1000)


def nightly(days: int, *, until: date = TODAY) -> list[RetainedBackup]:
    return [backup((until - age * DAY).isoformat()) for age in range(days)]


def plan(
    backups: Iterable[RetainedBackup], policy: RetentionPolicy = GFS, today: date = TODAY, timezone: str = "UTC"
) -> dict[str, Decision]:
    return {decision.id: decision for decision in plan_retention(backups, policy, today, timezone)}


def kept(
    backups: Iterable[RetainedBackup], policy: RetentionPolicy = GFS, today: date = TODAY, timezone: str = "UTC"
) -> list[str]:
    return [name for name, decision in plan(backups, policy, today, timezone).items() if decision.keep]


def test_the_documents_example_after_400_nights() -> None:
    """Last 7 days all, days 8 to 28 the Sundays, months 2 to 12 day 1, everything else goes."""
    table = {
        "2026-11-23": ("daily", "weekly", "last", "newest_good"),  # a Monday alone in its week so far
        "2026-11-22": ("daily", "weekly"),
        "2026-11-21": ("daily",),
        "2026-11-20": ("daily",),
        "2026-11-19": ("daily",),
        "2026-11-18": ("daily",),
        "2026-11-17": ("daily",),
        "2026-11-15": ("weekly",),
        "2026-11-08": ("weekly",),
        "2026-11-01": ("weekly", "monthly"),  # a Sunday too
        "2026-10-01": ("monthly",),
        "2026-09-01": ("monthly",),
        "2026-08-01": ("monthly",),
        "2026-07-01": ("monthly",),
        "2026-06-01": ("monthly",),
        "2026-05-01": ("monthly",),
        "2026-04-01": ("monthly",),
        "2026-03-01": ("monthly",),
        "2026-02-01": ("monthly",),
        "2026-01-01": ("monthly",),
        "2025-12-01": ("monthly",),
    }
    decisions = plan(nightly(400))
    assert len(decisions) == 400
    assert {name: decision.reasons for name, decision in decisions.items() if decision.keep} == table
    assert list(decisions) == sorted(decisions, reverse=True)
    assert set(table) == by_the_word(nightly(400), GFS, TODAY, "UTC")


@pytest.mark.parametrize(
    ("name", "expires_on"),
    [
        ("2026-11-23", None),
        ("2026-11-22", date(2026, 12, 20)),  # 28 days later
        ("2026-11-21", date(2026, 11, 28)),  # 7 days later
        ("2026-11-01", date(2027, 11, 1)),  # the month is 12 back
        ("2025-12-01", date(2026, 12, 1)),
        ("2026-11-16", TODAY),  # 7 days old and not a Sunday: it goes now
    ],
)
def test_the_example_knows_when_each_backup_goes(name: str, expires_on: date | None) -> None:
    """The preview's dates follow from the rules: 7 days, 4 weeks, 12 months, or never while it is the newest."""
    assert plan(nightly(400))[name].expires_on == expires_on


def test_without_a_sunday_the_newest_of_the_week_stands() -> None:
    """A job that runs on weekdays keeps its Fridays."""
    weekdays = [item for item in nightly(60) if item.created_at.weekday() < 5]
    weekly = {name for name, decision in plan(weekdays).items() if "weekly" in decision.reasons}
    assert weekly == {"2026-11-23", "2026-11-20", "2026-11-13", "2026-11-06", "2026-10-30"}


def test_without_a_day_1_the_earliest_of_the_month_stands() -> None:
    """A weekly job on Mondays keeps the first Monday of each month."""
    mondays = [item for item in nightly(141) if item.created_at.weekday() == 0]
    monthly = {name for name, decision in plan(mondays).items() if "monthly" in decision.reasons}
    assert monthly == {"2026-07-06", "2026-08-03", "2026-09-07", "2026-10-05", "2026-11-02"}


def test_of_several_a_day_the_newest_of_the_sunday_and_of_day_1_stand() -> None:
    """Six-hourly backups: all of the last days stay, then 18:00 on Sundays, then 18:00 on day 1."""
    times = [f"{TODAY - age * DAY} {hour:02}:00" for age in range(60) for hour in (0, 6, 12, 18)]
    decisions = plan(backup(when) for when in times)
    by_reason = {
        reason: {name for name, decision in decisions.items() if reason in decision.reasons}
        for reason in ("daily", "weekly", "monthly")
    }
    assert len(by_reason["daily"]) == 28
    assert by_reason["weekly"] == {f"2026-11-{day} 18:00" for day in ("23", "22", "15", "08", "01")}
    assert by_reason["monthly"] == {"2026-11-01 18:00", "2026-10-01 18:00", "2026-09-25 00:00"}


def test_a_single_old_backup_stays() -> None:
    """However old, the only backup is the newest one, and the newest is never removed."""
    decision = plan([backup("2001-01-01")])["2001-01-01"]
    assert decision.keep
    assert decision.reasons == ("last", "newest_good")
    assert decision.expires_on is None
    assert plan_retention([], GFS, TODAY, "UTC") == []


def test_the_first_backup_of_a_job_stands_for_its_month() -> None:
    """A job that was made on the 20th has that backup for November, a year long."""
    decision = plan(nightly(4))["2026-11-20"]
    assert decision.reasons == ("daily", "monthly")
    assert decision.expires_on == date(2027, 11, 1)


def test_zero_switches_a_rule_off() -> None:
    """With every count at zero only the newest stay."""
    assert kept(nightly(400), RetentionPolicy(**OFF, keep_last=3)) == ["2026-11-23", "2026-11-22", "2026-11-21"]
    assert kept(nightly(400), RetentionPolicy(**OFF)) == ["2026-11-23"]
    weeks_only = kept(nightly(400), RetentionPolicy(**OFF | {"keep_weekly": 2}))
    assert weeks_only == ["2026-11-23", "2026-11-22", "2026-11-15"]
    months_only = kept(nightly(400), RetentionPolicy(**OFF | {"keep_monthly": 2}))
    assert months_only == ["2026-11-23", "2026-11-01", "2026-10-01"]


def test_a_pinned_backup_stays_for_good_and_displaces_nothing() -> None:
    """A pinned backup is kept beside those that the rules keep, and expires never."""
    pinned = backup("2020-05-05", pinned=True)
    decisions = plan([*nightly(400), pinned])
    assert decisions["2020-05-05"].reasons == ("pinned",)
    assert decisions["2020-05-05"].expires_on is None
    assert [name for name in decisions if decisions[name].keep] == [*kept(nightly(400)), "2020-05-05"]


def test_a_backup_from_the_future_is_kept_flagged_and_pushes_nothing_out() -> None:
    """A clock that was wrong once must not make 'the newest' of a backup that is not, nor cost the real newest."""
    policy = RetentionPolicy(**OFF)
    decisions = plan([backup("2031-01-01"), *nightly(3)], policy)
    assert decisions["2031-01-01"].reasons == ("future",)
    assert decisions["2026-11-23"].reasons == ("last", "newest_good")
    assert decisions["2026-11-23"].expires_on == date(2031, 1, 1)
    assert not decisions["2026-11-22"].keep
    same_week = plan([backup("2026-11-25"), *nightly(1)])["2026-11-23"]
    assert same_week.reasons == ("daily", "weekly", "monthly", "last", "newest_good")
    assert plan([backup("9999-12-31")])["9999-12-31"].expires_on is None


def test_a_policy_without_automatic_deletion_removes_nothing() -> None:
    """The switch holds in the rule itself, so that no caller can forget it."""
    decisions = plan(nightly(400), RetentionPolicy(auto_delete=False))
    assert all(decision.keep and decision.expires_on is None for decision in decisions.values())
    assert decisions["2025-11-01"].reasons == ("auto_delete_off",)


@pytest.mark.parametrize(
    ("timezone", "sunday"),
    [
        ("Pacific/Kiritimati", "2026-11-14 10:00"),  # +14: Saturday noon in UTC is Sunday there
        ("Pacific/Pago_Pago", "2026-11-16 10:59"),  # -11: Monday morning in UTC is still Sunday there
    ],
)
def test_dates_are_those_of_the_jobs_zone(timezone: str, sunday: str) -> None:
    """On both sides of the date line a backup belongs to the local day."""
    item = backup(sunday)
    assert local_date(item.created_at, timezone) == date(2026, 11, 15)
    decision = plan([item, *nightly(7)], timezone=timezone)[sunday]
    assert decision.reasons[0] == "weekly"
    assert "the Sunday of its week" in describe(decision)


def test_a_change_of_clocks_moves_no_backup_to_another_day() -> None:
    """Sao Paulo's day of 4 November 2018 began at 01:00: dates are compared, not spans of hours."""
    zone = "America/Sao_Paulo"
    items = [backup(f"2018-11-{day:02} 01:00", timezone=zone) for day in range(1, 12)]
    daily = [name for name, d in plan(items, today=date(2018, 11, 11), timezone=zone).items() if "daily" in d.reasons]
    assert daily == [f"2018-11-{day:02} 01:00" for day in range(11, 4, -1)]


def test_a_date_that_comes_twice_keeps_the_newest_and_the_sunday() -> None:
    """In St. John's of 2010 the clocks went back over midnight: a later backup bears the earlier date."""
    zone = ZoneInfo("America/St_Johns")
    sunday = RetainedBackup("sunday", datetime(2010, 11, 7, 0, 0, 30, tzinfo=zone).astimezone(UTC), False, 1)
    saturday = RetainedBackup("saturday", datetime(2010, 11, 6, 23, 30, tzinfo=zone, fold=1).astimezone(UTC), False, 1)
    assert sunday.created_at < saturday.created_at
    decisions = plan([sunday, saturday], RetentionPolicy(**OFF | {"keep_weekly": 4}), date(2010, 11, 20), zone.key)
    assert decisions["sunday"].reasons == ("weekly",)
    assert decisions["saturday"].reasons == ("last", "newest_good")


@pytest.mark.parametrize(
    ("when", "phrase"),
    [
        ("2026-11-22", "kept as a daily backup and the Sunday of its week until 2026-12-20"),
        ("2026-11-15", "kept as the Sunday of its week until 2026-12-13"),
        ("2026-11-01", "kept as the Sunday of its week and day 1 of its month until 2027-11-01"),
        ("2026-10-01", "kept as day 1 of its month until 2027-10-01"),
        ("2026-11-10", "removed: no rule of the retention policy holds it any more"),
    ],
)
def test_a_decision_reads_as_english(when: str, phrase: str) -> None:
    """The retention preview says why each backup stays, and until when."""
    assert describe(plan(nightly(400))[when]) == phrase


def test_decisions_without_an_end_say_what_ends_them() -> None:
    """Never is not a date: the phrase names what would have to happen."""
    assert describe(plan([backup("2020-01-01")])["2020-01-01"]) == (
        "kept as one of the last backups and the newest backup at least until newer backups arrive"
    )
    pinned = plan([*nightly(1), backup("2020-01-01", pinned=True)])["2020-01-01"]
    assert describe(pinned) == "kept as a pinned backup until it is unpinned"
    switched_off = plan(nightly(400), RetentionPolicy(auto_delete=False))["2025-12-25"]
    assert describe(switched_off).endswith("until automatic deletion is switched on")
    early = plan([backup("2030-01-02"), *nightly(1)])["2030-01-02"]
    assert describe(early).startswith("kept as a backup dated in the future")
    friday = plan([backup("2026-11-13"), *nightly(1)])["2026-11-13"]
    assert describe(friday) == "kept as the newest of its week and the earliest of its month until 2027-11-01"


def test_a_pass_that_would_remove_too_much_is_seen() -> None:
    """379 of 400 go at the first pass over a year of nights; none of one go, and none of none."""
    decisions = plan_retention(nightly(400), GFS, TODAY, "UTC")
    removed = sum(not decision.keep for decision in decisions)
    assert exceeds_share(removed, len(decisions), 0.94)
    assert not exceeds_share(removed, len(decisions), 0.95)
    assert all(decision.keep for decision in plan_retention(nightly(1), GFS, TODAY, "UTC"))
    assert not exceeds_share(0, 1, 0.0)
    assert not exceeds_share(0, 0, 0.0)


def test_bad_input_is_refused() -> None:
    """A naive time, an id that comes twice, an unknown zone and a policy out of bounds are errors, never guesses."""
    with pytest.raises(ValueError, match="time zone"):
        plan([RetainedBackup("a", datetime(2026, 1, 1), False, 1)])  # noqa: DTZ001 -- the mistake under test
    with pytest.raises(ValueError, match="twice"):
        plan([backup("2026-11-01", name="a"), backup("2026-11-02", name="a")])
    with pytest.raises(UsageError):
        plan(nightly(1), timezone="Mars")
    for wrong in ({"keep_daily": -1}, {"keep_last": 0}, {"keep_weekly": 10**9}, {"keep_month": 3}):
        with pytest.raises(ValidationError):
            RetentionPolicy.model_validate(wrong)


def test_a_planner_wants_the_newest_first() -> None:
    """A backup that is not older than the one before, or that comes again, is an error, never a guess."""
    for second in ("2026-11-02", "2026-11-01"):
        planner = RetentionPlanner(GFS, TODAY, "UTC")
        assert list(planner.add(backup("2026-11-01"))) == []
        with pytest.raises(ValueError, match="newest first"):
            list(planner.add(backup(second)))


def test_a_planner_holds_no_more_than_it_needs() -> None:
    """Of five years of hourly backups it never holds more than those of some days."""
    planner = RetentionPlanner(GFS, TODAY, "America/New_York")
    newest = datetime(2026, 11, 23, tzinfo=UTC)
    told, held = 0, 0
    for hour in range(5 * 365 * 24):
        told += len(list(planner.add(RetainedBackup(str(hour), newest - timedelta(hours=hour), False, 1))))
        held = max(held, hour + 1 - told)
    assert held < 72
    assert told + len(list(planner.finish())) == 5 * 365 * 24


def test_many_backups_are_planned_in_linear_time() -> None:
    """Ten times the backups take about ten times as long, not a hundred times."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    many = [RetainedBackup(str(i), start + i * timedelta(minutes=13), False, 1) for i in range(50_000)]
    seconds = []
    for count in (5_000, 50_000):
        begun = perf_counter()
        plan_retention(many[:count], GFS, TODAY, "Europe/Berlin")
        seconds.append(perf_counter() - begun)
    assert seconds[1] < 40 * max(seconds[0], 0.01)


# The rule once more, word by word and without regard to speed.


@cache
def day_in(moment: datetime, zone: str) -> date:
    return moment.astimezone(ZoneInfo(zone)).date()


def keeps(item: RetainedBackup, backups: list[RetainedBackup], policy: RetentionPolicy, today: date, zone: str) -> bool:
    def day(other: RetainedBackup) -> date:
        return day_in(other.created_at, zone)

    def monday(other: RetainedBackup) -> date:
        return day(other) - day(other).weekday() * DAY

    def month(when: date) -> int:
        return 12 * when.year + when.month

    by_age = sorted(backups, key=lambda other: (other.created_at, other.id))
    week = [other for other in by_age if monday(other) == monday(item)]
    sundays = [other for other in week if day(other).weekday() == 6]
    of_month = [other for other in by_age if month(day(other)) == month(day(item))]
    first_days = [other for other in of_month if day(other).day == 1]
    age = (today - day(item)).days
    return (
        item.pinned
        or age < policy.keep_daily
        or (item == (sundays or week)[-1] and age < 7 * policy.keep_weekly)
        or (
            item == (first_days[-1] if first_days else of_month[0])
            and month(today) - month(day(item)) < policy.keep_monthly
        )
        or item in by_age[-policy.keep_last :]
    )


def by_the_word(backups: list[RetainedBackup], policy: RetentionPolicy, today: date, zone: str) -> set[str]:
    return {item.id for item in backups if keeps(item, backups, policy, today, zone)}


ZONES = st.sampled_from(["UTC", "America/Sao_Paulo", "Pacific/Kiritimati", "America/New_York", "Asia/Kathmandu"])
COUNTS = st.integers(0, 14)
POLICIES = st.builds(
    RetentionPolicy, keep_daily=COUNTS, keep_weekly=COUNTS, keep_monthly=COUNTS, keep_last=st.integers(1, 5)
)
NOON = datetime(2018, 11, 20, 12, tzinfo=UTC)  # past a month of changes of clocks, and past Monday in every zone


@st.composite
def histories(draw: st.DrawFn, days: int = 500, most: int = 40) -> list[RetainedBackup]:
    """Draws backups of the last days, thick near the end, some at the same instant, a few pinned."""
    spans = st.integers(0, 40 * 24) | st.integers(0, days * 24)
    hours = draw(st.lists(spans, max_size=most))
    pins = draw(st.sets(st.integers(0, most), max_size=2))
    return [
        RetainedBackup(f"b{index:03}", NOON - timedelta(hours=ago), index in pins, 1) for index, ago in enumerate(hours)
    ]


@settings(deadline=None)
@given(backups=histories(), policy=POLICIES, zone=ZONES)
def test_the_plan_is_the_rule_word_by_word(backups: list[RetainedBackup], policy: RetentionPolicy, zone: str) -> None:
    """The fast plan keeps what a slow reading of the specification keeps."""
    today = local_date(NOON, zone)
    assert set(kept(backups, policy, today, zone)) == by_the_word(backups, policy, today, zone)


@given(
    backups=histories(),
    policy=POLICIES,
    zone=ZONES,
    rule=st.sampled_from(["keep_daily", "keep_weekly", "keep_monthly", "keep_last"]),
)
def test_keeping_more_never_deletes_more(
    backups: list[RetainedBackup], policy: RetentionPolicy, zone: str, rule: str
) -> None:
    """The rules are a union: raising any count removes nothing that stayed before."""
    today = local_date(NOON, zone)
    raised = policy.model_copy(update={rule: getattr(policy, rule) + 1})
    assert set(kept(backups, policy, today, zone)) <= set(kept(backups, raised, today, zone))


@given(backups=histories(), policy=POLICIES, zone=ZONES)
def test_a_second_pass_on_the_same_day_removes_nothing(
    backups: list[RetainedBackup], policy: RetentionPolicy, zone: str
) -> None:
    """The survivors of a pass are all survivors of the next one, for the same reasons and with the same end."""
    today = local_date(NOON, zone)
    first = plan(backups, policy, today, zone)
    survivors = [item for item in backups if first[item.id].keep]
    again = plan(survivors, policy, today, zone)
    assert again == {name: decision for name, decision in first.items() if decision.keep}


@given(backups=histories(), policy=POLICIES, zone=ZONES)
def test_pinned_and_newest_backups_always_stay(
    backups: list[RetainedBackup], policy: RetentionPolicy, zone: str
) -> None:
    """No policy removes a pinned backup or the newest one, and every decision to keep has its reason."""
    decisions = plan(backups, policy, local_date(NOON, zone), zone)
    assert all(decisions[item.id].keep for item in backups if item.pinned)
    assert not backups or decisions[max(backups, key=lambda item: (item.created_at, item.id)).id].keep
    assert all(decision.keep == bool(decision.reasons) for decision in decisions.values())


@settings(deadline=None, max_examples=40)
@given(backups=histories(days=60, most=12), policy=POLICIES, zone=ZONES, ahead_days=st.integers(0, 30))
def test_the_announced_day_is_the_day_on_which_a_backup_goes(
    backups: list[RetainedBackup], policy: RetentionPolicy, zone: str, ahead_days: int
) -> None:
    """With a pass on every day and no new backup, each one goes exactly on its announced day, future ones included."""
    today = local_date(NOON, zone) - ahead_days * DAY
    announced = {name: decision.expires_on for name, decision in plan(backups, policy, today, zone).items()}
    gone: dict[str, date] = {}
    alive, day = backups, today
    while day < today + 520 * DAY:
        staying = set(kept(alive, policy, day, zone))
        gone |= {item.id: day for item in alive if item.id not in staying}
        alive = [item for item in alive if item.id in staying]
        day += DAY
    assert gone == {name: end for name, end in announced.items() if end is not None}


SCHEDULES: dict[str, tuple[list[timedelta], Callable[[datetime], bool]]] = {
    "nightly": ([timedelta(hours=3)], lambda _day: True),
    "every six hours": ([timedelta(hours=hour) for hour in (0, 6, 12, 18)], lambda _day: True),
    "weekdays": ([timedelta(hours=22)], lambda day: day.weekday() < 5),
    "Wednesdays": ([timedelta(hours=1)], lambda day: day.weekday() == 2),
    "fitful": ([timedelta(hours=5), timedelta(hours=23)], lambda day: day.toordinal() * 7919 % 11 < 4),
    "the 31st": ([timedelta(hours=0)], lambda day: day.day == 31),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "policy",
    [
        GFS,
        RetentionPolicy(keep_daily=0),
        RetentionPolicy(keep_daily=1, keep_weekly=8, keep_monthly=3, keep_last=2),
        RetentionPolicy(**OFF | {"keep_monthly": 12}),
        RetentionPolicy(**OFF | {"keep_weekly": 5}),
    ],
    ids=["default", "no daily", "mixed", "months only", "weeks only"],
)
def test_500_days_of_daily_passes_keep_what_the_rule_keeps_of_everything(
    schedule: str, policy: RetentionPolicy
) -> None:
    """A backup that must stand for its month a year later has survived every pass until then."""
    times, runs_on = SCHEDULES[schedule]
    zone = "America/Sao_Paulo"
    history: list[RetainedBackup] = []
    alive: list[RetainedBackup] = []
    first = datetime(2017, 9, 4, tzinfo=ZoneInfo(zone))
    for day in (first + count * DAY for count in range(500)):
        moments = [day + time for time in times if runs_on(day)]
        new = [RetainedBackup(f"{moment:%Y-%m-%d %H}", moment.astimezone(UTC), False, 1) for moment in moments]
        history, alive = history + new, alive + new
        staying = set(kept(alive, policy, day.date(), zone))
        alive = [item for item in alive if item.id in staying]
        if day.toordinal() % 11 == 0:  # every weekday and, over the months, every day of a month
            assert staying == set(kept(history, policy, day.date(), zone))
    assert staying == set(kept(history, policy, day.date(), zone))


def test_the_newest_reason_moves_on_when_a_newer_backup_arrives() -> None:
    """A backup that stayed only for being the newest goes once there is a newer one."""
    policy = RetentionPolicy(**OFF)
    for older, newer in pairwise(["2026-11-20", "2026-11-21", "2026-11-22"]):
        assert kept([backup(older)], policy) == [older]
        assert kept([backup(older), backup(newer)], policy) == [newer]
