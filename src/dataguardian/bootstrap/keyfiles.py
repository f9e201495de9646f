"""Files that people keep keys in: recipients, identities, passphrases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr, ValidationError

from dataguardian.bootstrap import read_password
from dataguardian.core.backupkeys import MAX_IDENTITY_LENGTH, BackupKeys, EncryptionOptions
from dataguardian.domain.errors import UsageError
from dataguardian.streams.age.keys import parse_identities, parse_recipients, recipients_of
from dataguardian.streams.age.x25519 import X25519Identity

MAX_FILE_BYTES = MAX_IDENTITY_LENGTH


def encryption(
    recipients: Sequence[str], recipients_file: Path | None, passphrase_file: Path | None
) -> EncryptionOptions:
    """Returns how a backup is to be encrypted; raises UsageError for what is no key, or for both kinds at once."""
    texts = [*recipients, *(recipients_of(_text(recipients_file, "recipients")) if recipients_file else [])]
    if passphrase_file is not None and (recipients or recipients_file):
        raise UsageError(
            "a passphrase and recipients were given",
            hint="age takes one or the other: leave --passphrase-file out, or --recipient and --recipients-file",
        )
    if passphrase_file is None:
        try:
            return EncryptionOptions(recipients=tuple(found.text for found in parse_recipients(texts)))
        except ValueError as error:
            raise UsageError(str(error), hint="`dataguardian key generate FILE` makes a key pair") from None
    try:
        return EncryptionOptions(passphrase=read_password(passphrase_file))
    except ValidationError as error:
        words = "; ".join(item["msg"] for item in error.errors())
        raise UsageError(f"the passphrase in {passphrase_file} cannot be used: {words}") from None


def keys(identity_files: Sequence[Path], passphrase_file: Path | None) -> BackupKeys:
    """Returns what opens encrypted backups; raises UsageError that names the file which cannot be used."""
    texts = [_identity(path) for path in identity_files]
    passphrases = (read_password(passphrase_file),) if passphrase_file else ()
    try:
        return BackupKeys(identities=tuple(texts), passphrases=passphrases)
    except ValidationError as error:
        words = "; ".join(item["msg"] for item in error.errors())
        raise UsageError(f"these keys cannot be used: {words}") from None


def generate(path: Path) -> str:
    """Makes a key pair: writes the private key into a new file of mode 0600, and returns the public one.

    Raises UsageError when the file exists already or cannot be written: a key that was overwritten is lost.
    """
    identity = X25519Identity.generate()
    public = identity.recipient().text
    text = f"# public key: {public}\n{identity.secret_text()}\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already, and is left as it is", hint="a key is never overwritten: give another name"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return public


def _identity(path: Path) -> SecretStr:
    text = _text(path, "identity")
    try:
        parse_identities(text)
    except ValueError as error:
        raise UsageError(f"the identity file {path} cannot be used: {error}") from None
    return SecretStr(text)


def _text(path: Path, noun: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"the {noun} file {path} cannot be read: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"the {noun} file {path} is larger than any: {MAX_FILE_BYTES} bytes are read")
    return text
