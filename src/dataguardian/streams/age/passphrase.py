"""A passphrase, by scrypt: slow and hungry on purpose, so one key of a backup is sealed with it, and never a part."""

from __future__ import annotations

import hashlib
import os
import re

from dataguardian.streams.age.header import Stanza
from dataguardian.streams.age.wire import NotAgeError, decode, encode, unwrapped, wrapped

TYPE = "scrypt"
LOG_N = 17
"""2^17 blocks of 1 KiB: 128 MiB, given back before the first part. `age` itself takes 2^18, which breaks our budget."""
MAX_LOG_N = 18
"""What is opened: whoever may write into the storage chooses this number."""
_LABEL = b"age-encryption.org/v1/scrypt"
_SALT_BYTES = 16
_BLOCK = 8
_NUMBER = re.compile(r"[1-9][0-9]?")


class PassphraseRecipient:
    text = "passphrase"

    def __init__(self, passphrase: str) -> None:
        self._passphrase = passphrase.encode()

    def wrap(self, file_key: bytes) -> Stanza:
        salt = os.urandom(_SALT_BYTES)
        key = _stretched(self._passphrase, salt, LOG_N)
        return Stanza((TYPE, encode(salt), str(LOG_N)), wrapped(file_key, key))


class PassphraseIdentity:
    def __init__(self, passphrase: str) -> None:
        self._passphrase = passphrase.encode()

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.type != TYPE:
            return None
        if len(stanza.arguments) != 3 or not _NUMBER.fullmatch(stanza.arguments[2]):  # noqa: PLR2004 -- type, salt, cost
            raise NotAgeError("a stanza with other arguments")
        salt, log_n = decode(stanza.arguments[1]), int(stanza.arguments[2])
        if len(salt) != _SALT_BYTES or log_n > MAX_LOG_N:
            raise NotAgeError("a passphrase that costs too much to check")
        return unwrapped(stanza.body, _stretched(self._passphrase, salt, log_n))


def _stretched(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    most = (_BLOCK * 128 << log_n) + 1024 * 1024
    return hashlib.scrypt(passphrase, salt=_LABEL + salt, n=1 << log_n, r=_BLOCK, p=1, maxmem=most, dklen=32)
