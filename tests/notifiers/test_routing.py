from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dataguardian.domain.notifications import Notification
from dataguardian.domain.routing import DigestSettings, NotificationSettings, channels_for
from dataguardian.domain.states import NotificationType, Severity
from dataguardian.notifiers.registry import settings_type
from dataguardian.notifiers.webhook import WebhookConfig
from tests.notifiers.samples import JOB, notification

CHANNELS = {name: {"type": "webhook", "url": f"https://example.com/{name}"} for name in ("mail", "chat", "phone")}


def _settings(*routes: dict[str, Any], **fields: Any) -> NotificationSettings[Any]:
    return settings_type().model_validate({"channels": CHANNELS, "routes": routes} | fields)


@pytest.mark.parametrize(
    ("severity", "channels"), [("info", []), ("warning", list(CHANNELS)), ("critical", list(CHANNELS))]
)
def test_without_routes_what_matters_goes_everywhere(severity: str, channels: list[str]) -> None:
    """The default: warning and critical to all channels, nothing else to any."""
    assert channels_for(notification(severity=severity), _settings()) == channels


def test_without_channels_there_is_nowhere_to_go() -> None:
    """A fresh installation routes to nobody and does not fail."""
    assert channels_for(notification(), settings_type()()) == []


@pytest.mark.parametrize(
    ("route", "taken"),
    [
        ({}, True),
        ({"types": ["backup_failed", "storage_full"]}, True),
        ({"types": ["storage_full"]}, False),
        ({"types": []}, False),
        ({"min_severity": "warning"}, True),
        ({"min_severity": "critical"}, False),
        ({"entity_ids": [str(JOB)]}, True),
        ({"entity_ids": [str(UUID(int=1))]}, False),
        ({"types": ["backup_failed"], "entity_ids": [str(UUID(int=1))]}, False),
    ],
    ids=str,
)
def test_a_route_takes_what_fits_all_of_its_conditions(route: dict[str, Any], taken: bool) -> None:
    """Type, severity and entity all count; what is left out fits anything."""
    settings = _settings({**route, "channels": ["chat"]}, {"channels": ["phone"], "types": ["backup_failed"]})
    expected = ["chat", "phone"] if taken else ["phone"]
    assert channels_for(notification(severity="warning"), settings) == expected


def test_a_channel_named_by_two_routes_gets_one_message() -> None:
    """Routes add up, and nobody hears twice."""
    settings = _settings({"channels": ["chat", "mail"]}, {"channels": ["mail", "phone"]})
    assert channels_for(notification(), settings) == ["chat", "mail", "phone"]


def test_what_no_route_takes_is_not_lost() -> None:
    """Routes for one type do not swallow the alarms of the others."""
    settings = _settings({"types": ["backup_success"], "channels": ["chat"]})
    assert channels_for(notification(type="storage_full"), settings) == list(CHANNELS)
    assert channels_for(notification(type="cleanup_completed", severity="info"), settings) == []


def test_a_route_without_channels_silences() -> None:
    """Somebody who does not want to hear of something says so."""
    settings = _settings({"types": ["health_degraded"], "channels": []})
    assert channels_for(notification(type="health_degraded", severity="warning"), settings) == []


@given(
    severity=st.sampled_from(Severity),
    kind=st.sampled_from(NotificationType),
    routes=st.lists(
        st.fixed_dictionaries(
            {
                "types": st.none() | st.lists(st.sampled_from(NotificationType), max_size=3),
                "min_severity": st.sampled_from(Severity),
                "channels": st.lists(st.sampled_from(sorted(CHANNELS)), max_size=3),
            }
        ),
        max_size=4,
    ),
)
def test_every_answer_is_a_set_of_known_channels_and_no_alarm_is_lost(
    severity: Severity, kind: NotificationType, routes: list[dict[str, Any]]
) -> None:
    """Whatever the routes are: known names, none twice; a critical one that goes nowhere was silenced by a route."""
    entry = notification(severity=severity, type=kind)
    settings = _settings(*routes)
    channels = channels_for(entry, settings)
    assert len(set(channels)) == len(channels)
    assert set(channels) <= set(CHANNELS)
    if severity is Severity.CRITICAL and not channels:
        assert any(not route.channels and route.takes(entry) for route in settings.routes)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"routes": [{"channels": ["fax"]}]}, "no channel 'fax'"),
        ({"digest": {"channels": ["fax"]}}, "no channel 'fax'"),
        ({"digest": {"channels": []}}, "at least 1"),
        ({"digest": {"channels": ["mail"], "hour": 24}}, "less than or equal to 23"),
        ({"digest": {"channels": ["mail"], "time_zone": "Mars/Olympus"}}, "not an IANA time zone"),
        ({"digest": {"channels": ["mail"], "time_zone": "../../etc/passwd"}}, "not an IANA time zone"),
        ({"digest": {"channels": ["mail"], "time_zone": "a/" * 500 + "b"}}, "not an IANA time zone"),
        ({"channels": {"mail\n": CHANNELS["mail"]}}, "pattern"),
        ({"channels": {"mail": {"type": "pigeon"}}}, "apprise.*email.*webhook"),
        ({"routes": [{"channels": ["mail"], "types": ["backup_exploded"]}]}, "backup_failed"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(fields: dict[str, Any], words: str) -> None:
    """A route to a channel that is not there, or a word that nobody knows, is an error and not a silence."""
    with pytest.raises(ValidationError, match=words):
        _settings(**fields)


def test_the_settings_build_the_channels_own_configurations() -> None:
    """The type of each channel decides which configuration it is, and its secrets stay hidden."""
    config = _settings().channels["mail"]
    assert isinstance(config, WebhookConfig)
    assert "https://example.com/mail" not in _settings().model_dump_json()


def test_the_digest_has_a_cron_line() -> None:
    """The scheduler asks cron for the digest's next time, as for jobs."""
    assert DigestSettings(hour=7, time_zone="America/Sao_Paulo", channels=("mail",)).cron == "0 7 * * *"


def test_a_notification_is_never_refused_for_its_words() -> None:
    """Names that are not Unicode, and texts without end, are made fit to send: an alert must not be lost."""
    entry = notification(title="caf\udce9 " * 1000, message="x" * 10**6, metadata={"caf\udce9": ["\udce9"]})
    assert entry.title.startswith("caf? ")
    assert entry.title.endswith("…")
    assert len(entry.title) <= 200
    assert len(entry.message) <= 20_000
    assert Notification.model_validate_json(entry.model_dump_json()) == entry
