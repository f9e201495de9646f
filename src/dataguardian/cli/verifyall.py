"""What `dataguardian verify --all STORAGE` does and shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dataguardian.cli import look, output
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.cli.verify import SHOWN_ERRORS, verify_document

if TYPE_CHECKING:
    from rich.text import Text

    from dataguardian.bootstrap import StorageLocation
    from dataguardian.core.backupkeys import BackupKeys
    from dataguardian.core.scrub import Checked, ScrubReport

_STYLES = {"good": "bold green", "damaged": "bold red", "unchecked": "yellow", "gone": "dim"}


def verify_all(address: str, keys: BackupKeys, *, sample: float | None, deep: bool, json: bool) -> int:
    """Checks every backup of a storage, or a sample; returns the exit code."""
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.scrub import run_scrub

    location = bootstrap.open_storage(address, sleep=STOP.sleep)
    with stoppable("nothing was changed"):
        with watch("verifying", quiet=json) as progress:
            outcome = run_scrub(
                location.storage,
                sample_percent=sample,
                validators=bootstrap.validator_of if deep else None,
                keys=keys,
                report=progress.report,
                tell=_tell_nothing if json else _tell_damage,
            )
        STOP.finish()
    if json:
        output.show_json(_document(location, outcome, deep=deep))
    else:
        _show(location, outcome)
    return outcome.exit_code


def _tell_nothing(_: Checked) -> None:
    """The one object at the end says it all."""


def _tell_damage(entry: Checked) -> None:
    """At once, because the rest may take hours, and may be stopped."""
    if entry.verdict == "damaged":
        output.warn(f"{entry.directory} is damaged: {entry.report.errors[0]}")


def _document(location: StorageLocation, outcome: ScrubReport, *, deep: bool) -> dict[str, object]:
    """Returns the keys of `verify`, over everything, and the same for every backup."""
    counts = Counter(entry.verdict.value for entry in outcome.checked)
    return {
        "storage": location.address,
        "ok": outcome.ok,
        "level": "deep" if deep else "stored",
        "parts": sum(entry.report.parts for entry in outcome.checked),
        "errors": [f"{entry.directory}: {error}" for entry in outcome.checked for error in entry.report.errors],
        "good": counts["good"],
        "damaged": counts["damaged"],
        "unchecked": counts["unchecked"],
        "gone": counts["gone"],
        "left_out": outcome.left_out,
        "unfinished": [location.address_of(directory) for directory in outcome.unfinished],
        "backups": [_entry(location, entry) for entry in outcome.checked],
    }


def _entry(location: StorageLocation, entry: Checked) -> dict[str, object]:
    """`ok` is null for what is neither good nor damaged."""
    known = entry.verdict in ("good", "damaged")
    document = verify_document(location.address_of(entry.directory), entry.report)
    reason = {"reason": output.clean(entry.error.message)} if entry.error else {}
    return document | {"ok": entry.report.ok if known else None, "outcome": entry.verdict.value} | reason


def _show(location: StorageLocation, outcome: ScrubReport) -> None:
    if not outcome.checked:
        output.show(f"no backups in {location.address}")
    else:
        look.show_table(["BACKUP", "OUTCOME", "GOOD PARTS", ""], map(_row, outcome.checked), right=["GOOD PARTS"])
        output.show()
        _show_sum(location, outcome)
    for directory in outcome.unfinished[:SHOWN_ERRORS]:
        output.warn(
            f"{location.address_of(directory)} has no manifest: it is still being written, was left by a run that was "
            "killed, or has lost it"
        )


def _row(entry: Checked) -> list[str | Text]:
    from rich.text import Text

    errors = entry.report.errors
    words = errors[0] + (f" ({len(errors)} in all)" if len(errors) > 1 else "") if errors else ""
    if entry.error is not None:
        words = output.clean(entry.error.message)
    verdict = entry.verdict.value
    parts = str(entry.report.parts) if verdict in ("good", "damaged") else look.NOTHING
    return [entry.directory, Text(verdict, style=_STYLES[verdict]), parts, words if verdict != "gone" else "deleted"]


def _show_sum(location: StorageLocation, outcome: ScrubReport) -> None:
    counts = Counter(entry.verdict.value for entry in outcome.checked)
    if counts["damaged"]:
        title, style = "backups are DAMAGED", "bold red"
    elif counts["unchecked"]:
        title, style = "some backups could NOT be checked", "bold yellow"
    else:
        title, style = "every backup that was checked is good", "bold green"
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    left_out = {"not in the sample": outcome.left_out} if outcome.left_out else {}
    output.show_fields(title, {"storage": location.address, "backups": shown, **left_out}, style=style)
