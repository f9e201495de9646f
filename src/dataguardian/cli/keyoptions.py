"""Options of verbs that encrypt backups or open them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian.cli import output

if TYPE_CHECKING:
    from dataguardian.core.backupkeys import BackupKeys, EncryptionOptions

IDENTITY_VARIABLE = "DATAGUARDIAN_IDENTITY_FILE"

Recipients = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        metavar="KEY",
        help="Encrypt for this public key: age1…, 'ssh-ed25519 …' or 'ssh-rsa …'. May be repeated.",
    ),
]
RecipientsFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Encrypt for every public key in FILE, one a line; # begins a comment."),
]
NewPassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Encrypt with the passphrase on the first line of FILE."),
]
IdentityFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--identity-file",
        metavar="FILE",
        help="Open an encrypted backup with the private key in FILE, of age or SSH. May be repeated. "
        f"Else {IDENTITY_VARIABLE}.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Open an encrypted backup with the passphrase on the first line of FILE."),
]


def encryption_from(
    recipients: Sequence[str] | None, recipients_file: Path | None, passphrase_file: Path | None
) -> EncryptionOptions | None:
    """Returns how a backup is encrypted, None for not at all; raises UsageError."""
    if not recipients and recipients_file is None and passphrase_file is None:
        return None
    from dataguardian.bootstrap import keyfiles

    if passphrase_file is not None:
        _warn_when_open(passphrase_file)
    return keyfiles.encryption(recipients or (), recipients_file, passphrase_file)


def keys_from(identity_files: Sequence[Path] | None, passphrase_file: Path | None) -> BackupKeys:
    """Returns what encrypted backups are opened with: nothing when nothing was given; raises UsageError."""
    from dataguardian.core.backupkeys import NO_KEYS

    named = os.environ.get(IDENTITY_VARIABLE)
    files = list(identity_files or ([Path(named)] if named and passphrase_file is None else []))
    if not files and passphrase_file is None:
        return NO_KEYS
    from dataguardian.bootstrap import keyfiles

    keys = keyfiles.keys(files, passphrase_file)
    for file in [*files, *([passphrase_file] if passphrase_file else [])]:
        _warn_when_open(file)
    return keys


def _warn_when_open(path: Path) -> None:
    from dataguardian import bootstrap

    if path.exists() and bootstrap.others_may_read(path):
        output.warn(f"other users may read {path}; `chmod 600` it")
