"""Options that several verbs share."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian.cli import output
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
BackupAddress = Annotated[
    str, typer.Argument(metavar="BACKUP", help="The backup's address, as `list` and `backup` print it.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take the password from the first line of FILE. Else it is the address's or the environment's.",
    ),
]


def _moment(text: str) -> str:
    """Returns a time as the API takes it; without an offset it is in UTC, without an hour it is midnight."""
    try:
        moment = datetime.fromisoformat(text)
        return to_iso(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!a} is not a time", hint="write 2026-11-23, or 2026-11-23T04:00:00Z; in UTC unless it says otherwise"
        ) from error


Since = Annotated[str | None, typer.Option(metavar="TIME", parser=_moment, help="Not before this time, in UTC.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", parser=_moment, help="Before this time, in UTC.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", parser=_moment, help="Not before this time, such as 2026-11-23T04:00Z or 2026-11-23."
    ),
]


def _rate(mbps: float | None) -> float | None:
    if mbps is not None and not 0 <= mbps < math.inf:
        raise UsageError(
            f"{mbps:g} is no bandwidth", hint="--bandwidth-limit takes megabits per second; 0 for no limit"
        )
    return mbps


BandwidthLimit = Annotated[
    float | None,
    typer.Option(
        "--bandwidth-limit",
        metavar="MBPS",
        callback=_rate,
        help="Megabits per second to each storage, beside its own limit; 0: none.",
    ),
]


def password_from(path: Path | None) -> SecretStr | None:
    """Reads --password-file and warns when other users of the machine can read it too."""
    if path is None:
        return None
    from dataguardian import bootstrap

    password = bootstrap.read_password(path)
    if bootstrap.others_may_read(path):
        output.warn(f"other users may read {path}; `chmod 600` it")
    return password
