"""The second factor: codes of an authenticator app (RFC 6238: SHA-1, 30 seconds, six digits), and recovery codes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from datetime import datetime
from urllib.parse import quote, urlencode

from dataguardian.service.access.texts import same

STEP_SECONDS = 30
DIGITS = 6
SECRET_BYTES = 20
RECOVERY_CODES = 10
ISSUER = "DataGuardian"

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is taken for something else
_GROUPS, _GROUP = 4, 4
_AROUND = 1
"""Clocks may differ by one step to either side."""


def new_totp_secret() -> str:
    """Returns a secret in base32, as apps take it."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def uri_of(secret: str, name: str) -> str:
    """Returns what a QR code for an app holds: https://github.com/google/google-authenticator/wiki/Key-Uri-Format."""
    label = quote(f"{ISSUER}:{name}", safe=":")
    return f"otpauth://totp/{label}?{urlencode({'secret': secret, 'issuer': ISSUER})}"


def step_at(moment: datetime) -> int:
    return int(moment.timestamp()) // STEP_SECONDS


def code_of(secret: str, step: int) -> str:
    """Returns the code of a step (RFC 4226, section 5.3)."""
    mac = hmac.digest(base64.b32decode(secret), struct.pack(">Q", step), hashlib.sha1)
    offset = mac[-1] & 0xF
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def matching_step(secret: str, code: str, moment: datetime, last_step: int | None) -> int | None:
    """Returns the step whose code this is; None when it is none, or one that is spent: each opens once."""
    now = step_at(moment)
    steps = range(now - _AROUND, now + _AROUND + 1)
    right = [step for step in steps if same(code_of(secret, step), code)]
    return next((step for step in right if last_step is None or step > last_step), None)


def new_recovery_codes() -> list[str]:
    """Returns codes such as `k7mp-2xqd-9wfa-bc3t`, of about 79 bits each; every one opens once."""
    return ["-".join(_random_group() for _ in range(_GROUPS)) for _ in range(RECOVERY_CODES)]


def plain_code(code: str) -> str:
    """Returns a code as people type it without what they add: spaces, dashes, capitals."""
    return "".join(code.split()).replace("-", "").lower()


def _random_group() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP))
