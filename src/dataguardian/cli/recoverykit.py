"""`dataguardian recovery-kit`: everything that an empty machine needs, in one document."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.console import at_home
from dataguardian.cli.groups import interactive
from dataguardian.cli.options import Json, password_from
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from dataguardian.bootstrap.kitfile import Protection
    from dataguardian.service.kit.document import Kit
    from dataguardian.service.services import Services

_WARNING = "whoever holds this kit holds every backup and every key: it is not encrypted"


def recovery_kit(
    *,
    output_file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file, for its owner alone.")
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Encrypt it with the passphrase on the first line of FILE. Else it is asked for."
        ),
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Encrypt it for this public key (age1…, ssh-…). May be repeated."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The file may exist: it is replaced once the new one is whole.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Do not encrypt it: for paper.")] = False,
    print_: Annotated[
        bool, typer.Option("--print", help="Write it to standard output, for a printer. Needs --plain.")
    ] = False,
    json: Json = False,
) -> None:
    """Write everything that is needed to restore on an empty machine: keys, addresses, jobs, and how to do it.

    The file is one that `age -d FILE` opens. Keep it neither on this machine nor in its storages.
    """
    from dataguardian.bootstrap import kitfile

    _check(output_file, plain=plain, printed=print_, json=json, encrypted=bool(passphrase_file or recipient))
    if output_file is not None and not replace and output_file.exists():  # before somebody types a passphrase twice
        raise UsageError(f"{output_file} exists already, and is left as it is", hint="give another name, or --replace")
    protection = _protection(passphrase_file, recipient, plain=plain)

    async def work(services: Services) -> tuple[Kit, str]:
        return await kitfile.take(services, protection, output_file, replace=replace)

    kit, text = at_home(work)
    for gap in kit.gaps:
        output.warn(f"the kit lacks something: {gap}")
    if plain:
        output.warn(_WARNING)
    if print_:
        output.show_text(text)
    elif json:
        output.show_json(_document(kit, protection, output_file))
    else:
        _tell(kit, protection, output_file)


def _check(path: Path | None, *, plain: bool, printed: bool, json: bool, encrypted: bool) -> None:
    if printed == (path is not None):
        raise UsageError("say where the kit goes", hint="--output FILE, or --print --plain for a printer")
    if printed and not plain:
        raise UsageError(f"--print shows the kit in clear: {_WARNING}", hint="add --plain when that is meant")
    if printed and json:
        raise UsageError("--print writes the kit itself, and --json an object about it", hint="leave one out")
    if plain and encrypted:
        raise UsageError("--plain does not go with --passphrase-file or --recipient", hint="leave --plain out")


def _protection(passphrase_file: Path | None, recipients: list[str] | None, *, plain: bool) -> Protection:
    from dataguardian.bootstrap.kitfile import Protection

    if passphrase_file is not None and recipients:
        raise UsageError("a kit is encrypted with a passphrase or for recipients, not both", hint="leave one out")
    if plain:
        return Protection()
    passphrase = password_from(passphrase_file)
    if passphrase is None and not recipients:
        passphrase = _asked()
    protection = Protection(passphrase, tuple(recipients or ()))
    protection.check()
    return protection


def _asked() -> SecretStr:
    from pydantic import SecretStr

    if not interactive():
        raise UsageError(
            "a passphrase is needed, and nobody is there to type one",
            hint="--passphrase-file FILE, --recipient KEY, or --plain for a kit in clear",
        )
    first = getpass.getpass("passphrase of the kit: ")
    if getpass.getpass("once more: ") != first:
        raise UsageError("the two passphrases are not the same", hint="try again")
    return SecretStr(first)


def _document(kit: Kit, protection: Protection, path: Path | None) -> dict[str, object]:
    return {
        "file": str(path),
        "taken_at": to_iso(kit.taken_at),
        "key_id": kit.covered.key_id,
        "protection": protection.word,
        "storages": len(kit.storages),
        "jobs": len(kit.jobs),
        "gaps": list(kit.gaps),
    }


def _tell(kit: Kit, protection: Protection, path: Path | None) -> None:
    opened = {"passphrase": f"age -d {path}", "recipients": f"age -d -i KEYFILE {path}", "none": f"less {path}"}
    output.show_fields(
        "a recovery kit was taken",
        {
            "file": path,
            "covers": f"{len(kit.jobs)} jobs, {len(kit.storages)} storage locations, secret key {kit.covered.key_id}",
            "open it": opened[protection.word],
        },
    )
    output.show("", "Copy it off this machine now, and open it once where it is kept.")
