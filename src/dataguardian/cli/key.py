"""`dataguardian key`: the keys that backups are encrypted for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.groups import group
from dataguardian.cli.options import Json

key = group("Keys that backups are encrypted for.")


@key.command()
def generate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file for the private key.")], *, json: Json = False
) -> None:
    """Make a key pair: the private key goes into FILE, the public one is printed."""
    from dataguardian.bootstrap import keyfiles

    public = keyfiles.generate(file)
    if json:
        output.show_json({"file": str(file), "recipient": public})
        return
    output.show_fields(
        "a key was made",
        {"recipient": public, "private key": str(file), "encrypt": f"dataguardian backup … --recipient {public}"},
    )
    output.warn(f"without {file} no backup that is encrypted for this key can be restored: keep a copy somewhere else")
