"""When cleanup does not trust what it sees. Pure rules: the clock against the last pass, a plan against its job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dataguardian.domain.retention import exceeds_share

CLOCK_TOLERANCE = timedelta(hours=1)
SUSPICION = timedelta(hours=20)
"""So long nothing is removed after a clock that jumped: a person can look, and the daily pass after that goes on."""


class CleanupSettings(BaseModel):
    """The setting `cleanup`. `cron` is in the instance's time zone.

    A pass removes at most `max_share` (0 to 1) of a job's backups by itself, but always `few`. A last pass that is
    longer than `max_gap_days` ago means that the machine was off, or that its clock jumped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str = "0 4 * * *"
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    few: Annotated[int, Field(ge=0)] = 5
    max_gap_days: Annotated[float, Field(gt=0, le=3650)] = 8


def suspect_since(state: Mapping[str, Any], now: datetime, max_gap_days: float) -> datetime | None:
    """Returns since when the clock is suspected to be wrong, None when it is not.

    `state` is what the last pass left: `passed_at`, and `suspect_since` when it found the clock wrong itself.
    """
    if "passed_at" not in state:
        return None
    last = datetime.fromisoformat(state["passed_at"])
    if not last - CLOCK_TOLERANCE <= now <= last + timedelta(days=max_gap_days):
        return now
    since = datetime.fromisoformat(state["suspect_since"]) if "suspect_since" in state else None
    return since if since is not None and now - since < SUSPICION else None


def clock_warning(state: Mapping[str, Any], now: datetime) -> str:
    """Returns, for people, what is suspicious and what to do."""
    last = datetime.fromisoformat(state["passed_at"])
    return (
        f"The clock says {now:%Y-%m-%d %H:%M} UTC, and cleanup last looked at it at {last:%Y-%m-%d %H:%M} UTC: lately "
        "it jumped, or the machine was off for long. Nothing was removed. Check the date; when it is right, run the "
        f"cleanup by force, or wait: it goes on by itself {SUSPICION.total_seconds() / 3600:.0f} hours after the jump."
    )


def plan_warning(
    newest: datetime | None, removed: int, total: int, now: datetime, settings: CleanupSettings
) -> str | None:
    """Returns why a job's plan must not be carried out without a person; None when it may be.

    `newest` is when its newest backup was made; the plan removes `removed` of `total`.
    """
    if newest is not None and newest > now + CLOCK_TOLERANCE:
        return (
            f"its newest backup is of {newest:%Y-%m-%d %H:%M} UTC, which is yet to come: the clock is wrong, or was. "
            "Nothing was removed"
        )
    if removed > settings.few and exceeds_share(removed, total, settings.max_share):
        return (
            f"{removed} of its {total} backups would go at once, more than {settings.max_share:.0%}. Nothing "
            "was removed. Look at its retention preview; when that is meant, run its cleanup by force"
        )
    return None
