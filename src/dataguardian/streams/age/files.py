"""A whole age file, made and opened."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dataguardian.streams.age import passphrase
from dataguardian.streams.age.header import Header, decode_header, encode_header
from dataguardian.streams.age.keys import Identity, Recipient
from dataguardian.streams.age.payload import Data, Room, decrypted, encrypted
from dataguardian.streams.age.wire import FILE_KEY_BYTES, NotAgeError


class NotForThisKeyError(NotAgeError):
    """None of the identities is one that the file was sealed for."""


def encrypt(data: Data, recipients: Sequence[Recipient], room: Room = bytearray) -> bytearray | memoryview:
    """Returns an age file that each of the recipients can open, in what `room` gives. A passphrase must be the only
    one.
    """
    file_key = os.urandom(FILE_KEY_BYTES)
    header = encode_header([recipient.wrap(file_key) for recipient in recipients], file_key)
    return encrypted(header, file_key, data, room)


def decrypt(file: Data, identities: Sequence[Identity]) -> bytearray:
    """Returns what the file holds, which is less than its length.

    Raises NotForThisKeyError when no identity opens it, NotAgeError when anything about it is not as it was written.
    """
    header = decode_header(file)
    file_key = _file_key(header, identities)
    if len(file_key) != FILE_KEY_BYTES or not header.belongs_to(file_key):
        raise NotAgeError("a header that was damaged")
    with memoryview(file)[header.size_bytes :] as payload:
        return decrypted(payload, file_key)


def _file_key(header: Header, identities: Sequence[Identity]) -> bytes:
    if len(header.stanzas) > 1 and any(stanza.type == passphrase.TYPE for stanza in header.stanzas):
        raise NotAgeError("a passphrase beside other recipients")
    for identity in identities:
        for stanza in header.stanzas:
            file_key = identity.unwrap(stanza)
            if file_key is not None:
                return file_key
    raise NotForThisKeyError("sealed for other keys")
