from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from dataguardian.domain.digest import MAX_LINES, render_digest
from dataguardian.domain.states import NotificationType, Severity
from tests.notifiers.samples import notification

UNTIL = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SINCE = UNTIL - timedelta(days=1)


def test_the_gravest_comes_first_and_the_newest_of_a_kind() -> None:
    """A reader sees in the subject how bad it was and in the first line what to look at."""
    entries = [
        notification(severity="info", title="fine", created_at=UNTIL - timedelta(hours=1)),
        notification(severity="critical", title="old trouble", created_at=SINCE),
        notification(severity="critical", title="new trouble", created_at=UNTIL - timedelta(hours=2)),
    ]
    digest = render_digest(entries, SINCE, UNTIL)
    assert digest.title == "Daily digest: 2 critical, 1 info"
    assert digest.severity is Severity.CRITICAL
    assert digest.type is NotificationType.DAILY_DIGEST
    texts = [line.split("  ")[-1] for line in digest.message.splitlines()[2:]]
    assert texts == ["new trouble", "old trouble", "fine"]
    assert digest.metadata["critical"] == 2


def test_each_notification_is_in_one_digest() -> None:
    """The window holds its beginning and not its end; earlier digests are not told again."""
    edge = [
        notification(title="first", created_at=SINCE),
        notification(title="next day", created_at=UNTIL),
        notification(title="a digest", type="daily_digest", created_at=SINCE),
    ]
    message = render_digest(edge, SINCE, UNTIL).message
    assert "first" in message
    assert "next day" not in message
    assert "a digest" not in message


def test_a_quiet_day_says_so() -> None:
    """No news is told too, because silence could also mean that nobody watches."""
    digest = render_digest([], SINCE, UNTIL)
    assert digest.title == "Daily digest: nothing happened"
    assert digest.severity is Severity.INFO
    assert "Nothing happened." in digest.message


def test_a_digest_made_twice_is_one() -> None:
    """Two schedulers, or a retry after a crash, make the same id, which receivers drop."""
    assert render_digest([], SINCE, UNTIL).id == render_digest([notification()], SINCE, UNTIL).id
    assert render_digest([], SINCE, UNTIL).id != render_digest([], SINCE + timedelta(days=1), UNTIL).id


def test_times_are_those_of_the_reader() -> None:
    """Lines are written in the zone of the digest, on a day of a clock change too."""
    zone = ZoneInfo("Europe/Lisbon")
    until = datetime(2026, 10, 25, 8, 0, tzinfo=zone)
    before, after = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    entries = [notification(title="a", created_at=before), notification(title="b", created_at=after)]
    digest = render_digest(entries, until - timedelta(days=1), until)
    assert digest.message.count("2026-10-25 01:30") == 2
    assert digest.created_at == until
    assert digest.created_at.tzinfo is UTC


def test_a_flood_is_cut() -> None:
    """A thousand messages make one of bounded length that says how many are missing."""
    entries = [notification(created_at=SINCE, title="x" * 200) for _ in range(1000)]
    message = render_digest(entries, SINCE, UNTIL).message
    assert f"… and {1000 - MAX_LINES} more" in message
