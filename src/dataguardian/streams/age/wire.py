"""The small pieces of the format: unpadded base64, HKDF, the wrapping of a file key."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FILE_KEY_BYTES = 16
TAG_BYTES = 16
WRAPPED_BYTES = FILE_KEY_BYTES + TAG_BYTES
_NO_NONCE = bytes(12)


class NotAgeError(ValueError):
    """The bytes are no age file, were damaged, or were not sealed for the key at hand. Never leaves this package."""


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Returns the bytes; raises NotAgeError for padding and for every spelling that `encode` would not give."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAgeError("not base64") from error
    if encode(data) != text:
        raise NotAgeError("base64 that is not canonical")
    return data


def derived(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Returns 32 bytes of HKDF-SHA256."""
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def wrapped(file_key: bytes, key: bytes) -> bytes:
    """Each wrapping key is used once, so that the nonce may be zero."""
    return ChaCha20Poly1305(key).encrypt(_NO_NONCE, file_key, None)


def unwrapped(body: bytes, key: bytes) -> bytes | None:
    """Returns the file key, or None when it was wrapped with another key."""
    if len(body) != WRAPPED_BYTES:
        raise NotAgeError("a wrapped key of another length")
    try:
        return ChaCha20Poly1305(key).decrypt(_NO_NONCE, body, None)
    except InvalidTag:
        return None
