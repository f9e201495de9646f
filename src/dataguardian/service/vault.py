"""Secrets at rest: sealed before they are stored, opened only where they are used.

A sealed text is `dgs1:<key id>:<data>`: `data` is base64url without padding of a random nonce of 96 bits, then what
AES-256-GCM makes of the text, its tag last. The associated data is the purpose, which names the place that the secret
belongs to: a sealed text that is copied to another place does not open there. The key id is the beginning of a hash of
the key, so that several keys may be known and the right one is taken.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

from dataguardian.domain.errors import SecretUnreadableError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
KEY_HINT = "a key is 32 bytes in base64, as `openssl rand -base64 32` makes one"

_LEAST_CHARACTERS = -(-(NONCE_BYTES + TAG_BYTES) * 4 // 3)
_SEALED = re.compile(rf"dgs1:([0-9a-f]{{16}}):([A-Za-z0-9_-]{{{_LEAST_CHARACTERS},}})")


@dataclass(frozen=True)
class Key:
    """A key of 32 bytes; `id` may be shown and stored."""

    data: bytes = field(repr=False)

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(b"dataguardian secret key\0" + self.data).hexdigest()[:16]

    @cached_property
    def text(self) -> str:
        """Its base64, as key files hold it."""
        return base64.b64encode(self.data).decode()

    @cached_property
    def cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 -- 40 ms that a start can use

        return AESGCM(self.data)

    @classmethod
    def generate(cls) -> Self:
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """Reads base64, the usual or the URL-safe one. Raises UsageError that names `where` and repeats nothing."""
        try:
            data = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
        except (ValueError, binascii.Error):
            raise UsageError(f"{where} does not hold a secret key: it is not base64", hint=KEY_HINT) from None
        if len(data) != KEY_BYTES:
            raise UsageError(f"{where} does not hold a secret key: it has {len(data)} bytes", hint=KEY_HINT)
        return cls(data)


@dataclass(frozen=True)
class Vault:
    """Seals with the first of its keys and opens with any of them."""

    keys: Sequence[Key]

    @property
    def key_id(self) -> str:
        """The id of the key that seals."""
        return self.keys[0].id

    @cached_property
    def _by_id(self) -> Mapping[str, Key]:
        return {key.id: key for key in self.keys}

    def seal(self, text: str, *, purpose: str) -> str:
        """Returns the sealed text; twice the same text gives two different ones."""
        nonce = os.urandom(NONCE_BYTES)
        data = nonce + self.keys[0].cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), purpose.encode())
        return f"dgs1:{self.key_id}:{base64.urlsafe_b64encode(data).decode().rstrip('=')}"

    def open(self, sealed: str, *, purpose: str) -> str:
        """Returns the text; raises SecretUnreadableError when its key is not known, it was sealed for another purpose,
        or it is damaged.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 -- as above

        match = _SEALED.fullmatch(sealed)
        if match is None:
            raise SecretUnreadableError("a stored secret is not a sealed one", hint="enter it again")
        key = self._by_id.get(match[1])
        if key is None:
            raise SecretUnreadableError(
                f"a stored secret was sealed with the key {match[1]}, which is not here",
                hint="put that key back (docs/secrets.md), or enter the secret again",
                key_id=match[1],
            )
        data = base64.urlsafe_b64decode(match[2] + "=" * (-len(match[2]) % 4))
        try:
            text = key.cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], purpose.encode())
        except InvalidTag:
            raise SecretUnreadableError(
                "a stored secret does not belong where it is stored, or is damaged", hint="enter it again"
            ) from None
        return text.decode("utf-8", "surrogatepass")

    def is_sealed(self, value: object) -> bool:
        """Whether this looks like a sealed text; whether it opens is another question."""
        return key_id_of(value) is not None


def key_id_of(value: object) -> str | None:
    """Returns the id of the key that a sealed text names; None for everything else."""
    match = _SEALED.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None
