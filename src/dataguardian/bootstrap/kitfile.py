"""A recovery kit on its way out: encrypted, and whole on the disk before anybody believes that it was taken."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from dataguardian.domain.errors import UsageError
from dataguardian.service.keyring import sync_folder
from dataguardian.service.kit.document import Kit
from dataguardian.service.kit.text import render
from dataguardian.service.services import Services

MIN_PASSPHRASE_LENGTH = 10


@dataclass(frozen=True)
class Protection:
    """What a kit is encrypted with; nothing at all is for those who said so."""

    passphrase: SecretStr | None = None
    recipients: Sequence[str] = ()

    @property
    def word(self) -> str:
        return "passphrase" if self.passphrase else "recipients" if self.recipients else "none"

    def check(self) -> None:
        """Raises UsageError for a passphrase that is too short, and for what is no recipient."""
        from dataguardian.streams.age.keys import parse_recipients  # noqa: PLC0415 -- only where something is encrypted

        if self.passphrase is not None and len(self.passphrase.get_secret_value()) < MIN_PASSPHRASE_LENGTH:
            raise UsageError(
                f"a kit's passphrase has at least {MIN_PASSPHRASE_LENGTH} characters",
                hint="several words that were chosen by chance are easy to type",
            )
        try:
            if self.recipients:
                parse_recipients(self.recipients)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def applied(self, text: str) -> bytes:
        """Returns an age file, or the text itself. Raises UsageError for what is no recipient."""
        data = text.encode("utf-8", "surrogateescape")
        if self.word == "none":
            return data
        from dataguardian.streams.age.files import encrypt  # noqa: PLC0415 -- as above
        from dataguardian.streams.age.keys import parse_recipients  # noqa: PLC0415 -- as above
        from dataguardian.streams.age.passphrase import PassphraseRecipient  # noqa: PLC0415 -- as above

        if self.passphrase is not None:
            return bytes(encrypt(data, [PassphraseRecipient(self.passphrase.get_secret_value())]))
        return bytes(encrypt(data, parse_recipients(self.recipients)))


async def take(
    services: Services, protection: Protection, output: Path | None, *, replace: bool = False
) -> tuple[Kit, str]:
    """Makes a kit, writes it into a new file (or returns its text for the caller to print), and takes note of it.

    Raises UsageError when the file exists, unless `replace`, or cannot be written; then nothing is noted.
    """
    kit = await services.recovery.gather()
    text = render(kit)
    if output is None:
        await services.recovery.note(kit, protection.word)
        return kit, text
    data = protection.applied(text)
    if replace:
        write_over(output, data)
        await services.recovery.note(kit, protection.word)
        return kit, text
    write_new(output, data)
    try:
        await services.recovery.note(kit, protection.word)
    except BaseException:
        await asyncio.to_thread(output.unlink)
        raise
    return kit, text


def write_over(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600 in place of one that stays whole until the new one is. Raises UsageError."""
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is no file", hint="give another name")
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_new(fresh, data)
    try:
        fresh.replace(path)
        sync_folder(path.absolute().parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def write_new(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600 that was not there, durable when this returns. Raises UsageError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already, and is left as it is", hint="give another name, or --replace"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.absolute().parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
