"""Identifiers: UUID version 7 (RFC 9562), which sort by time, so that a million rows append instead of scatter."""

from __future__ import annotations

import os
import uuid
from datetime import datetime


def new_id(now: datetime) -> uuid.UUID:
    """Returns a UUIDv7 of that moment: 48 bits of milliseconds, version, 74 random bits."""
    milliseconds = int(now.timestamp() * 1000) & ((1 << 48) - 1)
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & ((1 << 62) - 1)
    return uuid.UUID(int=value)
