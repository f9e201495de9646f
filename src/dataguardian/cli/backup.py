"""`dataguardian backup SOURCE STORAGE`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dataguardian.cli import look, output
from dataguardian.cli.keyoptions import NewPassphraseFile, Recipients, RecipientsFile, encryption_from
from dataguardian.cli.options import BandwidthLimit, Json, PasswordFile, password_from
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.errors import DataGuardianError, UsageError
from dataguardian.domain.sizes import format_size, parse_size
from dataguardian.domain.states import Strategy

if TYPE_CHECKING:
    from dataguardian.bootstrap import StorageLocation
    from dataguardian.core.backup import BackupResult
    from dataguardian.core.targets import TargetOutcome
    from dataguardian.domain.artifact import Manifest

    Spread: TypeAlias = Sequence[tuple[StorageLocation, TargetOutcome]]

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="What to back up: postgresql://user@host:port/db (without db: every database), sqlite:///abs/path.db, "
        "files:///abs/dir.",
    ),
]
StorageAddress = Annotated[str, typer.Argument(metavar="STORAGE", help="Where backups go: file:///abs/dir.")]


def backup(
    source: Source,
    storage: StorageAddress,
    *,
    name: Annotated[str | None, typer.Option(help="Name of the backup; the source's own by default.")] = None,
    compression: Annotated[
        str, typer.Option(metavar="[zstd|gzip|lz4|none]", help="How parts are compressed.")
    ] = "zstd",
    level: Annotated[
        int | None, typer.Option(help="Compression level: zstd 1-19 (3), gzip 1-9 (1), lz4 0-12 (0).")
    ] = None,
    part_size: Annotated[str, typer.Option(metavar="SIZE", help="Raw bytes per stored part, 64KiB to 1GiB.")] = "16MiB",
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only what matches (files). May be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Not what matches (files). May be repeated.")
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="DATABASE", help="Only this database of a whole server. May be repeated."),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(metavar="STORAGE", help="A further storage. May be repeated.")
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="With --also: identical bytes to all of them, or to the first one that takes the backup."),
    ] = Strategy.REPLICATE,
    bandwidth_limit: BandwidthLimit = None,
    password_file: PasswordFile = None,
    recipient: Recipients = None,
    recipients_file: RecipientsFile = None,
    passphrase_file: NewPassphraseFile = None,
    json: Json = False,
) -> int:
    """Back up a database or a folder."""
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.strategies import back_up
    from dataguardian.core.targets import Target
    from dataguardian.runner.priority import yield_readily

    yield_readily()
    part_size_bytes = parse_size(part_size)
    encryption = encryption_from(recipient, recipients_file, passphrase_file)
    datasource = bootstrap.open_datasource(source, password=password_from(password_file))
    locations = [
        bootstrap.open_storage(address, sleep=STOP.sleep, limit_mbps=bandwidth_limit or None)
        for address in (storage, *(also or ()))
    ]
    _refuse_twins(locations)
    plan = bootstrap.plan_backup(
        datasource,
        name=name,
        compression=compression,
        compression_level=level,
        part_size_bytes=part_size_bytes,
        include=include or (),
        exclude=exclude or (),
        streams=stream or (),
    )
    with stoppable("nothing of this backup was left in the storage"):
        with watch("backing up", quiet=json, cumulative=True) as progress:
            result = back_up(
                plan,
                datasource.fresh_engine,
                [Target(location.address, location.storage) for location in locations],
                strategy,
                report=progress.report,
                before_publish=STOP.commit,
                tell=output.warn,
                encryption=encryption,
            )
        STOP.finish()
    spread = list(zip(locations, result.targets, strict=True))
    address = next(location.address_of(result.directory) for location, target in spread if target.status == "stored")
    partial = any(target.status == "behind" for target in result.targets)
    if json:
        document = backup_document(address, result.manifest)
        output.show_json(document if not also else document | _targets_document(result, spread, partial=partial))
    else:
        _show_result(address, result, spread, partial=partial)
    return DataGuardianError.exit_code if partial else 0


def _refuse_twins(locations: Sequence[StorageLocation]) -> None:
    addresses = [location.address for location in locations]
    if len(set(addresses)) != len(addresses):
        raise UsageError("a storage is named twice", hint="--also is for further ones")


def _targets_document(result: BackupResult, spread: Spread, *, partial: bool) -> dict[str, object]:
    return {
        "status": "partial" if partial else "completed",
        "targets": [
            {
                "storage": location.address,
                "status": target.status.value,
                "backup": location.address_of(result.directory) if target.status == "stored" else None,
                "error": target.message or None,
            }
            for location, target in spread
        ],
    }


def backup_document(address: str, manifest: Manifest) -> dict[str, object]:
    """Returns what `backup --json` prints, and `list --json` for each; `encryption` only when there is any."""
    return {
        "backup": address,
        "execution_id": manifest.execution_id,
        "name": manifest.name,
        "engine": manifest.engine,
        "size_bytes": manifest.size_bytes,
        "compressed_size_bytes": manifest.compressed_size_bytes,
        "parts": manifest.parts,
        "checksum": manifest.checksum,
        "duration_seconds": manifest.duration_seconds,
        "warnings": list(manifest.warnings),
    } | ({"encryption": told} if (told := encryption_document(manifest)) else {})


def encryption_document(manifest: Manifest) -> dict[str, object] | None:
    """Returns for whom a backup is encrypted; None for one in clear."""
    if manifest.encryption is None:
        return None
    passphrase = manifest.encryption.key is not None
    return {"format": "age", "recipients": list(manifest.encryption.recipients), "passphrase": passphrase}


def encryption_text(manifest: Manifest) -> str | None:
    """Returns `for age1abc…`, or `with a passphrase`; None for a backup in clear."""
    return None if manifest.encryption is None else look.encryption(encryption_document(manifest))


def stored_text(manifest: Manifest) -> str:
    """Returns `3.1 MiB in 2 parts, zstd (4.0x)`."""
    parts = "1 part" if manifest.parts == 1 else f"{manifest.parts} parts"
    stored_bytes = manifest.compressed_size_bytes
    ratio = f" ({manifest.size_bytes / stored_bytes:.1f}x)" if manifest.size_bytes and stored_bytes else ""
    return f"{format_size(stored_bytes)} in {parts}, {manifest.compression}{ratio}"


def _show_result(address: str, result: BackupResult, spread: Spread, *, partial: bool) -> None:
    manifest = result.manifest
    rate = format_size(manifest.size_bytes / max(manifest.duration_seconds, 0.001))
    copies = [location for location, target in spread if target.status == "stored"][1:]
    output.show_fields(
        f"backup of {manifest.name} is {'PARTIAL' if partial else 'complete'}",
        {
            "backup": address,
            **{f"also {n}": copy.address_of(result.directory) for n, copy in enumerate(copies, start=1)},
            "size": format_size(manifest.size_bytes),
            "stored": stored_text(manifest),
            **({"encrypted": text} if (text := encryption_text(manifest)) else {}),
            "checksum": manifest.checksum,
            "duration": f"{manifest.duration_seconds:.1f} s ({rate}/s)",
        },
        style="bold red" if partial else "bold green",
    )
    behind = [(location, target) for location, target in spread if target.status == "behind"]
    for location, target in behind:
        output.warn(f"{location.address} does not hold it: {target.message}")
    for warning in manifest.warnings:
        output.warn(warning)
    next_steps = {
        "verify": f"dataguardian verify --deep {shlex.quote(address)}{_with_key(manifest)}",
        "restore": f"dataguardian restore {shlex.quote(address)} TARGET{_with_key(manifest)}",
    }
    if behind:
        next_steps["repair"] = f"dataguardian repair {shlex.quote(address)} {shlex.quote(behind[0][0].address)}"
    output.show_fields("next", next_steps, style="bold")


def _with_key(manifest: Manifest) -> str:
    if manifest.encryption is None:
        return ""
    return " --passphrase-file FILE" if manifest.encryption.key else " --identity-file FILE"
