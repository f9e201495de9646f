"""`dataguardian verify BACKUP`, and `dataguardian verify --all STORAGE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.keyoptions import IdentityFiles, PassphraseFile, keys_from
from dataguardian.cli.options import Json
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.errors import IntegrityError, KeyNeededError, UsageError

if TYPE_CHECKING:
    from dataguardian.core.backupkeys import BackupKeys
    from dataguardian.core.verify import VerifyReport

SHOWN_ERRORS = 20


def verify(
    address: Annotated[
        str,
        typer.Argument(
            metavar="BACKUP", help="The backup's address, as `list` and `backup` print it; with --all the storage's."
        ),
    ],
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every backup of a storage: dataguardian verify --all STORAGE.")
    ] = False,
    sample: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="With --all: only so many of the backups, by chance."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also expand every part and have the engine read the whole dump.")
    ] = False,
    identity_file: IdentityFiles = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> int:
    """Check that a backup, or every backup of a storage, is complete and undamaged."""
    if sample is not None and not (everything and 0 < sample <= 100):  # noqa: PLR2004 -- percent
        raise UsageError(
            "--sample is a percentage above 0, up to 100, and goes with --all",
            hint="dataguardian verify --all STORAGE --sample 10",
        )
    keys = keys_from(identity_file, passphrase_file)
    if everything:
        from dataguardian.cli.verifyall import verify_all

        return verify_all(address, keys, sample=sample, deep=deep, json=json)
    return _verify_one(address, keys, deep=deep, json=json)


def _verify_one(backup: str, keys: BackupKeys, *, deep: bool, json: bool) -> int:
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.verify import run_verify

    stored = bootstrap.open_backup(backup, sleep=STOP.sleep)
    with stoppable("nothing was changed"):
        validate = bootstrap.deep_validator(stored) if deep else None
        with watch("verifying", quiet=json) as progress:
            outcome = run_verify(
                stored.location.storage, stored.directory, validate=validate, keys=keys, report=progress.report
            )
        STOP.finish()
    if json:
        output.show_json(verify_document(stored.address, outcome))
    else:
        _show(stored.address, outcome)
    if outcome.ok is None:
        return KeyNeededError.exit_code
    return 0 if outcome.ok else IntegrityError.exit_code


def verify_document(address: str, outcome: VerifyReport) -> dict[str, object]:
    """Returns what `verify --json` prints of one backup; `ok` is null when not all was checked that was asked for."""
    document: dict[str, object] = {
        "backup": address,
        "ok": outcome.ok,
        "level": outcome.level,
        "parts": outcome.parts,
        "errors": list(outcome.errors),
    }
    if outcome.not_checked is not None:
        document["not_checked"] = output.clean(outcome.not_checked.message)
    return document


def _show(address: str, outcome: VerifyReport) -> None:
    parts = "1 part" if outcome.parts == 1 else f"{outcome.parts} parts"
    checked = {
        "stored": "every stored byte has the SHA-256 that was recorded",
        "deep": "every part expands to the bytes that were read, and the engine read the whole dump",
    }
    if outcome.not_checked is not None and outcome.ok is None:
        output.show_fields(
            "the backup is NOT CHECKED deeply",
            {
                "backup": address,
                "checked": f"{parts}: {checked['stored']}",
                "not checked": f"what they hold: {outcome.not_checked.message}",
                "key": outcome.not_checked.hint,
            },
            style="bold yellow",
        )
        return
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
