"""How users are called."""

from __future__ import annotations

import re

from dataguardian.domain.errors import UsageError

NAME_PATTERN = r"[a-z0-9][a-z0-9._@+-]{0,99}"

_NAME = re.compile(NAME_PATTERN)


def name_of(text: str) -> str:
    """Returns a name as it is stored: in lower case, so that two users never differ in case alone."""
    return text.strip().lower()


def checked_name(text: str) -> str:
    """Raises UsageError for what is no user's name."""
    name = name_of(text)
    if not _NAME.fullmatch(name):
        raise UsageError(
            "a user's name has up to 100 letters a-z, digits and . _ @ + -",
            hint="begin with a letter or a digit, such as anna or anna@example.org",
        )
    return name
