"""What a put writes to until it is an object, in storages that cannot do without such a name.

A put that is killed leaves it, and no list shows it. So the name tells for which backup it was: whoever removes what an
attempt left finds it, and need not wait until it is old enough to be nobody's.
"""

from __future__ import annotations

import hashlib
import re
import secrets

TEMPORARY_PREFIX = ".dataguardian-tmp-"
TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r"[0-9a-f]{32}")

_DIRECTORY_NAMES = 2
"""A backup's directory is the first two names of a path: its job's and its own."""


def temporary_name(path: str) -> str:
    """Returns a name that no other put has, for the object `path`."""
    return _beginning(path) + secrets.token_hex(8)


def is_temporary_of(name: str, directory: str) -> bool:
    """Tells whether a put of an object of that backup's directory wrote there."""
    return name.startswith(_beginning(directory))


def _beginning(path: str) -> str:
    directory = "/".join(path.split("/")[:_DIRECTORY_NAMES])
    return TEMPORARY_PREFIX + hashlib.sha256(directory.encode("utf-8", "surrogateescape")).hexdigest()[:16]
