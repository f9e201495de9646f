"""Secrets that DataGuardian makes: drawn from the system's generator, shown once, kept as their SHA-256.

A plain hash is enough for them, other than for passwords: nobody guesses 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

TOKEN_PREFIX = "dgt_"  # noqa: S105 -- how tokens begin, so that scanners of source code find lost ones
SHOWN_CHARACTERS = 8
_BYTES = 32
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def new_secret(prefix: str = "") -> str:
    """Returns a prefix and 43 characters that are safe in URLs, headers and cookies."""
    return prefix + secrets.token_urlsafe(_BYTES)


def is_secret(text: str, prefix: str = "") -> bool:
    """Tells whether a text has the form of `new_secret`'s."""
    return text.startswith(prefix) and _SECRET.fullmatch(text[len(prefix) :]) is not None


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(one: str, other: str) -> bool:
    """Compares in a time that does not tell where two texts differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
