"""Single objects of a backup, with the hash that was recorded of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dataguardian.domain.errors import (
    DamagedPartError,
    DataGuardianError,
    IntegrityError,
    ObjectMissingError,
    StorageError,
)
from dataguardian.storage.base import Storage


def read_object(storages: Sequence[Storage], path: str, size_bytes: int, sha256: str) -> bytes:
    """Returns an object from the first storage that holds it undamaged; raises what was wrong with the first one."""
    first: DataGuardianError | None = None
    for storage in storages:
        try:
            data = storage.get(path, size_bytes)
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
            error: DataGuardianError = DamagedPartError(f"{path} was damaged: its SHA-256 is not the one recorded")
        except ObjectMissingError as missing:
            error = DamagedPartError(f"{path} is missing", path=path)
            error.__cause__ = missing
        except (IntegrityError, StorageError) as other:
            error = other
        first = first or error
    assert first is not None  # noqa: S101 -- there is a storage
    raise first
