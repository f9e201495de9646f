"""What JSON may hold so that every catalogue can store it: PostgreSQL refuses NUL in text and endless numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

MAX_INTEGER = 2**63 - 1
MAX_DEPTH = 20


def unstorable(value: object) -> str | None:
    """Returns what is wrong with a piece of JSON, or None. Never repeats a value, which may be a secret."""
    return next(_problems(value, 0), None)


def _problems(value: object, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"is nested deeper than {MAX_DEPTH} levels"
    elif isinstance(value, str):
        yield from _text_problems(value)
    elif isinstance(value, float) and not math.isfinite(value):
        yield "holds a number that is not finite"
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        yield "holds a whole number of more than 64 bits"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _problems(key, depth + 1)
            yield from _problems(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _problems(item, depth + 1)


def _text_problems(text: str) -> Iterator[str]:
    if "\x00" in text:
        yield "holds a NUL character, which text cannot have"
    elif not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield "holds half of a surrogate pair, which is no character"


def printable(value: object) -> object:
    """Returns a piece of JSON whose text can be sent: halves of surrogates become question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {str(printable(key)): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item) for item in value]
    return value
