"""Text that must survive JSON in UTF-8, although the names of files on this machine need not be UTF-8."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer


def shown(patterns: Iterable[str]) -> list[str]:
    """Returns patterns as a manifest may hold them: bytes that are not UTF-8 as escapes."""
    return [os.fsencode(pattern).decode("utf-8", "backslashreplace") for pattern in patterns]


def _unicode(text: str) -> str:
    """Refuses surrogates: a manifest is JSON in UTF-8."""
    text.encode()
    return text


def _pattern_from_json(value: object) -> object:
    return os.fsdecode(bytes.fromhex(value["bytes"])) if isinstance(value, dict) else value


def _pattern_to_json(pattern: str) -> object:
    data = os.fsencode(pattern)
    return pattern if _is_utf8(data) else {"bytes": data.hex()}


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _writable(pattern: str) -> str:
    os.fsencode(pattern)
    return pattern


Text = Annotated[str, AfterValidator(_unicode)]
Pattern = Annotated[
    str,
    BeforeValidator(_pattern_from_json),
    AfterValidator(_writable),
    PlainSerializer(_pattern_to_json, when_used="json"),
]
"""Matches file names, whose bytes need not be UTF-8 (surrogate escapes); then it is `{"bytes": "<hex>"}` in JSON."""
