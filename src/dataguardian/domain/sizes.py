"""Byte sizes as people write them."""

from __future__ import annotations

import re

from dataguardian.domain.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = {"": 1, "B": 1, "K": KIB, "KB": 1000, "KIB": KIB, "M": MIB, "MB": 10**6, "MIB": MIB, "G": GIB, "GB": 10**9}
_UNITS |= {"GIB": GIB}
_PATTERN = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})")


def parse_size(text: str) -> int:
    """Returns bytes for `16MiB`, `16M`, `1.5GiB`, `4096`; raises UsageError for anything else."""
    match = _PATTERN.fullmatch(text.strip())
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is not a size", hint="write it like 16MiB, 512KiB or 1GiB", value=text)
    return int(float(match[1]) * factor)


def format_size(size_bytes: float) -> str:
    """Returns `1.4 GiB`: three significant places and a binary unit, for people."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < KIB:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= KIB
    return f"{value:.1f} TiB"
