"""Byte sizes as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from dataguardian.domain.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
MAX_SIZE_BYTES = 2**63 - 1

_UNITS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_PATTERN = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,6})?)\s*([A-Za-z]{0,3})")


def parse_size(text: str) -> int:
    """Returns bytes for `16MiB`, `16M`, `1.5GiB`, `4096`, rounded down; raises UsageError for anything else.

    Zero, and more than a file can have (2^63 - 1), are no sizes.
    """
    match = _PATTERN.fullmatch(text.strip())
    factor = _UNITS.get(match[2].upper()) if match else None
    # Fractions, because a float would round what has more than 53 bits.
    size_bytes = int(Fraction(match[1]) * factor) if match and factor else 0
    if not 0 < size_bytes <= MAX_SIZE_BYTES:
        raise UsageError(f"{text[:40]!r} is not a size", hint="write it like 16MiB, 512KiB or 1GiB", value=text[:40])
    return size_bytes


def format_size(size_bytes: float) -> str:
    """Returns `1.4 GiB`: one decimal place and a binary unit, for people."""
    value = float(size_bytes)
    if abs(value) < KIB - 0.5:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        value /= KIB
        if abs(value) < KIB - 0.05:  # what would be shown as 1024.0 takes the next unit
            return f"{value:.1f} {unit}"
    return f"{value / KIB:.1f} TiB"
