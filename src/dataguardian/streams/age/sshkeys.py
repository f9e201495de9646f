"""SSH keys as recipients: `ssh-ed25519`, moved to its Montgomery form, and `ssh-rsa` by OAEP."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from dataguardian.streams.age.header import Stanza
from dataguardian.streams.age.wire import NotAgeError, decode, derived, encode, unwrapped, wrapped

ED25519, RSA = "ssh-ed25519", "ssh-rsa"
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 16384
_ED25519_INFO = b"age-encryption.org/v1/ssh-ed25519"
_OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), b"age-encryption.org/v1/ssh-rsa")
_PRIME = 2**255 - 19
_TAG_BYTES, _KEY_BYTES = 4, 32


class Ed25519Recipient:
    def __init__(self, key: ed25519.Ed25519PublicKey) -> None:
        self._wire, self.text = _public(key)
        self._point = X25519PublicKey.from_public_bytes(_montgomery(key))

    def wrap(self, file_key: bytes) -> Stanza:
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        key = _ed25519_key(self._wire, self._point, ephemeral.exchange(self._point), share)
        return Stanza((ED25519, _tag(self._wire), encode(share)), wrapped(file_key, key))


class Ed25519Identity:
    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._public = key.public_key()
        self._wire, _ = _public(self._public)
        self._point = X25519PublicKey.from_public_bytes(_montgomery(key.public_key()))
        self._key = X25519PrivateKey.from_private_bytes(hashlib.sha512(key.private_bytes_raw()).digest()[:_KEY_BYTES])

    def recipient(self) -> Ed25519Recipient:
        return Ed25519Recipient(self._public)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.type != ED25519 or stanza.arguments[1:2] != (_tag(self._wire),):
            return None
        share = decode(_only(stanza.arguments[2:]))
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError as error:
            raise NotAgeError("not a point of the curve") from error
        return unwrapped(stanza.body, _ed25519_key(self._wire, self._point, shared, share))


class RsaRecipient:
    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._wire, self.text = _public(key)
        self._key = key

    def wrap(self, file_key: bytes) -> Stanza:
        return Stanza((RSA, _tag(self._wire)), self._key.encrypt(file_key, _OAEP))


class RsaIdentity:
    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._wire, _ = _public(key.public_key())
        self._key = key

    def recipient(self) -> RsaRecipient:
        return RsaRecipient(self._key.public_key())

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.arguments != (RSA, _tag(self._wire)):
            return None
        try:
            return self._key.decrypt(stanza.body, _OAEP)
        except ValueError:
            return None


def check_rsa_size(bits: int) -> None:
    """Raises ValueError: `age` refuses small ones too, and big ones would make headers big."""
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise ValueError(f"an RSA key of {bits} bits is refused: {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")


def _ed25519_key(wire: bytes, point: X25519PublicKey, shared: bytes, share: bytes) -> bytes:
    """The tweak binds the shared secret to the SSH key, because another key may have the same Montgomery form."""
    tweak = X25519PrivateKey.from_private_bytes(derived(b"", salt=wire, info=_ED25519_INFO))
    bound = tweak.exchange(X25519PublicKey.from_public_bytes(shared))
    return derived(bound, salt=share + point.public_bytes_raw(), info=_ED25519_INFO)


def _montgomery(key: ed25519.Ed25519PublicKey) -> bytes:
    """Returns the point's u coordinate, (1 + y) / (1 - y) modulo 2^255 - 19 (RFC 7748, section 4.1)."""
    y = int.from_bytes(key.public_bytes_raw(), "little") & ((1 << 255) - 1)
    return ((1 + y) * pow(1 - y, _PRIME - 2, _PRIME) % _PRIME).to_bytes(_KEY_BYTES, "little")


def _public(key: ed25519.Ed25519PublicKey | rsa.RSAPublicKey) -> tuple[bytes, str]:
    """Returns a key in SSH's binary form, and as text without a comment."""
    text = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return base64.b64decode(text.split(" ")[1]), text


def _tag(wire: bytes) -> str:
    return encode(hashlib.sha256(wire).digest()[:_TAG_BYTES])


def _only(arguments: tuple[str, ...]) -> str:
    if len(arguments) != 1:
        raise NotAgeError("a stanza with other arguments")
    return arguments[0]
