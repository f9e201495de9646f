"""`dataguardian list STORAGE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataguardian.cli import output
from dataguardian.cli.backup import StorageAddress, backup_document, encryption_text, stored_text
from dataguardian.cli.options import Json
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.domain.sizes import format_size

if TYPE_CHECKING:
    from dataguardian.bootstrap import StorageLocation
    from dataguardian.core.catalog import Listing
    from dataguardian.domain.artifact import Manifest


def list_(storage: StorageAddress, *, json: Json = False) -> None:
    """List the backups of a storage, oldest first."""
    from dataguardian import bootstrap
    from dataguardian.core.catalog import list_backups

    location = bootstrap.open_storage(storage, sleep=STOP.sleep)
    with stoppable("nothing was changed"):
        location.storage.free_space()  # tells a storage that is not there from an empty one
        listing = list_backups(location.storage)
    if json:
        output.show_json(_document(location, listing))
    else:
        _show(location, listing)


def _document(location: StorageLocation, listing: Listing) -> dict[str, object]:
    """Returns the issue's shape; `unreadable` is only there when there is something to tell."""
    backups = [
        backup_document(location.address_of(directory), manifest) | {"started_at": manifest.started_at}
        for directory, manifest in listing.backups
    ]
    unreadable = [
        {"backup": location.address_of(directory), "reason": reason} for directory, reason in listing.unreadable.items()
    ]
    return {"backups": backups} | ({"unreadable": unreadable} if unreadable else {})


def _show(location: StorageLocation, listing: Listing) -> None:
    if not listing.backups:
        output.show(f"no backups in {location.address}")
        if not listing.unreadable:
            output.show(f"make the first one: dataguardian backup SOURCE {location.address}")
    for directory, manifest in listing.backups:
        _show_backup(location.address_of(directory), manifest)
    for directory, reason in listing.unreadable.items():
        output.warn(f"{location.address_of(directory)} cannot be read: {reason}")


def _show_backup(address: str, manifest: Manifest) -> None:
    """Two lines: what it is, and its address whole on a line of its own, so that it can be copied."""
    from rich.text import Text

    when = f"{manifest.started_at[:10]} {manifest.started_at[11:19]} UTC"
    warnings = len(manifest.warnings)
    output.show(
        Text.assemble(
            (output.visible(f"{when}  {manifest.name}"), "bold"),
            output.visible(f"  {manifest.engine}  {format_size(manifest.size_bytes)}, {stored_text(manifest)}"),
            output.visible(f", encrypted {text}") if (text := encryption_text(manifest)) else "",
            (f"  {warnings} warning{'s' if warnings > 1 else ''}", "yellow") if warnings else "",
        ),
        Text(f"  {output.visible(address)}"),
    )
