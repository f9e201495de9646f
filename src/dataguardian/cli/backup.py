"""`dataguardian backup SOURCE STORAGE`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.options import Json, PasswordFile, password_from
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.sizes import format_size, parse_size

if TYPE_CHECKING:
    from dataguardian.domain.artifact import Manifest

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
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Back up a database or a folder."""
    from dataguardian import bootstrap
    from dataguardian.cli.progress import watch
    from dataguardian.core.backup import run_backup

    part_size_bytes = parse_size(part_size)
    datasource = bootstrap.open_datasource(source, password=password_from(password_file))
    location = bootstrap.open_storage(storage, sleep=STOP.sleep)
    plan = bootstrap.plan_backup(
        datasource,
        name=name,
        compression=compression,
        compression_level=level,
        part_size_bytes=part_size_bytes,
        include=include or (),
        exclude=exclude or (),
    )
    with stoppable("nothing of this backup was left in the storage"):
        with watch("backing up", quiet=json, cumulative=True) as progress:
            result = run_backup(
                plan, datasource.engine, location.storage, report=progress.report, before_publish=STOP.commit
            )
        STOP.finish()
    address = location.address_of(result.directory)
    if json:
        output.show_json(backup_document(address, result.manifest))
    else:
        _show_result(address, result.manifest)


def backup_document(address: str, manifest: Manifest) -> dict[str, object]:
    """Returns what `backup --json` prints, and `list --json` for each backup."""
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
    }


def stored_text(manifest: Manifest) -> str:
    """Returns `3.1 MiB in 2 parts, zstd (4.0x)`."""
    parts = "1 part" if manifest.parts == 1 else f"{manifest.parts} parts"
    stored_bytes = manifest.compressed_size_bytes
    ratio = f" ({manifest.size_bytes / stored_bytes:.1f}x)" if manifest.size_bytes and stored_bytes else ""
    return f"{format_size(stored_bytes)} in {parts}, {manifest.compression}{ratio}"


def _show_result(address: str, manifest: Manifest) -> None:
    rate = format_size(manifest.size_bytes / max(manifest.duration_seconds, 0.001))
    output.show_fields(
        f"backup of {manifest.name} is complete",
        {
            "backup": address,
            "size": format_size(manifest.size_bytes),
            "stored": stored_text(manifest),
            "checksum": manifest.checksum,
            "duration": f"{manifest.duration_seconds:.1f} s ({rate}/s)",
        },
    )
    for warning in manifest.warnings:
        output.warn(warning)
    output.show_fields(
        "next",
        {
            "verify": f"dataguardian verify --deep {shlex.quote(address)}",
            "restore": f"dataguardian restore {shlex.quote(address)} TARGET",
        },
        style="bold",
    )
