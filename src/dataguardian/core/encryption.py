"""Encrypting a backup, and opening one. Imported only where there is something to encrypt or to open."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

from dataguardian.core.backupkeys import BackupKeys, EncryptionOptions
from dataguardian.core.byhand import Guard
from dataguardian.core.catalog import Backup
from dataguardian.core.objects import read_object
from dataguardian.domain import artifact
from dataguardian.domain.artifact import Encryption, Manifest, PartRecord, SealedObject
from dataguardian.domain.errors import DamagedPartError, KeyNeededError, ManifestError, WrongKeyError
from dataguardian.domain.sealed import encode_sealed, with_sealed, without_sealed
from dataguardian.storage.base import Storage
from dataguardian.streams.age.files import NotForThisKeyError, decrypt, encrypt
from dataguardian.streams.age.keys import Identity, Recipient, parse_identities, parse_recipients
from dataguardian.streams.age.passphrase import PassphraseIdentity, PassphraseRecipient
from dataguardian.streams.age.wire import NotAgeError
from dataguardian.streams.age.x25519 import X25519Identity
from dataguardian.streams.codecs import Data
from dataguardian.streams.sealing import Opener
from dataguardian.streams.split import room_outside

_GIVE_KEY = (
    "--identity-file, --passphrase-file or DATAGUARDIAN_IDENTITY_FILE names it by hand, the setting `decryption` to "
    "the service"
)


class Sealer:
    """Seals everything of one backup. Safe for several threads; one part at a time, which bounds the memory."""

    def __init__(self, recipients: Sequence[Recipient], key: bytes | None = None) -> None:
        self._recipients = recipients
        self._key = key
        self._lock = Lock()

    @classmethod
    def of(cls, options: EncryptionOptions) -> Sealer:
        """A passphrase is stretched here, once: half a second and 128 MiB, which are free again afterwards."""
        if options.passphrase is None:
            return cls(parse_recipients(options.recipients))
        identity = X25519Identity.generate()
        text = f"# The key of one backup\n{identity.secret_text()}\n".encode()
        passphrase = PassphraseRecipient(options.passphrase.get_secret_value())
        return cls([identity.recipient()], bytes(encrypt(text, [passphrase])))

    @property
    def guard(self) -> Guard:
        """Returns what somebody who restores by hand has to have."""
        return Guard.IDENTITY if self._key is None else Guard.PASSPHRASE

    def seal(self, data: Data) -> bytearray | memoryview:
        with self._lock:
            return encrypt(data, self._recipients, room_outside)

    def seal_records(
        self, manifest: Manifest, parts: Sequence[PartRecord]
    ) -> tuple[Manifest, list[PartRecord], dict[str, Data]]:
        """Returns the records as they may lie in clear, and the objects to store beside the parts."""
        objects: dict[str, Data] = {artifact.SEALED: self.seal(encode_sealed(manifest, parts))}
        if self._key is not None:
            objects[artifact.KEY] = self._key
        public, public_parts = without_sealed(manifest, parts)
        encryption = Encryption(
            format="age",
            recipients=[recipient.text for recipient in self._recipients],
            key=artifact.KEY if self._key is not None else None,
            objects=[_recorded(path, data) for path, data in objects.items()],
        )
        update = {"format": artifact.ENCRYPTED_FORMAT, "encryption": encryption}
        return public.model_copy(update=update), public_parts, objects


@dataclass(frozen=True)
class Unlocked:
    """A backup with what was sealed of its records, and what opens its parts."""

    backup: Backup
    opener: Opener


def unlock(storages: Sequence[Storage], backup: Backup, keys: BackupKeys) -> Unlocked:
    """Opens an encrypted backup's records with whichever key fits.

    Raises KeyNeededError when there is no key, WrongKeyError when none fits, IntegrityError for records that are not
    what was written, and what the storages raise.
    """
    if not keys:
        raise KeyNeededError(f"{backup.directory} is encrypted, and no key was given", hint=_needed(backup.manifest))
    held: dict[str, bytes] = {}
    for entry in backup.manifest.objects:
        path = f"{backup.directory}/{entry.path}"
        held[entry.path] = read_object(storages, path, entry.stored_size_bytes, entry.stored_sha256)
    identities = _identities(backup, held.get(artifact.KEY), keys)
    try:
        record = decrypt(held[artifact.SEALED], identities)
    except NotForThisKeyError as error:
        raise _wrong(backup) from error
    except NotAgeError as error:
        raise ManifestError(f"{backup.directory}/{artifact.SEALED} is no age file, or was forged: {error}") from error
    manifest, parts = with_sealed(backup.manifest, backup.parts, record)
    return Unlocked(replace(backup, manifest=manifest, parts=parts), _opener(identities))


def _identities(backup: Backup, key: bytes | None, keys: BackupKeys) -> list[Identity]:
    """Returns those that were given; a passphrase's is in the backup. Raises WrongKeyError when there is none."""
    identities = [identity for text in keys.identities for identity in parse_identities(text.get_secret_value())]
    for passphrase in keys.passphrases if key is not None else ():
        try:
            text = decrypt(key or b"", [PassphraseIdentity(passphrase.get_secret_value())])
            return [*parse_identities(text.decode()), *identities]
        except NotForThisKeyError:
            continue
        except ValueError as error:
            raise ManifestError(f"{backup.directory}/{artifact.KEY} is no key that a backup sealed") from error
    if not identities:
        raise _wrong(backup)
    return identities


def _opener(identities: Sequence[Identity]) -> Opener:
    def opened(data: bytes) -> bytearray:
        try:
            return decrypt(data, identities)
        except NotForThisKeyError as error:
            raise DamagedPartError("it was sealed for other keys than the rest of the backup") from error
        except NotAgeError as error:
            raise DamagedPartError(f"it does not decrypt: {error}") from error

    return opened


def _wrong(backup: Backup) -> WrongKeyError:
    return WrongKeyError(
        f"{backup.directory} is encrypted, and none of the keys that were given opens it",
        hint=_needed(backup.manifest),
    )


def _needed(manifest: Manifest) -> str:
    assert manifest.encryption is not None  # noqa: S101 -- whoever asks has looked
    if manifest.encryption.key is not None:
        return f"it was encrypted with a passphrase; {_GIVE_KEY}"
    recipients = [text[:80] for text in manifest.encryption.recipients]
    return f"the private key of {' or '.join(recipients[:3])} is needed; {_GIVE_KEY}"


def _recorded(path: str, data: Data) -> SealedObject:
    return SealedObject.model_validate(
        {"path": path, "stored_size_bytes": len(data), "stored_sha256": hashlib.sha256(data).hexdigest()}
    )
