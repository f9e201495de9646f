"""age's own keys: `age1…` to seal for, `AGE-SECRET-KEY-1…` to open with."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from dataguardian.streams.age import bech32
from dataguardian.streams.age.header import Stanza
from dataguardian.streams.age.wire import NotAgeError, decode, derived, encode, unwrapped, wrapped

TYPE = "X25519"
PUBLIC_PREFIX, SECRET_PREFIX = "age", "age-secret-key-"
_INFO = b"age-encryption.org/v1/X25519"
_KEY_BYTES = 32


class X25519Recipient:
    def __init__(self, key: X25519PublicKey) -> None:
        self._key = key
        self._raw = key.public_bytes_raw()
        self.text = bech32.encode(PUBLIC_PREFIX, self._raw)
        X25519PrivateKey.generate().exchange(key)  # a point of low order gives no secret, and is refused here

    @classmethod
    def parse(cls, text: str) -> X25519Recipient:
        """Raises ValueError."""
        return cls(X25519PublicKey.from_public_bytes(_key(text, PUBLIC_PREFIX)))

    def wrap(self, file_key: bytes) -> Stanza:
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        key = derived(ephemeral.exchange(self._key), salt=share + self._raw, info=_INFO)
        return Stanza((TYPE, encode(share)), wrapped(file_key, key))


class X25519Identity:
    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> X25519Identity:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> X25519Identity:
        """Raises ValueError."""
        return cls(X25519PrivateKey.from_private_bytes(_key(text, SECRET_PREFIX)))

    def recipient(self) -> X25519Recipient:
        return X25519Recipient(self._key.public_key())

    def secret_text(self) -> str:
        """Returns the line of an identity file."""
        return bech32.encode(SECRET_PREFIX, self._key.private_bytes_raw()).upper()

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.type != TYPE:
            return None
        if len(stanza.arguments) != 2:  # noqa: PLR2004 -- its type and the share
            raise NotAgeError("a stanza with other arguments")
        share = decode(stanza.arguments[1])
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError as error:
            raise NotAgeError("not a point of the curve") from error
        return unwrapped(stanza.body, derived(shared, salt=share + self._public, info=_INFO))


def _key(text: str, prefix: str) -> bytes:
    found, key = bech32.decode(text)
    if found != prefix or len(key) != _KEY_BYTES or (prefix == PUBLIC_PREFIX) != text.islower():
        raise ValueError("not a key of this kind")
    return key
