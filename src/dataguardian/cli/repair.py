"""`dataguardian repair BACKUP STORAGE`."""

from __future__ import annotations

from typing import Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.options import BackupAddress, Json
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.sizes import format_size

Target = Annotated[str, typer.Argument(metavar="STORAGE", help="The storage that is to hold it, too: file:///abs/dir.")]


def repair(backup: BackupAddress, storage: Target, *, json: Json = False) -> None:
    """Copy a backup to a storage that lacks it, or holds it damaged. Every part is checked on the way."""
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.repair import run_repair

    stored = bootstrap.open_backup(backup, sleep=STOP.sleep)
    location = bootstrap.open_storage(storage, sleep=STOP.sleep)
    with stoppable("the copy is not finished, and no backup: repair again, and it goes on"):
        with watch("repairing", quiet=json) as progress:
            done = run_repair(
                [stored.location.storage],
                location.storage,
                stored.directory,
                report=progress.report,
                before_publish=STOP.commit,
            )
        STOP.finish()
    address = location.address_of(stored.directory)
    if json:
        output.show_json(
            {
                "backup": address,
                "source": stored.address,
                "parts": len(done.backup.parts),
                "copied": done.copied,
                "size_bytes": done.size_bytes,
            }
        )
        return
    copied = f"{done.copied} of {len(done.backup.parts)} parts, {format_size(done.size_bytes)}"
    output.show_fields("the storage holds the backup", {"backup": address, "copied": copied})
