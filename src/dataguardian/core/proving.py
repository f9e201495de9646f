"""Proving that a key still opens a backup: its sealed record and one of its parts are decrypted. Nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from dataguardian.core.backupkeys import BackupKeys
from dataguardian.core.catalog import Backup
from dataguardian.core.copies import choose_copy
from dataguardian.core.encryption import Unlocked, unlock
from dataguardian.core.reading import PartReader
from dataguardian.domain.artifact import PartRecord
from dataguardian.domain.errors import UsageError, WrongKeyError
from dataguardian.storage.base import Storage
from dataguardian.streams.age.keys import parse_identities
from dataguardian.streams.age.sshkeys import Ed25519Identity, RsaIdentity
from dataguardian.streams.age.x25519 import X25519Identity
from dataguardian.streams.codecs import codec_for

PASSPHRASE = "passphrase"  # noqa: S105 -- a word
"""Stands for a passphrase where other keys have their public part."""


@dataclass(frozen=True)
class Identified:
    """A private key, and the public one that it belongs to."""

    recipient: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class Proven:
    """`keys` are the public keys whose private ones opened the backup, or the word `passphrase`; `part` was read."""

    directory: str
    keys: Sequence[str]
    part: str
    size_bytes: int


def identities_in(text: str) -> list[Identified]:
    """Returns the private keys of an identity file, each as a text of its own; raises ValueError."""
    found = []
    for identity in parse_identities(text):
        if isinstance(identity, X25519Identity):
            found.append(Identified(identity.recipient().text, identity.secret_text()))
        elif isinstance(identity, Ed25519Identity | RsaIdentity):
            found.append(Identified(identity.recipient().text, text))
    return found


def prove(storages: Sequence[Storage], directory: str, keys: BackupKeys, *, checksum: str | None = None) -> Proven:
    """Opens the sealed record of a backup with each of the keys, and with those that fit a part.

    Raises KeyNeededError without a key, WrongKeyError when none fits, UsageError for a backup that is not encrypted,
    IntegrityError for one that is damaged, and what the storages raise.
    """
    backup, storages = choose_copy(storages, directory, checksum=checksum)
    if backup.manifest.encryption is None:
        raise UsageError(f"{directory} is not encrypted: no key opens it")
    single = _single(keys, has_passphrase=backup.manifest.encryption.key is not None)
    if not single:
        unlock(storages, backup, keys)  # which says what is needed
        raise WrongKeyError(f"none of the keys that were given is for {directory}")
    opened: dict[str, Unlocked] = {}
    last: WrongKeyError | None = None
    for name, one in single:
        try:
            opened[name] = unlock(storages, backup, one)
        except WrongKeyError as error:
            last = error
    if not opened:
        assert last is not None  # noqa: S101 -- there was a key
        raise last
    parts = [_read_one(storages, unlocked) for unlocked in opened.values()]
    return Proven(directory, list(opened), parts[0].path, parts[0].size_bytes)


def _single(keys: BackupKeys, *, has_passphrase: bool) -> list[tuple[str, BackupKeys]]:
    """Returns keys one by one, so that each is proven on its own, with the name under which it is recorded."""
    if has_passphrase:
        return [(PASSPHRASE, BackupKeys(passphrases=keys.passphrases))] if keys.passphrases else []
    return [
        (one.recipient, BackupKeys(identities=(SecretStr(one.text),)))
        for text in keys.identities
        for one in identities_in(text.get_secret_value())
    ]


def _read_one(storages: Sequence[Storage], unlocked: Unlocked) -> PartRecord:
    """Decrypts and expands the smallest first part of a stream that holds something; both its hashes are checked."""
    backup: Backup = unlocked.backup
    firsts = [part for part in backup.parts if part.offset == 0]
    part = min(firsts, key=lambda part: (part.size_bytes == 0, part.stored_size_bytes))
    first, *others = storages
    codec, size_bytes = codec_for(backup.manifest.compression), backup.manifest.part_size_bytes
    with PartReader(first, backup.directory, codec, size_bytes, others=others, opener=unlocked.opener) as reader:
        for _, raw in reader.raw_in_order([part]):
            raw()
    return part
