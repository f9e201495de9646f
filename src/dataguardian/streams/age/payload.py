"""The payload: STREAM, 64 KiB at a time, each with its number and whether it is the last in the nonce."""

from __future__ import annotations

import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dataguardian.streams.age.wire import TAG_BYTES, NotAgeError, derived

CHUNK_BYTES = 64 * 1024
NONCE_BYTES = 16
_SEALED_BYTES = CHUNK_BYTES + TAG_BYTES
Data = bytes | bytearray | memoryview
Room = Callable[[int], bytearray | memoryview]
"""Gives so many writable bytes."""


def encrypted(header: bytes, file_key: bytes, data: Data, room: Room = bytearray) -> bytearray | memoryview:
    """Returns a whole file, in what `room` gives. Each chunk goes straight to its place: there is no other copy."""
    nonce = os.urandom(NONCE_BYTES)
    cipher = ChaCha20Poly1305(derived(file_key, salt=nonce, info=b"payload"))
    begin, count = len(header) + NONCE_BYTES, max(1, -(-len(data) // CHUNK_BYTES))
    file = room(begin + len(data) + count * TAG_BYTES)
    file[:begin] = header + nonce
    with memoryview(data) as plain, memoryview(file)[begin:] as sealed:
        for number in range(count):
            chunk = plain[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            place = sealed[number * _SEALED_BYTES : number * _SEALED_BYTES + len(chunk) + TAG_BYTES]
            cipher.encrypt_into(_nonce(number, last=number == count - 1), chunk, None, place)
    return file


def decrypted(sealed: memoryview, file_key: bytes) -> bytearray:
    """Returns what a file holds, given all that follows its header; raises NotAgeError unless every byte is right."""
    key = derived(file_key, salt=bytes(sealed[:NONCE_BYTES]), info=b"payload")
    cipher, sealed = ChaCha20Poly1305(key), sealed[NONCE_BYTES:]
    count = -(-len(sealed) // _SEALED_BYTES)
    size_bytes = len(sealed) - count * TAG_BYTES
    if size_bytes < 0 or (size_bytes == 0 and count != 1) or (count > 1 and size_bytes <= (count - 1) * CHUNK_BYTES):
        raise NotAgeError("a payload that was cut")
    data = bytearray(size_bytes)
    with memoryview(data) as plain:
        for number in range(count):
            chunk = sealed[number * _SEALED_BYTES : (number + 1) * _SEALED_BYTES]
            place = plain[number * CHUNK_BYTES : number * CHUNK_BYTES + len(chunk) - TAG_BYTES]
            try:
                cipher.decrypt_into(_nonce(number, last=number == count - 1), chunk, None, place)
            except InvalidTag as error:
                raise NotAgeError("a payload that was damaged") from error
    return data


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")
