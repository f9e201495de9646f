"""Which rule of the catalogue a write broke, by the names that both dialects give to their constraints."""

from __future__ import annotations

import re
from enum import Enum, auto

from sqlalchemy.exc import IntegrityError

# SQLite names columns, PostgreSQL the constraint, in whatever language it speaks.
_NAME = re.compile(r"failed: \w+\.name\b|\buq_\w+_name\b")
_DEFAULT = re.compile(r"failed: storage_locations\.is_default\b|\buq_storage_locations_default\b")
_REFERENCE = re.compile(r"FOREIGN KEY constraint failed|\bfk_\w+\b")


class Rule(Enum):
    NAME = auto()
    """A name is given once."""
    DEFAULT = auto()
    """One storage location is the default."""
    REFERENCE = auto()
    """What a row points at is there."""
    OTHER = auto()


def broken_rule(error: IntegrityError) -> Rule:
    text = str(error.orig)
    for rule, pattern in ((Rule.NAME, _NAME), (Rule.DEFAULT, _DEFAULT), (Rule.REFERENCE, _REFERENCE)):
        if pattern.search(text):
            return rule
    return Rule.OTHER
