"""`dataguardian restore BACKUP TARGET`."""

from __future__ import annotations

from typing import Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.keyoptions import IdentityFiles, PassphraseFile, keys_from
from dataguardian.cli.options import BackupAddress, Json, PasswordFile, password_from
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.sizes import format_size


def restore(
    backup: BackupAddress,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Where to: an address of the kind that was backed up.")
    ],
    *,
    stream: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this stream (a database). May be repeated.")
    ] = None,
    drop_existing: Annotated[
        bool, typer.Option("--drop-existing", help="Replace what the target holds, at the very end and atomically.")
    ] = False,
    password_file: PasswordFile = None,
    identity_file: IdentityFiles = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Restore a backup. Until all of it has been checked, the target stays as it is."""
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.restore import run_restore
    from dataguardian.engines.base import RestoreOptions

    keys = keys_from(identity_file, passphrase_file)
    stored = bootstrap.open_backup(backup, sleep=STOP.sleep)
    datasource = bootstrap.open_datasource(target, password=password_from(password_file))
    told: list[str] = []

    def tell(warning: str) -> None:
        told.append(warning)
        output.warn(warning)

    with stoppable("the target is as it was"):
        with watch("restoring", quiet=json) as progress:
            result = run_restore(
                stored.location.storage,
                stored.directory,
                datasource.engine,
                datasource.type,
                streams=stream or (),
                options=RestoreOptions(drop_existing=drop_existing, before_swap=STOP.commit),
                report=progress.report,
                warn=tell,
                keys=keys,
            )
        STOP.finish()
    for warning in result.warnings:
        if warning not in told:
            tell(warning)
    document = {
        "backup": stored.address,
        "target": datasource.address,
        "size_bytes": result.size_bytes,
        "duration_seconds": result.duration_seconds,
    }
    if json:
        output.show_json(document)
        return
    rate = format_size(result.size_bytes / max(result.duration_seconds, 0.001))
    output.show_fields(
        f"{result.manifest.name} is restored",
        {
            "backup": stored.address,
            "target": datasource.address,
            "size": format_size(result.size_bytes),
            "duration": f"{result.duration_seconds:.1f} s ({rate}/s)",
        },
    )
