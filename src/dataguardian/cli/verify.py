"""`dataguardian verify BACKUP`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.options import BackupAddress, Json
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.errors import IntegrityError

if TYPE_CHECKING:
    from dataguardian.core.verify import VerifyReport

SHOWN_ERRORS = 20


def verify(
    backup: BackupAddress,
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also expand every part and have the engine read the whole dump.")
    ] = False,
    json: Json = False,
) -> int:
    """Check that a backup is complete and undamaged."""
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.verify import run_verify

    stored = bootstrap.open_backup(backup, sleep=STOP.sleep)
    with stoppable("nothing was changed"):
        validate = bootstrap.deep_validator(stored) if deep else None
        with watch("verifying", quiet=json) as progress:
            outcome = run_verify(stored.location.storage, stored.directory, validate=validate, report=progress.report)
        STOP.finish()
    if json:
        output.show_json(_document(stored.address, outcome))
    else:
        _show(stored.address, outcome)
    return 0 if outcome.ok else IntegrityError.exit_code


def _document(address: str, outcome: VerifyReport) -> dict[str, object]:
    return {
        "backup": address,
        "ok": outcome.ok,
        "level": outcome.level,
        "parts": outcome.parts,
        "errors": list(outcome.errors),
    }


def _show(address: str, outcome: VerifyReport) -> None:
    parts = "1 part" if outcome.parts == 1 else f"{outcome.parts} parts"
    checked = {
        "stored": "every stored byte has the SHA-256 that was recorded",
        "deep": "every part expands to the bytes that were read, and the engine read the whole dump",
    }
    if outcome.ok:
        output.show_fields("the backup is good", {"backup": address, "checked": f"{parts}: {checked[outcome.level]}"})
        return
    output.show_fields(
        "the backup is DAMAGED", {"backup": address, "good": parts, "errors": len(outcome.errors)}, style="bold red"
    )
    for error in outcome.errors[:SHOWN_ERRORS]:
        output.show("  - " + output.visible(error))
    if len(outcome.errors) > SHOWN_ERRORS:
        output.show(f"  and {len(outcome.errors) - SHOWN_ERRORS} more: --json shows all")
